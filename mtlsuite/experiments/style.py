"""How the figures look: colours, lines, panels and legends, and files that are the same for the same data."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from .files import atomic_write
from .series import Series

# Okabe and Ito's colour-blind-safe set (jfly.uni-koeln.de/color), its yellow replaced by grey: white paper
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 1, 1, 1, 1, 1)))
WIDTH = 7.0  # inches: the text width of a usual two-column page
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "savefig.dpi": 200,
    "svg.hashsalt": "mtlsuite",
}


@contextmanager
def styled() -> Iterator[None]:
    """The settings under which figures are made and written; matplotlib's own are left as they were."""
    with matplotlib.rc_context(RC):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``; the same figure gives the same bytes (no date in them)."""
    written = []
    for suffix in ("png", "svg"):
        data = io.BytesIO()
        figure.savefig(data, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
        path = stem.with_name(f"{stem.name}.{suffix}")
        atomic_write(path, data.getvalue())
        written.append(path)
    return written


def panels(count: int, per_row: int, height: float = 1.75) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes, at most ``per_row`` in a row; ``height`` of a row in inches."""
    columns = min(count, per_row)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number) for number in range(1, count + 1)]
    for ax in axes[-columns:]:
        ax.set_xlabel("training step")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    return figure, axes


def plain(label: str, longest: int = 44) -> str:
    """``label`` as matplotlib prints it letter by letter: no mathematics, not hidden, not too long.

    What is too long is cut in the middle: labels of a sweep often differ at their end.
    """
    text = " ".join(label.split())
    if len(text) > longest:
        tail = longest // 3
        text = text[: longest - 1 - tail] + "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - tail :]
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def wrapped(label: str, letters: int, lines: int = 3) -> str:
    """``label`` as :func:`plain`, broken after spaces, brackets and underscores into few ``lines``."""
    found = [""]
    for piece in re.split(r"(?<=[\s(_-])", " ".join(label.split())):
        if found[-1] and len(found) < lines and len(found[-1] + piece.rstrip()) > letters:
            found.append("")
        found[-1] += piece
    return "\n".join(plain(line, letters) for line in found)


def text_width(text: str, size: float) -> float:
    """Inches that a line of this size (points) is wide."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text else 0.0


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line style of the line with this number; 440 in a row are all different."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def draw(ax: Axes, curve: Series, number: int, of: int) -> None:
    """One line with a band of one standard error; markers of the lines are staggered."""
    every = max(1, math.ceil(len(curve.steps) / 8))
    style = look(number)
    ax.plot(curve.steps, curve.mean, markevery=(number * every // max(of, 1) % every, every), **style)
    if curve.stderr is not None:
        low = [m - e for m, e in zip(curve.mean, curve.stderr, strict=True)]
        high = [m + e for m, e in zip(curve.mean, curve.stderr, strict=True)]
        ax.fill_between(curve.steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def finish(figure: Figure, names: Sequence[str], notes: Sequence[str] = ()) -> Figure:
    """Below the panels: the notes, and the legend of the lines (number i is ``names[i]``)."""
    handles = [Line2D([], [], **look(number)) for number in range(len(names))]
    labels = [plain(name) for name in names]
    columns = max(1, min(len(labels), int(WIDTH * 16 / (max(map(len, labels), default=0) + 8))))
    note = textwrap.wrap(plain(" ".join(notes), 10_000), 120)
    figure.legend(
        handles,
        labels,
        title="\n".join(note) or None,
        title_fontproperties={"size": 7},
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )
    lines = math.ceil(len(labels) / columns) + len(note)
    figure.set_figheight(figure.get_figheight() + 0.17 * lines + 0.15)
    return figure
