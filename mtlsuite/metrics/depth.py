"""Depth estimation: absolute and relative error."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..core.registry import register
from .base import Averaging, TaskMetric, batch_or_pixel, check_shape, named


@register("metric", "depth")
class Depth(TaskMetric):
    """Mean absolute error |p - g|, in the target's unit, and mean relative error |p - g| / g on valid pixels.

    ``update(prediction, target)``: both (B, 1, H, W), target 0 = invalid. ``compute()``: ``abs_err`` and
    ``rel_err``.

    Args:
        averaging: ``batch``, the published protocol of the MTAN lineage: the mean of each batch, then the
            plain mean over batches, those without a valid pixel left out, so that values depend on the batch
            size; ``pixel``, LibMTL's: the mean over all valid pixels.

    Raises:
        UsageError: other shapes.
    """

    higher_is_better_by: ClassVar[dict[str, bool]] = {"abs_err": False, "rel_err": False}
    depends_on_averaging: ClassVar[bool] = True
    total: Tensor
    weight: Tensor

    def __init__(self, averaging: Averaging = "batch") -> None:
        super().__init__()
        self.averaging: Averaging = averaging
        self.add_sum("total", 2)
        self.add_sum("weight")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        valid = _valid(prediction, target)
        truth = target[valid].double()
        errors = (prediction[valid].double() - truth).abs()
        sums = torch.stack([errors.sum(), (errors / truth).sum()])
        total, weight = batch_or_pixel(self.averaging, sums, valid.sum())
        self.total += total
        self.weight += weight

    def compute(self) -> dict[str, Tensor]:
        return named(self.higher_is_better_by, self.total / self.weight)

    @staticmethod
    def count(target: Tensor) -> Tensor:
        """The number of pixels with a depth."""
        return (target != 0).sum()

    @staticmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """Mean absolute error over valid pixels."""
        valid = _valid(prediction, target)
        return ((prediction - target).abs() * valid).sum() / valid.sum().clamp(min=1)


def _valid(prediction: Tensor, target: Tensor) -> Tensor:
    check_shape("depth", "prediction", prediction, ("B", 1, "H", "W"))
    check_shape("depth", "target", target, tuple(prediction.shape))
    return target != 0
