"""Image classification: the share of right answers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.registry import register
from .base import TaskMetric, check_labels, check_shape


@register("metric", "class")
class Accuracy(TaskMetric):
    """Share of samples whose largest logit is that of the target.

    ``update(prediction, target)``: logits (B, C), labels (B,) in 0..C-1. ``compute()``: ``accuracy``.

    Raises:
        UsageError: other shapes, or a label out of range.
    """

    higher_is_better_by: ClassVar[dict[str, bool]] = {"accuracy": True}
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("correct", dtype=torch.int64)
        self.add_sum("total", dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        labels = _checked(prediction, target)
        self.correct += (prediction.argmax(dim=1) == labels).sum()
        self.total += len(labels)

    def compute(self) -> dict[str, Tensor]:
        return {"accuracy": self.correct.double() / self.total}

    @staticmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, mean over the batch."""
        labels = _checked(prediction, target)
        return F.cross_entropy(prediction, labels, reduction="sum") / max(len(labels), 1)


def _checked(prediction: Tensor, target: Tensor) -> Tensor:
    check_shape("class", "prediction", prediction, ("B", "C"))
    check_shape("class", "target", target, (len(prediction),))
    return check_labels("class", target, 0, prediction.shape[1])
