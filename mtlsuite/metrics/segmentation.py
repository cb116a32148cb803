"""Semantic segmentation: intersection over union and pixel accuracy."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.registry import register
from ..core.types import Count
from .base import TaskMetric, check_labels, check_shape, named

IGNORE = -1


@register("metric", "segmentation")
class Segmentation(TaskMetric):
    """Mean intersection over union and pixel accuracy, from one confusion matrix over the whole evaluation.

    ``update(prediction, target)``: logits or log-probabilities (B, C, H, W), labels (B, H, W) in 0..C-1 or
    -1 = ignore. ``compute()``: ``miou``, the mean over the classes that occur in a prediction or a target on
    valid pixels (the MTAN lineage's code gives NaN as soon as one class does not occur: a deliberate
    deviation), and ``pixel_accuracy``.

    Args:
        n_classes: C.
        averaging: without effect; one confusion matrix is what both published conventions use here.

    Raises:
        UsageError: other shapes, or a label out of range.
    """

    higher_is_better_by: ClassVar[dict[str, bool]] = {"miou": True, "pixel_accuracy": True}
    confusion: Tensor

    def __init__(self, n_classes: Count, averaging: Literal["batch", "pixel"] = "batch") -> None:
        super().__init__()
        self.n_classes = n_classes
        self.averaging = averaging
        self.add_sum("confusion", n_classes, n_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        check_shape("segmentation", "prediction", prediction, ("B", self.n_classes, "H", "W"))
        labels = _checked(prediction, target)
        valid = labels != IGNORE
        pairs = labels[valid] * self.n_classes + prediction.argmax(dim=1)[valid]
        self.confusion += pairs.bincount(minlength=self.n_classes**2).view_as(self.confusion)

    def compute(self) -> dict[str, Tensor]:
        confusion = self.confusion.double()
        hits = confusion.diagonal()
        unions = confusion.sum(dim=0) + confusion.sum(dim=1) - hits
        miou = (hits / unions).nanmean()  # 0 / 0 where a class does not occur
        return named(self.higher_is_better_by, (miou, hits.sum() / confusion.sum()))

    @staticmethod
    def count(target: Tensor) -> Tensor:
        """The number of pixels with a label."""
        return (target != IGNORE).sum()

    @staticmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood, mean over the pixels with a label other than -1.

        The log-softmax is applied here; it leaves log-probabilities as they are.
        """
        labels = _checked(prediction, target)
        log_probabilities = F.log_softmax(prediction, dim=1)
        total = F.nll_loss(log_probabilities, labels, ignore_index=IGNORE, reduction="sum")
        return total / (labels != IGNORE).sum().clamp(min=1)


def _checked(prediction: Tensor, target: Tensor) -> Tensor:
    check_shape("segmentation", "prediction", prediction, ("B", "C", "H", "W"))
    size, channels, height, width = prediction.shape
    check_shape("segmentation", "target", target, (size, height, width))
    return check_labels("segmentation", target, IGNORE, channels)
