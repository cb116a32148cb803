"""Charts: relative improvement over single-task training by metric, IoU by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .style import COLOURS, WIDTH, plain, wrapped
from .tables import Cell, Table
from .task_table import DELTA_M, RANK

_BETTER, _WORSE, _REFERENCE = COLOURS[1], COLOURS[2], COLOURS[7]
_HATCHES = ("", "////", "....")
_MEAN = "mean"


@dataclass(frozen=True)
class Improvements:
    """Relative improvement over a baseline, in percent: the terms of delta_m with their sign turned.

    +100 (M - B) / B where higher is better, else -100 (M - B) / B (Navon et al., ICML 2022); the standard
    error is that of M over its seeds, B taken as known, as in the table.

    Attributes:
        baseline: the label of B.
        metrics: names, in the order of the table.
        cells: label of a measured row -> a cell a metric.
        means: label -> their mean, -delta_m.
    """

    baseline: str
    metrics: tuple[str, ...]
    cells: dict[str, list[Cell | None]]
    means: dict[str, Cell | None]


def improvements(table: Table) -> Improvements | None:
    """What ``delta_m`` in a table is the mean of; None where the table has no delta_m."""
    names = [column.name for column in table.columns]
    rows = [row for row in table.rows if row.source is None]
    if DELTA_M.name not in names:
        return None
    base = next(row for row in table.rows if row.reference)  # the first is the one that counts
    delta = names.index(DELTA_M.name)
    numbers = [i for i, name in enumerate(names) if name not in (DELTA_M.name, RANK.name)]
    signs = {i: 1 if table.columns[i].higher_is_better else -1 for i in numbers}
    rows = [row for row in rows if row is not base]
    return Improvements(
        base.label,
        tuple(names[i] for i in numbers),
        {row.label: [_relative(row.cells[i], base.cells[i], signs[i]) for i in numbers] for row in rows},
        {row.label: _negative(row.cells[delta]) for row in rows},
    )


def _relative(cell: Cell | None, baseline: Cell | None, sign: int) -> Cell | None:
    if cell is None or baseline is None or baseline.mean == 0:
        return None
    scale = 100 / baseline.mean
    stderr = None if cell.stderr is None else abs(scale) * cell.stderr
    return Cell(sign * scale * (cell.mean - baseline.mean), stderr, cell.n)


def _negative(cell: Cell | None) -> Cell | None:
    return None if cell is None else Cell(-cell.mean, cell.stderr, cell.n)


def improvement_bars(table: Table) -> Figure | None:
    """A panel a metric and one for their mean, a bar a label; None where the table has no delta_m."""
    found = improvements(table)
    if found is None or not found.cells:
        return None
    labels = list(found.cells)
    columns = [[found.cells[label][i] for label in labels] for i in range(len(found.metrics))]
    columns.append([found.means[label] for label in labels])
    titles = [plain(name, 24) for name in found.metrics] + [_MEAN]
    lines = -(-len(titles) // 5)
    per_row = -(-len(titles) // lines)
    figure = Figure(figsize=(WIDTH, lines * (0.55 + 0.17 * len(labels)) + 0.25), layout="constrained")
    grid = figure.subplots(lines, per_row, squeeze=False, sharex=True, sharey=True)
    for ax in grid.flat[len(titles) :]:
        ax.set_axis_off()
    for ax, title, cells in zip(grid.flat, titles, columns, strict=False):
        _signed_bars(ax, cells)
        ax.set_title(title, fontweight="bold" if title == _MEAN else "normal")
    for line in grid:
        line[0].set_yticks(range(len(labels)), [plain(label, 30) for label in labels])
        line[0].set_ylim(len(labels) - 0.5, -0.5)
    several = any(cell and cell.stderr is not None for cells in columns for cell in cells)
    note = "; error bars: one standard error" if several else ""
    text = f"relative improvement over {plain(found.baseline, 28)} (%), to the right is better{note}"
    text += "; mean = \N{MINUS SIGN}delta_m"
    figure.supxlabel(text, fontsize=8)
    return figure


def _signed_bars(ax: Axes, cells: Sequence[Cell | None]) -> None:
    for position, cell in enumerate(cells):
        if cell is None or not math.isfinite(cell.mean):
            ax.text(0, position, " no value", fontsize=6, va="center")
            continue
        ax.barh(position, cell.mean, height=0.7, color=_BETTER if cell.mean >= 0 else _WORSE)
        if cell.stderr is not None and math.isfinite(cell.stderr):
            ax.errorbar(cell.mean, position, xerr=cell.stderr, color="black", linewidth=0.8, capsize=1.5)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.grid(visible=False, axis="y")
    ax.tick_params(left=False)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=2))


def class_bars(values: dict[str, NDArray[np.float64]], classes: Sequence[str], reference: str) -> Figure:
    """IoU by class, a bar a method with one standard error over seeds, in as many rows as it takes.

    Args:
        values: label -> (seeds, C), in percent; NaN where a class neither occurs nor is predicted.
        classes: their C names.
        reference: the label that is drawn in grey.
    """
    labels = list(values)
    per_row = max(1, min(len(classes), 44 // (len(labels) + 1)))
    lines = -(-len(classes) // per_row)
    per_row = -(-len(classes) // lines)
    figure = Figure(figsize=(WIDTH, 1.35 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, 1, squeeze=False, sharey=True)[:, 0]
    others = [label for label in labels if label != reference]
    letters = max(4, int(17 * WIDTH / per_row))
    looks = {label: _bar_look(others.index(label) if label in others else None) for label in labels}
    for line, ax in enumerate(axes):
        shown = range(line * per_row, min((line + 1) * per_row, len(classes)))
        for number, label in enumerate(labels):
            for position, k in enumerate(shown):
                x = position + 0.8 * ((number + 0.5) / len(labels) - 0.5)
                _upright_bar(ax, x, 0.8 / len(labels), Cell.of(list(values[label][:, k])), looks[label])
        ax.set_xticks(range(len(shown)), [wrapped(classes[k], letters, 2) for k in shown])
        ax.set_xlim(-0.5, max(per_row, 3) - 0.5)
        ax.grid(visible=False, axis="x")
        ax.tick_params(bottom=False)
        ax.set_ylabel("IoU (%)")
    handles = [Patch(**looks[label]) for label in labels]
    names = [plain(label) for label in labels]
    columns = max(1, min(len(names), int(WIDTH * 16 / (max(map(len, names)) + 8))))
    several = any(len(found) > 1 for found in values.values())
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title="After the last step" + ("; error bars: one standard error over seeds." if several else "."),
        title_fontproperties={"size": 7},
    )
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(names) // columns))
    return figure


def _bar_look(number: int | None) -> dict[str, Any]:
    """Of the bars of the method with this number: 21 are all different; None: of the reference."""
    if number is None:
        return {"facecolor": _REFERENCE, "edgecolor": "white", "hatch": ""}
    hatch = _HATCHES[number // 7 % len(_HATCHES)]
    return {"facecolor": COLOURS[number % 7], "edgecolor": "white", "hatch": hatch}


def _upright_bar(ax: Axes, x: float, width: float, cell: Cell | None, look: dict[str, Any]) -> None:
    if cell is None or not math.isfinite(cell.mean):
        ax.text(x, 0, "\N{EN DASH}", fontsize=6, ha="center", va="bottom")
        return
    ax.bar(x, cell.mean, width, linewidth=0.3, **look)
    if cell.stderr is not None and math.isfinite(cell.stderr):
        ax.errorbar(x, cell.mean, yerr=cell.stderr, color="#555555", linewidth=0.7, capsize=1)
