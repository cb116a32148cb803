"""Small classifiers for small images."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ..core.registry import register
from ..core.types import Count
from .base import MultiTaskModel

Norm = Literal["batch", "group", "none"]
Widths = Annotated[list[Count], Field(min_length=1)]


def normalization(norm: Norm, channels: int) -> nn.Module:
    """BatchNorm, GroupNorm (of up to 8 groups) or nothing, for (B, channels, H, W)."""
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)


def conv_block(inputs: int, outputs: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, normalization, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=norm == "none")
    return nn.Sequential(convolution, normalization(norm, outputs), nn.ReLU())


@register("model", "mlp")
class MLP(MultiTaskModel):
    """Fully connected ReLU network: ``depth`` hidden layers of ``width`` units and one linear head a task.

    Args:
        tasks: task -> number of outputs.
        input_shape: (C, H, W).
        width: units of a hidden layer.
        depth: number of hidden layers.
    """

    def __init__(
        self, tasks: dict[str, int], input_shape: tuple[int, ...], width: Count = 64, depth: Count = 2
    ) -> None:
        n_inputs = 1
        for size in input_shape:
            n_inputs *= size
        sizes = [n_inputs] + [width] * depth
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), {task: nn.Linear(width, n) for task, n in tasks.items()})


@register("model", "convnet")
class ConvNet(MultiTaskModel):
    """Small convolutional classifier: conv blocks of ``widths``, all but the first with stride 2, then a mean
    over the pixels and one linear head a task.

    Args:
        tasks: task -> number of outputs.
        input_shape: (C, H, W).
        widths: channels of the blocks.
        norm: normalization after each convolution.
    """

    def __init__(
        self,
        tasks: dict[str, int],
        input_shape: tuple[int, ...],
        widths: Widths = [32, 64, 64],  # noqa: B006  (never changed; the schema shows it)
        norm: Norm = "group",
    ) -> None:
        sizes = [input_shape[0], *widths]
        blocks = [
            conv_block(before, after, norm, stride=1 if i == 0 else 2)
            for i, (before, after) in enumerate(pairwise(sizes))
        ]
        trunk = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(trunk, {task: nn.Linear(sizes[-1], n) for task, n in tasks.items()})
