"""Data sets, each an image collection of several domains with one or several tasks."""

from __future__ import annotations

from .base import PARTS, DataSet, Sample, TensorSplit
from .domainbed import PACS, VLCS, DomainNet, ImageFolders, OfficeHome, TerraIncognita
from .mnist_domains import ColoredMNIST, RotatedMNIST
from .mtan import MTAN, Cityscapes, NYUv2
from .rotated_digits import RotatedDigits
from .scenes import Scenes, SceneSplit
from .sheet import contact_sheet

__all__ = [
    "MTAN",
    "PACS",
    "PARTS",
    "VLCS",
    "Cityscapes",
    "ColoredMNIST",
    "DataSet",
    "DomainNet",
    "ImageFolders",
    "NYUv2",
    "OfficeHome",
    "RotatedDigits",
    "RotatedMNIST",
    "Sample",
    "SceneSplit",
    "Scenes",
    "TensorSplit",
    "TerraIncognita",
    "contact_sheet",
]
