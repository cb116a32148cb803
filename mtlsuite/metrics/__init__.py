"""What is measured: the quality of each task's predictions, and summaries over tasks and methods."""

from __future__ import annotations

from .accuracy import Accuracy
from .base import TaskMetric
from .delta_m import delta_m, mean_rank
from .depth import Depth
from .normals import Normals
from .segmentation import Segmentation

__all__ = ["Accuracy", "Depth", "Normals", "Segmentation", "TaskMetric", "delta_m", "mean_rank"]
