"""Confusion matrices as pictures, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .confusion import Counts, row_shares
from .style import WIDTH, plain, text_width, wrapped

_SHARES = "Blues"
_NUMBERED = 12  # classes: with more, numbers would be too small to be read
_GAP, _TITLE, _AXIS, _BAR, _LINE = 0.12, 0.32, 0.28, 0.75, 0.15  # inches


def confusion_pages(counts: dict[str, Counts], classes: Sequence[str], where: str) -> list[Figure]:
    """Row-normalised confusion matrices of the methods, side by side, on as many pages as it takes.

    Args:
        counts: label -> (C, C), row = true class.
        classes: their C names.
        where: the heading.
    """
    per_row = 3 if len(classes) <= _NUMBERED else 2
    labels = list(counts)
    pages = -(-len(labels) // (3 * per_row))
    most = -(-len(labels) // pages)
    return [
        _page({label: counts[label] for label in labels[i : i + most]}, classes, where, per_row)
        for i in range(0, len(labels), most)
    ]


def _page(counts: dict[str, Counts], classes: Sequence[str], where: str, per_row: int) -> Figure:
    """Laid out by hand in inches: the class names decide how large the matrices are."""
    columns = min(per_row, len(counts))
    lines = -(-len(counts) // columns)
    names = [plain(name, 16) for name in classes]
    font = min(7.0, 84 / len(names))
    longest = max(text_width(name, font) for name in names) + 0.06
    turned = max(map(len, names)) > 2
    left, under = _AXIS + longest, _AXIS + (longest if turned else 0.12)
    side = (WIDTH - left - _BAR - _GAP * (per_row - 1)) / per_row
    width = left + columns * (side + _GAP) - _GAP + _BAR
    heading = textwrap.wrap(plain(where, 150), int(16 * width))
    top = 0.08 + _LINE * len(heading)
    height = top + lines * (_TITLE + side) + under + 0.04
    figure = Figure(figsize=(width, height))
    figure.text(0.5, 1 - 0.05 / height, "\n".join(heading), fontsize=8, ha="center", va="top")
    for number, (label, matrix) in enumerate(counts.items()):
        line, column = divmod(number, columns)
        x, y = left + column * (side + _GAP), top + (line + 1) * (_TITLE + side)
        ax = figure.add_axes((x / width, 1 - y / height, side / width, side / height))
        _matrix(ax, 100 * row_shares(matrix), font)
        ax.set_title(wrapped(label, int(side * 72 / (8 * 0.6)), 2), pad=3, linespacing=1.1)
        if column == 0:
            ax.set_yticks(range(len(names)), names, fontsize=font)
            ax.set_ylabel("true class")
        if number + columns >= len(counts):  # nothing below
            ax.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=font)
            ax.set_xlabel("predicted class")
    _draw_bar(figure, width - _BAR + 0.15, top + _TITLE, min(side, 1.8))
    return figure


def _draw_bar(figure: Figure, x: float, y: float, length: float) -> None:
    """A colour bar of 0.1 inches by ``length`` with its upper left corner at (x, y), from the upper left."""
    width, height = figure.get_size_inches()
    ax = figure.add_axes((x / width, 1 - (y + length) / height, 0.1 / width, length / height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), matplotlib.colormaps[_SHARES]), cax=ax)
    bar.set_label("share of true class (%)")
    bar.outline.set_visible(False)
    ax.grid(visible=False)


def _matrix(ax: Axes, shares: NDArray[np.float64], font: float) -> None:
    ax.imshow(shares, cmap=_SHARES, vmin=0, vmax=100, interpolation="none", aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, pad=2)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.4)
    if len(shares) > _NUMBERED:
        return
    for (i, j), share in np.ndenumerate(shares):
        if np.isfinite(share) and round(share) > 0:
            colour = "white" if share > 55 else "black"
            ax.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=font * 0.8, color=colour)
