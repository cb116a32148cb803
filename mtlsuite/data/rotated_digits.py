"""Rotated handwritten digits: scikit-learn's 1,797 real 8 x 8 digits, shared out among six rotations.

The construction is that of RotatedMNIST (Ghifary et al., ICCV 2015; DomainBed's variant, in which each
image is in exactly one domain). Nothing is downloaded: the images come with scikit-learn.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize, rotate

from ..core.registry import register
from .base import DataSet, TensorSplit

ANGLES = (0, 15, 30, 45, 60, 75)


@register("dataset", "rotated_digits")
class RotatedDigits(DataSet):
    """Ten classes of digits in six domains, ``"0"`` to ``"75"``: degrees of anticlockwise rotation.

    Args:
        size: height and width in pixels; the 8 x 8 originals are enlarged bilinearly before they are
            rotated.
        seed: of the shuffle that shares the images out among the domains and parts.
        holdout: part of each domain that is ``val`` (rounded to whole images); the rest is ``train``.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=8)] = 16,
        seed: Annotated[int, Field(ge=0)] = 0,
        holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ) -> None:
        self.domains = tuple(str(angle) for angle in ANGLES)
        self.tasks = {"class": 10}
        self.input_shape = (1, size, size)
        self.classes = tuple(str(digit) for digit in range(10))
        self.seed, self.holdout = seed, holdout

    def split(self, domain: str, part: str) -> TensorSplit:
        self.check(domain, part)
        images, labels = _digits()
        order = np.random.default_rng(self.seed).permutation(len(images))
        mine = np.array_split(order, len(ANGLES))[self.domains.index(domain)]
        n_val = min(max(round(self.holdout * len(mine)), 1), len(mine) - 1)
        rows = torch.from_numpy({"train": mine[n_val:], "val": mine[:n_val], "all": mine}[part])
        return TensorSplit(self._turned(images[rows], int(domain)), {"class": labels[rows]})

    def _turned(self, images: Tensor, angle: int) -> Tensor:
        bilinear = InterpolationMode.BILINEAR
        large: Tensor = resize(images, list(self.input_shape[1:]), interpolation=bilinear)
        turned: Tensor = rotate(large, angle, interpolation=bilinear)
        return turned


def _digits() -> tuple[Tensor, Tensor]:
    """All images (1797, 1, 8, 8) in [0, 1] and labels (1797,) int64."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    return images, torch.from_numpy(digits.target).long()
