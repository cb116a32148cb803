"""DomainBed's transforms of an image, for training and for evaluation.

Training: a random crop of 70 to 100 % of the area, 3:4 to 4:3, resized to S x S; a horizontal flip with
probability 1/2; brightness, contrast, saturation and hue jittered by up to 0.3, in random order; greyscale
with probability 1/10. Evaluation: resized to S x S, whatever the shape. Both: scaled to [0, 1], then, where
asked for, normalized by the mean and standard deviation of ImageNet.

The random transforms of torchvision.transforms.v2 take their numbers from the generator of the whole process,
which a thread that reads ahead must leave alone. So the numbers are drawn here, from a generator that is
handed in, and the functions of v2 do the rest; seeded alike, image and result are those of the v2 classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AREA = (0.7, 1.0)
ASPECT = (3 / 4, 4 / 3)
JITTER = 0.3
FLIP = 0.5
GREY = 0.1

_ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


@dataclass(frozen=True)
class Augmentation:
    """What the random transforms have drawn for one image.

    Attributes:
        top, left, height, width: of the crop, in pixels.
        flip: left and right change places.
        order: of the four adjustments, by their place in ``factors``.
        factors: of brightness, contrast and saturation (1 = as it was); shift of hue (0 = as it was).
        grey: without colours.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    order: tuple[int, ...]
    factors: tuple[float, ...]
    grey: bool


def draw_augmentation(height: int, width: int, generator: torch.Generator) -> Augmentation:
    """A random augmentation of an image of ``height`` x ``width`` pixels, drawn from ``generator`` alone.

    The draws and their order are those of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter
    and RandomGrayscale.
    """
    window = _draw_crop(height, width, generator)
    flip = _draw_uniform(0, 1, generator) < FLIP
    order = tuple(torch.randperm(len(_ADJUST), generator=generator).tolist())
    centers = (1, 1, 1, 0)
    factors = tuple(_draw_uniform(center - JITTER, center + JITTER, generator) for center in centers)
    grey = _draw_uniform(0, 1, generator) < GREY
    return Augmentation(*window, flip, order, factors, grey)


def augmented(image: Image.Image, draws: Augmentation, size: int) -> Image.Image:
    """An RGB image under an augmentation, ``size`` x ``size`` pixels."""
    window = (draws.top, draws.left, draws.height, draws.width)
    result: Image.Image = F.resized_crop(image, *window, size=[size, size])
    if draws.flip:
        result = F.horizontal_flip(result)
    for i in draws.order:
        result = _ADJUST[i](result, draws.factors[i])
    return F.rgb_to_grayscale(result, num_output_channels=3) if draws.grey else result


def resized(image: Image.Image, size: int) -> Image.Image:
    """An RGB image as it is evaluated: ``size`` x ``size`` pixels."""
    result: Image.Image = F.resize(image, [size, size])
    return result


def to_tensor(image: Image.Image, normalize: bool) -> Tensor:
    """An RGB image as float32 (3, H, W): in [0, 1], or normalized by ImageNet's mean and deviation."""
    pixels: Tensor = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    return F.normalize(pixels, IMAGENET_MEAN, IMAGENET_STD, inplace=True) if normalize else pixels


def to_pixels(image: Tensor, normalize: bool) -> Tensor:
    """What ``to_tensor`` was given, (3, H, W) in [0, 1]."""
    if not normalize:
        return image
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image * std + mean).clamp(0, 1)


def _draw_crop(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width; the largest allowed one in the middle after ten that do not fit."""
    for _ in range(10):
        area = height * width * _draw_uniform(*AREA, generator)
        # In float32, as torchvision does: the rounded sides depend on it.
        low, high = torch.log(torch.tensor(ASPECT)).tolist()
        aspect = float(torch.exp(torch.empty(1).uniform_(low, high, generator=generator)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (1,), generator=generator))
            left = int(torch.randint(width - w + 1, (1,), generator=generator))
            return top, left, h, w
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def _draw_uniform(low: float, high: float, generator: torch.Generator) -> float:
    return float(torch.empty(1).uniform_(low, high, generator=generator))
