"""Featurizers and classifiers."""

import torch
from torch import nn


class Featurizer(nn.Module):
    """One hidden layer; with ``freeze_bn`` BatchNorm that stays in evaluation mode."""

    def __init__(self, input_shape, hparams):
        super().__init__()
        self.n_outputs = 8
        self.frozen = hparams["freeze_bn"]
        self.hidden = nn.Linear(torch.Size(input_shape).numel(), self.n_outputs)
        self.norm = nn.BatchNorm1d(self.n_outputs) if self.frozen else nn.Identity()

    def forward(self, x):
        return torch.relu(self.norm(self.hidden(x.flatten(1))))

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.norm.eval()
        return self


def Classifier(in_features, out_features, is_nonlinear=False):  # noqa: N802
    if is_nonlinear:
        return nn.Sequential(
            nn.Linear(in_features, in_features // 2), nn.ReLU(), nn.Linear(in_features // 2, out_features)
        )
    return nn.Linear(in_features, out_features)
