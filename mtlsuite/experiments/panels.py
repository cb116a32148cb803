"""Pictures of predictions: input, truth, and prediction over error of several methods side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .comparison import Array, Comparison
from .keys import Bar, Directions, Key, Swatches, draw_keys, keys_height
from .pictures import (
    INVALID,
    RIGHT,
    WRONG,
    angle_error,
    class_colours,
    class_picture,
    depth_error,
    input_picture,
    normals_picture,
    scaled_picture,
    wrong_picture,
)
from .style import WIDTH, plain, wrapped

MOST = 5  # methods on a page
_LEFT, _MIDDLE, _RIGHT = 0.36, 0.2, 0.04  # inches: left of the inputs, left of the predictions, right
_GAP, _BLOCK_GAP, _LINE = 0.04, 0.14, 0.125  # inches: between pictures, between samples, a line of a title
_WIDEST, _HIGHEST = 1.5, 1.2  # inches: a picture
_TITLE = 7.5  # points
_PALE = "#555555"
ERROR_MAP = "magma_r"  # no error is nearly white, as are right pixels


@dataclass(frozen=True)
class TaskPictures:
    """What is shown of a task on N images, as pictures (H, W, 3).

    Attributes:
        truth: N pictures.
        predictions: label -> N pictures.
        errors: label -> N pictures.
        keys: what the colours mean.
    """

    truth: list[Array]
    predictions: dict[str, list[Array]]
    errors: dict[str, list[Array]]
    keys: tuple[Key, ...]


def task_pictures(comparison: Comparison, task: str) -> TaskPictures:
    """The pictures of a dense task; colour scales are shared by all images and methods."""
    return DENSE[task](comparison)


def prediction_pages(comparison: Comparison, task: str) -> list[Figure]:
    """The pictures of a task with at most ``MOST`` methods on a page, equally many as far as possible."""
    shown = task_pictures(comparison, task)
    labels = list(shown.predictions)
    pages = -(-len(labels) // MOST)
    bounds = [len(labels) * page // pages for page in range(pages + 1)]
    return [_page(comparison, shown, labels[start:end]) for start, end in itertools.pairwise(bounds)]


def _segmentation(comparison: Comparison) -> TaskPictures:
    truth = comparison.targets["segmentation"]
    n = comparison.channels["segmentation"]
    names = comparison.classes if len(comparison.classes) == n else [f"class {i}" for i in range(n)]
    predicted = {
        label: [scores.argmax(axis=0) for scores in found]
        for label, found in comparison.predictions["segmentation"].items()
    }
    entries = [*zip(names, class_colours(n), strict=True), ("no label", INVALID)]
    return TaskPictures(
        [class_picture(classes, n) for classes in truth],
        {label: [class_picture(classes, n) for classes in found] for label, found in predicted.items()},
        _each(predicted, truth, wrong_picture),
        (Swatches("", tuple(entries)), Swatches("error:", (("right", RIGHT), ("wrong", WRONG)))),
    )


def _depth(comparison: Comparison) -> TaskPictures:
    truth = [np.where(depth[0] != 0, depth[0], np.nan) for depth in comparison.targets["depth"]]
    predicted = comparison.predictions["depth"]
    errors = _each(predicted, comparison.targets["depth"], depth_error)
    name, unit = ("inverse depth", "") if comparison.inverse_depth else ("depth (m)", " (m)")
    cmap = "viridis" if comparison.inverse_depth else "viridis_r"  # near is bright
    low, high = _range(truth, 1, 99)
    _, worst = _range([error for found in errors.values() for error in found], 0, 95)
    return TaskPictures(
        [scaled_picture(depth, low, high, cmap) for depth in truth],
        {
            label: [scaled_picture(depth[0], low, high, cmap) for depth in found]
            for label, found in predicted.items()
        },
        _scaled(errors, worst),
        (
            Bar(name, low, high, cmap, "both"),
            Bar(f"error: |prediction \N{MINUS SIGN} truth|{unit}", 0.0, worst, ERROR_MAP, "max"),
            Swatches("", (("no measurement", INVALID),)),
        ),
    )


def _normals(comparison: Comparison) -> TaskPictures:
    truth, predicted = comparison.targets["normals"], comparison.predictions["normals"]
    errors = _each(predicted, truth, angle_error)
    _, worst = _range([error for found in errors.values() for error in found], 0, 95)
    towards = float(sum(normals[2].sum() for normals in truth)) >= 0
    return TaskPictures(
        [normals_picture(normals) for normals in truth],
        {label: [normals_picture(normals) for normals in found] for label, found in predicted.items()},
        _scaled(errors, worst),
        (
            Directions(towards),
            Bar("error: angle (degrees)", 0.0, worst, ERROR_MAP, "max"),
            Swatches("", (("no normal", INVALID),)),
        ),
    )


DENSE: dict[str, Callable[[Comparison], TaskPictures]] = {
    "segmentation": _segmentation,
    "depth": _depth,
    "normals": _normals,
}


def _each(
    predicted: dict[str, list[Array]], truth: list[Array], error: Callable[[Array, Array], Array]
) -> dict[str, list[Array]]:
    return {
        label: [error(p, t) for p, t in zip(found, truth, strict=True)] for label, found in predicted.items()
    }


def _scaled(errors: dict[str, list[Array]], worst: float) -> dict[str, list[Array]]:
    return {
        label: [scaled_picture(error, 0.0, worst, ERROR_MAP) for error in found]
        for label, found in errors.items()
    }


def _range(values: Sequence[Array], low: float, high: float) -> tuple[float, float]:
    """Two percentiles of all finite values; (0, 1) where there are none."""
    finite = np.concatenate([array[np.isfinite(array)].ravel() for array in values])
    if not len(finite):
        return 0.0, 1.0
    least, most = (float(bound) for bound in np.percentile(finite, [low, high]))
    return least, most if most > least else least + 1.0


@dataclass(frozen=True)
class _Sheet:
    """A figure laid out by hand, in inches from the upper left corner: the pictures decide the rest."""

    figure: Figure
    tile: tuple[float, float]  # width and height of a picture

    def picture(self, picture: Array, x: float, y: float) -> None:
        (width, height), (w, h) = self.figure.get_size_inches(), self.tile
        ax = self.figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
        ax.imshow(picture, interpolation="none", aspect="auto")
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set(visible=True, linewidth=0.4, color="#777777")

    def write(self, x: float, y: float, text: str, **how: Any) -> None:
        width, height = self.figure.get_size_inches()
        self.figure.text(x / width, 1 - y / height, text, **{"fontsize": 7, "ha": "center", **how})

    def sideways(self, x: float, y: float, text: str, **how: Any) -> None:
        self.write(x, y, text, rotation=90, va="center", **how)


def _page(comparison: Comparison, shown: TaskPictures, labels: Sequence[str]) -> Figure:
    """A block of two rows an image: input over truth, then a column a method, prediction over error."""
    columns = 1 + len(labels)
    margins = _LEFT + _MIDDLE + _RIGHT + _GAP * (columns - 2)
    shape = comparison.inputs[0].shape
    width = min((WIDTH - margins) / columns, _WIDEST, _HIGHEST * shape[2] / shape[1])
    height = width * shape[1] / shape[2]
    titles = [wrapped(label, int(width * 72 / (_TITLE * 0.58))) for label in labels]
    top = 0.08 + _LINE * max(title.count("\n") + 1 for title in titles)
    block = 2 * height + _GAP + _BLOCK_GAP
    bottom = top + block * len(comparison.places)
    page = bottom + keys_height(shown.keys, WIDTH) + 0.18
    sheet = _Sheet(Figure(figsize=(WIDTH, page)), (width, height))
    left = (WIDTH - margins - columns * width) / 2 + _LEFT
    xs = [left + width + _MIDDLE + i * (width + _GAP) for i in range(len(labels))]
    for x, title in zip(xs, titles, strict=True):
        sheet.write(x + width / 2, top - 0.04, title, fontsize=_TITLE, va="bottom", linespacing=1.1)
    for i, (domain, number) in enumerate(comparison.places):
        y = top + i * block
        middles = (y + height / 2, y + height + _GAP + height / 2)
        sheet.picture(input_picture(comparison.inputs[i]), left, y)
        sheet.picture(shown.truth[i], left, y + height + _GAP)
        for x, label in zip(xs, labels, strict=True):
            sheet.picture(shown.predictions[label][i], x, y)
            sheet.picture(shown.errors[label][i], x, y + height + _GAP)
        sheet.sideways(left - 0.25, sum(middles) / 2, plain(f"{domain}, image {number}", 30), color=_PALE)
        for x, words in [(left, ("input", "truth")), (xs[0], ("prediction", "error"))]:
            for middle, word in zip(middles, words, strict=True):
                sheet.sideways(x - 0.09, middle, word)
    draw_keys(sheet.figure, shown.keys, bottom)
    sheet.write(WIDTH - _RIGHT, page - 0.03, _seeds(comparison), ha="right", va="bottom", color=_PALE)
    return sheet.figure


def _seeds(comparison: Comparison) -> str:
    numbers = ", ".join(map(str, sorted(comparison.seeds)))
    return f"models of seed{'s' if len(comparison.seeds) > 1 else ''} {numbers} after the last step"
