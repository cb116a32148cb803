"""Image classifiers: backbones of torchvision, and DomainBed's network for small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
import torchvision.models as zoo
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.vision_transformer import interpolate_embeddings

from ..core.errors import UsageError
from ..core.registry import register
from .base import MultiTaskModel, Tasks, image_channels
from .weights import attempt, load_weights, read_weights

Dropout = Annotated[float, Field(ge=0, lt=1)]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class Featurizer(nn.Module):
    """A network from images to features (B, F), then dropout.

    Args:
        network: without its classifier.
        channels: C of the images.
        dropout: probability that a feature is dropped in training.
        freeze_bn: BatchNorm stays in evaluation mode, also while the model is trained: its running statistics
            never change, its affine parameters are trained.
        normalize: subtract ImageNet's mean from images in [0, 1], and divide by its standard deviation.

    Raises:
        UsageError: ``normalize`` of images that are not RGB.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, channels: int, dropout: float, freeze_bn: bool, normalize: bool
    ) -> None:
        super().__init__()
        if normalize and channels != 3:
            raise UsageError(
                f"ImageNet's mean is one of RGB images, found {channels} channels", ("normalize",)
            )
        self.network, self.dropout = network, nn.Dropout(dropout)
        self.freeze_bn, self.normalize = freeze_bn, normalize
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        if self.normalize:
            images = (images - self.mean) / self.std
        features: Tensor = self.dropout(self.network(images))
        return features

    def train(self, mode: bool = True) -> Featurizer:
        """Training or evaluation mode for all but a frozen BatchNorm."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class ResNet(MultiTaskModel):
    """What the ResNets share.

    Args:
        tasks: task -> number of outputs.
        input_shape: (C, H, W); default: RGB. Any H and W.
        weights: ``IMAGENET1K_V1`` (that of the published numbers) or another name of torchvision, which
            downloads it; the path of a file with the state dict of torchvision's model; or null for random
            ones.
        dropout: probability that a feature is dropped before the heads.
        freeze_bn: BatchNorm stays in evaluation mode, its affine parameters still train; default: as
            published where the model starts from weights, but not where it starts from random ones.
        normalize: the model normalizes images, which come in [0, 1], by ImageNet's mean and deviation.

    Raises:
        UsageError: no such weights, or weights that do not fit.
    """

    architecture: ClassVar[Callable[..., Any]]
    known: ClassVar[Any]

    def __init__(
        self,
        tasks: Tasks,
        input_shape: tuple[int, ...] | None = None,
        weights: str | None = None,
        dropout: Dropout = 0.0,
        freeze_bn: bool | None = None,
        normalize: bool = False,
    ) -> None:
        channels = image_channels(input_shape)
        state = {} if weights is None else read_weights(weights, self.known)
        network = type(self).architecture()
        if channels != 3:
            network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        n_features, network.fc = network.fc.in_features, nn.Identity()
        if weights is not None:
            load_weights(network, state, weights, ("fc.",))
        frozen = weights is not None if freeze_bn is None else freeze_bn
        trunk = Featurizer(network, channels, dropout, frozen, normalize)
        super().__init__(trunk, linear_heads(n_features, tasks))


@register("model", "resnet18")
class ResNet18(ResNet):
    """torchvision's ResNet-18 and one linear head a task.

    He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016; as in DomainBed, BatchNorm is frozen
    where it starts from weights.
    """

    architecture = staticmethod(zoo.resnet18)
    known = zoo.ResNet18_Weights


@register("model", "resnet50")
class ResNet50(ResNet):
    """torchvision's ResNet-50 and one linear head a task.

    He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016; as in DomainBed, BatchNorm is frozen
    where it starts from weights.
    """

    architecture = staticmethod(zoo.resnet50)
    known = zoo.ResNet50_Weights


@register("model", "vit_b_16")
class ViTB16(MultiTaskModel):
    """torchvision's ViT-B/16 (its class token) and one linear head a task.

    Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021. The positions in weights made for
    images of another size are interpolated.

    Args:
        tasks: task -> number of outputs.
        input_shape: (3, S, S), S a multiple of 16; default: S = 224.
        weights: ``IMAGENET1K_V1`` or another name of torchvision, which downloads it; the path of a file with
            the state dict of torchvision's ``vit_b_16``; or null for random ones.
        dropout: probability that a feature is dropped before the heads.
        normalize: the model normalizes images, which come in [0, 1], by ImageNet's mean and deviation.

    Raises:
        UsageError: images of another shape; no such weights, or weights that do not fit.
    """

    def __init__(
        self,
        tasks: Tasks,
        input_shape: tuple[int, ...] | None = None,
        weights: str | None = None,
        dropout: Dropout = 0.0,
        normalize: bool = False,
    ) -> None:
        size = _side(input_shape or (3, 224, 224))
        state = {} if weights is None else read_weights(weights, zoo.ViT_B_16_Weights)
        network = zoo.vit_b_16(image_size=size)
        network.heads = nn.Identity()
        if weights is not None:
            if isinstance(state.get("encoder.pos_embedding"), Tensor):
                state = attempt(weights, lambda: interpolate_embeddings(size, 16, state))
            load_weights(network, state, weights, ("heads.",))
        trunk = Featurizer(network, 3, dropout, freeze_bn=False, normalize=normalize)
        super().__init__(trunk, linear_heads(network.hidden_dim, tasks))


@register("model", "mnist_cnn")
class MNISTConvNet(MultiTaskModel):
    """DomainBed's convolutional network for 28 x 28 images and one linear head a task.

    Four 3x3 convolutions (64, 128 with stride 2, 128, 128 channels), each followed by ReLU and GroupNorm of 8
    groups; then the mean over the pixels.

    Source: DomainBed (Gulrajani and Lopez-Paz, ICLR 2021), appendix D.1.

    Args:
        tasks: task -> number of outputs.
        input_shape: (C, H, W).
    """

    def __init__(self, tasks: Tasks, input_shape: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        before = image_channels(input_shape)
        for channels, stride in ((64, 1), (128, 2), (128, 1), (128, 1)):
            layers += [
                nn.Conv2d(before, channels, 3, stride, padding=1),
                nn.ReLU(),
                nn.GroupNorm(8, channels),
            ]
            before = channels
        trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(trunk, linear_heads(before, tasks))


def linear_heads(n_features: int, tasks: dict[str, int]) -> dict[str, nn.Module]:
    """One linear layer a task."""
    return {task: nn.Linear(n_features, n) for task, n in tasks.items()}


def _side(input_shape: tuple[int, ...]) -> int:
    if (
        len(input_shape) != 3
        or input_shape[0] != 3
        or input_shape[1] != input_shape[2]
        or input_shape[1] % 16
    ):
        raise UsageError(f"vit_b_16 reads images (3, S, S), S a multiple of 16; found {tuple(input_shape)}")
    return input_shape[1]
