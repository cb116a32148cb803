"""Targets, predictions and errors as colours: arrays in, (H, W, 3) pictures with values in [0, 1] out."""

from __future__ import annotations

import colorsys
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

# Okabe and Ito's eight; then, each in turn, the colour farthest (in OKLab) from all before it, from white and
# from INVALID, in the worst of normal, protanopic and deuteranopic vision (Machado et al., 2009).
CLASS_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#661100",
    "#332277", "#0000FF", "#884444", "#5588FF", "#2200BB", "#66FFAA", "#DDDDFF", "#005588", "#00CC77",
    "#552244", "#CC22CC",
)  # fmt: skip
INVALID = "#C0C0C0"
RIGHT, WRONG = "#FFFFFF", "#B2182B"


def class_colours(n: int) -> list[str]:
    """``n`` different colours; beyond twenty, the further ones go round the circle of hues."""
    more = [
        matplotlib.colors.to_hex(colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.6, 0.55 + 0.4 * (i % 2)))
        for i in range(n - len(CLASS_COLOURS))
    ]
    return [*CLASS_COLOURS, *more][:n]


def class_picture(classes: Array, n: int) -> Array:
    """Class ids (H, W) in their colours, ids below 0 (ignored) as ``INVALID``."""
    palette = np.array([*map(to_rgb, class_colours(n)), to_rgb(INVALID)])
    return palette[np.where(classes < 0, n, classes)]


def wrong_picture(predicted: Array, classes: Array) -> Array:
    """Class ids (H, W) each: right pixels white, wrong ones red, ignored ones (truth below 0) ``INVALID``."""
    kind = np.where(classes < 0, 2, predicted != classes).astype(np.int64)
    return np.array([to_rgb(RIGHT), to_rgb(WRONG), to_rgb(INVALID)])[kind]


def scaled_picture(values: Array, low: float, high: float, cmap: str) -> Array:
    """Values (H, W) on a colour scale, cut at its ends; values that are not finite as ``INVALID``."""
    finite = np.isfinite(values)
    share = (np.where(finite, values, low).astype(np.float64) - low) / max(high - low, 1e-12)
    colours: Array = matplotlib.colormaps[cmap](share.clip(0, 1))[..., :3]
    colours[~finite] = to_rgb(INVALID)
    return colours


def normals_picture(normals: Array) -> Array:
    """Normals (3, H, W) of any length as (n / ||n|| + 1) / 2 in red, green and blue; zero as ``INVALID``."""
    length = np.linalg.norm(normals, axis=0)
    valid = np.isfinite(length) & (length > 0)
    unit = np.where(valid, normals, 0) / np.where(valid, length, 1)
    picture: Array = np.moveaxis(unit, 0, -1) / 2 + 0.5
    picture[~valid] = to_rgb(INVALID)
    return picture


def depth_error(predicted: Array, depth: Array) -> Array:
    """|difference| of depths (1, H, W) as (H, W), in their unit; NaN where the truth is 0 (invalid)."""
    error: Array = np.where(depth[0] != 0, np.abs(predicted[0] - depth[0]), np.nan)
    return error


def angle_error(predicted: Array, normals: Array) -> Array:
    """Angle in degrees (H, W) between normals (3, H, W) of any length; NaN where the truth is zero."""
    lengths = np.linalg.norm(predicted, axis=0) * np.linalg.norm(normals, axis=0)
    valid = (normals != 0).any(axis=0)
    # A prediction of length zero has no direction: 90 degrees, as in the metric.
    cosines = (predicted * normals).sum(axis=0) / np.where(lengths > 0, lengths, 1)
    error: Array = np.where(valid, np.degrees(np.arccos(cosines.clip(-1, 1))), np.nan)
    return error


def input_picture(image: Array) -> Array:
    """An input (C, H, W) of one or three channels; values outside [0, 1] (a normalised image) are stretched.

    Stretched is the whole range of the image to [0, 1], all channels alike.
    """
    pixels = np.moveaxis(image if len(image) == 3 else image[:1].repeat(3, axis=0), 0, -1).astype(np.float64)
    low, high = min(pixels.min(), 0.0), max(pixels.max(), 1.0)
    stretched: Array = (pixels - low) / (high - low)
    return stretched
