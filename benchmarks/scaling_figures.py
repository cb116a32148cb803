"""Figure of the scaling benchmark: time and memory of a step over each size, with the fitted power laws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling_cases import Axis, Sample, fitted

from mtlsuite.experiments.style import WIDTH, look, plain

LABELS: dict[Axis, str] = {
    "sources": "number of sources $K$",
    "parameters": "number of parameters $P$",
    "batch": "batch size",
}


def draw(samples: Sequence[Sample]) -> Figure:
    """Above seconds, below bytes; a panel an axis, a line a method, dashed where it is the fitted law."""
    axes = list(dict.fromkeys(sample.axis for sample in samples))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False)
    for column, axis in enumerate(axes):
        chosen = [sample for sample in samples if sample.axis == axis]
        _draw(panels[0, column], chosen, lambda sample: sample.median)
        _draw(panels[1, column], chosen, lambda sample: sample.peak / 1e6)
        panels[1, column].set_xlabel(LABELS[axis])
        values = sorted({sample.value for sample in chosen})
        panels[1, column].set_xticks(
            values, [f"{value:,}" if value < 1e5 else f"{value:g}" for value in values], rotation=45
        )
        panels[1, column].minorticks_off()
    panels[0, 0].set_ylabel("seconds of a step")
    panels[1, 0].set_ylabel("peak memory of a step (MB)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw(ax: Axes, samples: Sequence[Sample], quantity: Callable[[Sample], float]) -> None:
    for number, method in enumerate(dict.fromkeys(sample.method for sample in samples)):
        values = {s.value: quantity(s) for s in samples if s.method == method}
        style = look(number)
        ax.plot(list(values), list(values.values()), label=plain(method), **style | {"linestyle": "none"})
        law = fitted(values)
        if law is not None:
            ends = np.array([law.low, law.high], dtype=float)
            line = law.factor * ends**law.exponent
            ax.plot(ends, line, color=style["color"], linestyle="--", linewidth=0.9)
    ax.set(xscale="log", yscale="log")
