"""Figure of the bargaining benchmark: how much faster ours is, and how exact every way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bargaining_results import TARGET, WRONG, Result
from bargaining_ways import OURS, SEQUENCE, TORCHJD
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mtlsuite.experiments.style import WIDTH, look, plain

COMPARED = (TORCHJD, SEQUENCE, "direct, ECOS")


def draw(results: Sequence[Result]) -> Figure:
    """Above: time over ours against K, a panel a way, a line a condition; below: residuals over condition."""
    grid = [r for r in results if r.case.condition is not None and r.case.family == "conditioned"]
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.0, 1.1))[:, 0]
    panels = above.subplots(1, len(COMPARED), sharey=True)
    for ax, name in zip(panels, COMPARED, strict=True):
        _draw_speed(ax, name, [r for r in grid if r.way == name])
    panels[0].set_ylabel("time / time of ours")
    handles, labels = panels[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    sizes = sorted({r.case.k for r in grid})
    largest = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    panels = below.subplots(1, len(largest), sharey=True)
    for ax, k in zip(panels, largest, strict=True):
        _draw_residuals(ax, k, [r for r in grid if r.case.k == k])
    panels[0].set_ylabel(r"$\max_i |\alpha_i (G\alpha)_i - 1|$")
    handles, labels = panels[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_speed(ax: Axes, name: str, results: Sequence[Result]) -> None:
    ax.axhline(TARGET, color="#cccccc", linewidth=4.0, zorder=1, label=f"{TARGET:g} times")
    for number, condition in enumerate(sorted({r.case.condition or 0.0 for r in results})):
        chosen = sorted((r for r in results if r.case.condition == condition), key=lambda r: r.case.k)
        sizes = [r.case.k for r in chosen]
        style = look(number)
        ax.plot(sizes, [r.ratio.median for r in chosen], label=f"condition {condition:.0e}", **style)
        low, high = ([getattr(r.ratio, end) for r in chosen] for end in ("low", "high"))
        ax.fill_between(sizes, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xscale="log", yscale="log", title=plain(name), xlabel="number of sources $K$")
    sizes = sorted({r.case.k for r in results})
    ax.set_xticks(sizes, list(map(str, sizes)))
    ax.xaxis.set_minor_locator(NullLocator())


def _draw_residuals(ax: Axes, k: int, results: Sequence[Result]) -> None:
    ax.axhline(WRONG, color="#cccccc", linewidth=4.0, zorder=1, label="counts as failure")
    ways = [way for way in dict.fromkeys(r.way for r in results) if "warm" not in way]
    for number, way in enumerate(ways):
        chosen = sorted((r for r in results if r.way == way), key=lambda r: r.case.condition or 0.0)
        conditions = [r.case.condition or 0.0 for r in chosen]
        values = np.array([max(r.residual, 1e-16) for r in chosen])  # an exact answer shows at 1e-16
        style = look(number) | ({"linewidth": 2.0} if way == OURS else {})
        ax.plot(conditions, values, label=plain(way), **style)
    ax.set(xscale="log", yscale="log", title=f"$K = {k}$", xlabel="condition number of $G$")
