"""Data sets, each an image collection of several domains with one or several tasks."""

from __future__ import annotations

from .base import PARTS, DataSet, Sample, TensorSplit
from .mtan import MTAN, Cityscapes, NYUv2
from .rotated_digits import RotatedDigits
from .scenes import Scenes, SceneSplit
from .sheet import contact_sheet

__all__ = [
    "MTAN",
    "PARTS",
    "Cityscapes",
    "DataSet",
    "NYUv2",
    "RotatedDigits",
    "Sample",
    "SceneSplit",
    "Scenes",
    "TensorSplit",
    "contact_sheet",
]
