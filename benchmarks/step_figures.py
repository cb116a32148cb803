"""The figure of ``step_cost``: a bar a method and way, in multiples of a plain step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from step_tables import WAYS, Result

from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.style import WIDTH, plain, save

# Dark to light, so that they also differ in grey, with hatches for where they do not.
LOOKS: dict[str, dict[str, Any]] = {
    "ours": {"color": "#0B3C5D", "hatch": ""},
    "papers": {"color": "#D55E00", "hatch": "////"},
    "autojac": {"color": "#56B4E9", "hatch": "...."},
    "autogram": {"color": "#E8E3C8", "hatch": "xxxx"},
}
THICK = 0.2  # of a bar, the methods being 1 apart


def draw(title: str, results: Sequence[Result]) -> Figure:
    """Time with its quartiles on the left, peak memory on the right; a method a group of bars."""
    methods = list(dict.fromkeys(result.method for result in results))
    figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(methods)), layout="constrained")
    figure.suptitle(plain(title, 90), fontsize=9)
    left, right = figure.subplots(1, 2, sharey=True)
    ways = [way for way in WAYS if any(result.way == way for result in results)]
    for ax, what in ((left, "time"), (right, "peak memory")):
        _bars(ax, what, methods, ways, results)
        ax.set_xlabel(f"{what} of a step, plain step = 1")
    left.set_yticks(range(len(methods)), [plain(method) for method in methods])
    left.set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=len(ways), frameon=False
    )
    return figure


def _bars(ax: Axes, what: str, methods: list[str], ways: list[str], results: Sequence[Result]) -> None:
    values = [value for result in results if (value := _value(result, what)[0]) is not None]
    limit = 1.15 * max([1.0, *values])
    for number, way in enumerate(ways):
        offset = (number - (len(ways) - 1) / 2) * THICK
        label: str | None = WAYS[way]
        for result in (result for result in results if result.way == way):
            place = methods.index(result.method) + offset
            value, high = _value(result, what)
            if value is None:
                ax.text(0.02 * limit, place, "n/a", va="center", fontsize=5)
                continue
            ax.barh(place, value, THICK, label=label, edgecolor="white", linewidth=0.3, **LOOKS[way])
            label = None  # one entry in the legend is enough
            if result.time is not None and what == "time":
                ax.plot([result.time.low, result.time.high], [place] * 2, color="black", linewidth=0.6)
            ax.text(min(high, 0.93 * limit) + 0.01 * limit, place, f"{value:.1f}", va="center", fontsize=5)
    ax.axvline(1, color="black", linewidth=0.6)
    ax.set_xlim(0, limit)
    ax.grid(axis="y", visible=False)


def _value(result: Result, what: str) -> tuple[float | None, float]:
    """The length of the bar, and where what is drawn on it ends."""
    if what != "time":
        return result.memory, result.memory or 0.0
    return (None, 0.0) if result.time is None else (result.time.median, result.time.high)


def save_all(figure: Figure, stem: Path) -> list[Path]:
    """The figure as PNG, SVG and PDF."""
    data = io.BytesIO()
    figure.savefig(data, format="pdf", metadata={"CreationDate": None})
    atomic_write(stem.with_name(f"{stem.name}.pdf"), data.getvalue())
    return [*save(figure, stem), stem.with_name(f"{stem.name}.pdf")]
