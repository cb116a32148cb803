"""Accuracy and cross-entropy against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.metrics import Accuracy


def test_share_of_right_answers_over_unequal_batches() -> None:
    random = np.random.default_rng(0)
    metric = Accuracy()
    right = []
    for size in (5, 1, 12):
        logits, labels = random.standard_normal((size, 4)), random.integers(0, 4, size)
        metric.update(torch.from_numpy(logits), torch.from_numpy(labels))
        right.extend(np.argmax(logits, axis=1) == labels)
    assert metric.compute()["accuracy"].item() == pytest.approx(np.mean(right), rel=1e-12)
    metric.reset()
    metric.update(torch.eye(3), torch.arange(3))
    assert metric.compute() == {"accuracy": 1.0}


def test_loss_is_cross_entropy() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.standard_normal((7, 5)), random.integers(0, 5, 7)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(7), labels])
    assert Accuracy.loss(torch.from_numpy(logits), torch.from_numpy(labels)).item() == pytest.approx(expected)


def test_built_by_the_name_of_the_task_without_context_it_does_not_ask_for() -> None:
    metric = build("metric", "class", n_classes=10)
    assert isinstance(metric, Accuracy)
    assert set(metric.higher_is_better_by) == set(Accuracy.higher_is_better_by) == {"accuracy"}
    with pytest.raises(UsageError, match="averaging"):
        build("metric", {"name": "class", "averaging": "pixel"})


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (
            torch.ones(2, 3, 4),
            torch.zeros(2).long(),
            r"prediction has the shape \(2, 3, 4\), allowed is \(B, C\)",
        ),
        (torch.ones(2, 3), torch.zeros(3).long(), r"target has the shape \(3,\), allowed is \(2\)"),
        (torch.ones(2, 3), torch.tensor([0, 3]), "labels from 0 to 3, allowed are 0 to 2"),
        (torch.ones(2, 3), torch.tensor([-1, 2]), "labels from -1 to 2, allowed are 0 to 2"),
        (torch.ones(2, 3), torch.tensor([0.5, 2]), "no whole numbers"),
    ],
)
def test_bad_tensors_are_usage_errors(prediction: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Accuracy().update(prediction, target)
    with pytest.raises(UsageError, match=message):
        Accuracy.loss(prediction, target)
