"""Random scale-crop and flip of an image with its dense targets, as published for NYUv2 and Cityscapes.

The protocol is that of the MTAN code (Liu et al., CVPR 2019) as the Nash-MTL lineage runs it: a scale s from
{1.0, 1.2, 1.5}, a random crop of int(H / s) x int(W / s), resized back to H x W, depth divided by s, then a
horizontal flip with probability 1/2, which negates the x component of the normals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Sample

SCALES = (1.0, 1.2, 1.5)
_SMOOTH = ("image", "normals")  # resized bilinearly; the rest keeps the value of the nearest pixel


@dataclass(frozen=True)
class Crop:
    """Which window of an image is enlarged to the full size, and whether it is then mirrored.

    Attributes:
        scale: s, one of ``SCALES``.
        top, left, height, width: of the window, in pixels.
        flip: left and right change places.
    """

    scale: float
    top: int
    left: int
    height: int
    width: int
    flip: bool

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the window."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def draw_crop(height: int, width: int, generator: torch.Generator) -> Crop:
    """A random crop of an image of ``height`` x ``width`` pixels; all draws come from ``generator``."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    scale = SCALES[below(len(SCALES))]
    h, w = max(int(height / scale), 1), max(int(width / scale), 1)
    return Crop(scale, below(height - h + 1), below(width - w + 1), h, w, below(2) == 1)


def enlarged(sample: Sample, crop: Crop, size: tuple[int, int]) -> Sample:
    """A sample that shows the window of ``crop``, brought to the full ``size`` and flipped where it says so.

    Image and normals are resized bilinearly with ``align_corners=True``; segmentation and depth take the
    nearest pixel. As in the reference, normals are not brought back to unit length, and a pixel that mixes
    valid normals with invalid ones (zero vectors) counts as valid, with a shorter vector.

    Args:
        sample: image (3, h, w) and targets of the window alone, h x w being the crop's.
        size: (H, W).
    """
    image, targets = sample
    image = _resized("image", image, size)
    targets = {task: _resized(task, target, size) for task, target in targets.items()}
    if "depth" in targets:
        targets["depth"] /= crop.scale
    if crop.flip:
        image = image.flip(-1)
        targets = {task: target.flip(-1) for task, target in targets.items()}
        if "normals" in targets:
            targets["normals"][0].neg_()
    return image, targets


def _resized(kind: str, values: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, h, w) or (h, w) at another size; class ids pass through float32, which holds them exactly."""
    batch = values[None] if values.ndim == 3 else values[None, None]
    if kind in _SMOOTH:
        large = F.interpolate(batch, size, mode="bilinear", align_corners=True)
    else:
        large = F.interpolate(batch.float(), size, mode="nearest")
    return large.reshape(*values.shape[:-2], *size).to(values.dtype)
