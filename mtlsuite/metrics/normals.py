"""Surface normals: the angle between prediction and truth."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.utilities import dim_zero_cat

from ..core.registry import register
from .base import Averaging, TaskMetric, batch_or_pixel, check_shape, named

THRESHOLDS = (11.25, 22.5, 30.0)  # degrees


@register("metric", "normals")
class Normals(TaskMetric):
    """Angle between predicted and true normals on valid pixels: mean, median, and shares below thresholds.

    ``update(prediction, target)``: both (B, 3, H, W); predictions of any length (they are normalised here),
    targets of unit length, the zero vector = invalid. ``compute()``: ``angle_mean`` and ``angle_median`` in
    degrees, ``within_11``, ``within_22`` and ``within_30``, the shares below 11.25, 22.5 and 30 degrees.

    Args:
        averaging: ``batch``, the published protocol of the MTAN lineage: each quantity of each batch, then
            the plain mean over batches, those without a valid pixel left out, so that values depend on the
            batch size and the median is a mean of medians; ``pixel``, LibMTL's: over all valid pixels, whose
            angles (4 bytes each) are kept for the median.

    Raises:
        UsageError: other shapes.
    """

    higher_is_better_by: ClassVar[dict[str, bool]] = {
        "angle_mean": False,
        "angle_median": False,
        "within_11": True,
        "within_22": True,
        "within_30": True,
    }
    depends_on_averaging: ClassVar[bool] = True
    total: Tensor
    weight: Tensor
    medians: Tensor
    angles: list[Tensor]

    def __init__(self, averaging: Averaging = "batch") -> None:
        super().__init__()
        self.averaging: Averaging = averaging
        self.add_sum("total", 1 + len(THRESHOLDS))
        self.add_sum("weight")
        self.add_sum("medians")
        self.add_state("angles", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        cosines, valid = _cosines(prediction, target)
        angles = cosines[valid].clamp(-1, 1).acos().rad2deg()
        within = [(angles < threshold).sum() for threshold in THRESHOLDS]
        sums = torch.stack([angles.sum(dtype=torch.float64), *within])
        total, weight = batch_or_pixel(self.averaging, sums, valid.sum())
        self.total += total
        self.weight += weight
        if self.averaging == "pixel":
            self.angles.append(angles)
        elif len(angles):
            self.medians += _median(angles)

    def compute(self) -> dict[str, Tensor]:
        mean, *within = self.total / self.weight
        if self.averaging == "batch":
            median = self.medians / self.weight
        else:
            median = _median(dim_zero_cat(self.angles) if len(self.angles) else self.total[:0])
        return named(self.higher_is_better_by, (mean, median, *within))

    @staticmethod
    def count(target: Tensor) -> Tensor:
        """The number of pixels with a normal."""
        return (target != 0).any(dim=1).sum()

    @staticmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """1 - mean over valid pixels of <p / ||p||, g>."""
        cosines, valid = _cosines(prediction, target)
        return ((1 - cosines) * valid).sum() / valid.sum().clamp(min=1)


def _cosines(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W) each: the cosines, in the target's dtype, and where they mean something."""
    check_shape("normals", "prediction", prediction, ("B", 3, "H", "W"))
    check_shape("normals", "target", target, tuple(prediction.shape))
    cosines = (F.normalize(prediction.to(target.dtype), dim=1) * target).sum(dim=1)
    return cosines, (target != 0).any(dim=1)


def _median(angles: Tensor) -> Tensor:
    """The middle value, or the mean of the two middle values, in float64; NaN if there is none."""
    if len(angles) == 0:
        return torch.full((), torch.nan, dtype=torch.float64, device=angles.device)
    ordered = angles.sort().values
    return (ordered[(len(angles) - 1) // 2].double() + ordered[len(angles) // 2].double()) / 2
