"""Figures of the toy problem: a panel a method, over the parameters and over the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from toy_problem import STARTS, Array, losses_of

from mtlsuite.experiments.style import COLOURS, WIDTH, plain

PER_ROW = 4
DRAWN = 1_000  # points of a line at most
SIDE = 11.0  # the figures show x in [-SIDE, SIDE]^2
HUES = (COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[4], COLOURS[6])  # a start each
FRONT: dict[str, Any] = {"color": COLOURS[0], "linewidth": 3.0, "alpha": 0.35, "solid_capstyle": "butt"}

Lines = Mapping[str, Sequence[Array]]  # method -> (T, 2) points, one array a start


def draw_parameters(lines: Lines, pareto_set: Array) -> Figure:
    """Trajectories over the contours of the mean loss, with the Pareto set."""
    figure, panels = _panels(lines, "$x_1$", "$x_2$")
    axis = np.linspace(-SIDE, SIDE, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    mean = losses_of(grid.reshape(-1, 2)).mean(axis=1).reshape(grid.shape[:2])
    for ax, trajectories in zip(panels, lines.values(), strict=True):
        ax.contour(
            axis, axis, mean, levels=18, colors="#b8b8b8", linewidths=0.4, linestyles="solid", zorder=1
        )
        ax.grid(False)
        ax.plot(*pareto_set.T, **FRONT)
        _draw(ax, trajectories)
        ax.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
        ax.set_xticks([-10, 0, 10])
        ax.set_yticks([-10, 0, 10])
    return _legend(figure, "Pareto set", "mean loss")


def draw_losses(lines: Lines, front: Array) -> Figure:
    """Trajectories in the plane of the two losses, with the Pareto front."""
    figure, panels = _panels(lines, "loss $f_1$", "loss $f_2$")
    starts = losses_of(np.array(STARTS))
    low = front.min(axis=0)
    high = np.maximum(front.max(axis=0), starts.max(axis=0))
    margin = 0.06 * (high - low)
    for ax, trajectories in zip(panels, lines.values(), strict=True):
        ax.plot(*front.T, **FRONT)
        _draw(ax, trajectories)
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    return _legend(figure, "Pareto front")


def _panels(names: Mapping[str, object], x: str, y: str) -> tuple[Figure, list[Axes]]:
    columns = min(PER_ROW, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, rows * 1.85 + 0.5), layout="constrained")
    panels = [figure.add_subplot(rows, columns, number + 1) for number in range(len(names))]
    for number, (ax, name) in enumerate(zip(panels, names, strict=True)):
        ax.set_title(plain(name))
        if number + columns >= len(names):
            ax.set_xlabel(x)
        if number % columns == 0:
            ax.set_ylabel(y)
    return figure, panels


def _draw(ax: Axes, trajectories: Sequence[Array]) -> None:
    for line, hue in zip(trajectories, HUES, strict=True):
        kept = line[np.unique(np.linspace(0, len(line) - 1, min(len(line), DRAWN)).astype(int))]
        ax.plot(*kept.T, color=hue, linewidth=0.9)
    for line, hue in zip(trajectories, HUES, strict=True):
        ax.plot(*line[0], marker="o", color="white", markeredgecolor=hue, markersize=4.5, zorder=4)
        ax.plot(
            *line[-1],
            marker="*",
            color=hue,
            markeredgecolor="black",
            markeredgewidth=0.4,
            markersize=8,
            zorder=5,
        )


def _legend(figure: Figure, front: str, contours: str | None = None) -> Figure:
    handles = [
        Line2D([], [], color=hue, label=f"from ({x:g}, {y:g})")
        for hue, (x, y) in zip(HUES, STARTS, strict=True)
    ]
    handles.append(
        Line2D(
            [], [], marker="o", color="none", markerfacecolor="white", markeredgecolor="black", label="start"
        )
    )
    handles.append(
        Line2D([], [], marker="*", color="none", markerfacecolor="black", markersize=7, label="end")
    )
    handles.append(Line2D([], [], label=front, **FRONT))
    if contours:
        handles.append(Line2D([], [], color="#b8b8b8", linewidth=0.6, label=contours))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return figure
