"""Figures of a folder of runs: learning curves, losses, weights, gradient cosine, and the table as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .charts import improvement_bars
from .results import RunResult
from .scores import task_metrics
from .series import Series, of_source, series, sources, split_mean
from .style import COLOURS, WIDTH, draw, finish, panels, plain, save, styled
from .summary import by_label
from .tables import Cell, Column, Row, Table

BAND = "Bands: one standard error over seeds."


def write_figures(runs: Sequence[RunResult], tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draw what finished ``runs`` and their ``tables`` have to show, as PNG and SVG files in ``folder``."""
    groups = by_label(runs)
    with styled():
        figures = {
            "learning_curves": learning_curves(groups),
            **domain_curves(groups),
            "losses": losses(groups),
            "weights": weights(groups),
            "cosine": cosine(groups),
            **{f"table_{number}": bars(table) for number, table in enumerate(tables, start=1)},
            **{
                f"improvement_{number}": improvement_bars(table)
                for number, table in enumerate(tables, start=1)
            },
        }
        return [path for name, figure in figures.items() if figure for path in save(figure, folder / name)]


Groups = dict[str, list[RunResult]]


def learning_curves(groups: Groups) -> Figure | None:
    """Headline metric of each task against the step, validation and held-out; one line a label."""
    everyone = [run for runs in groups.values() for run in runs]
    tasks = dict.fromkeys(task for run in everyone for task in run.tasks)
    parts = {
        "val": "validation",
        **({"test": "held-out domains"} if any(r.held_out for r in everyone) else {}),
    }
    plots = [(task_metrics(task)[0], part) for task in tasks for part in parts]
    if not plots:
        return None
    figure, axes = panels(len(plots), per_row=2 if len(parts) == 2 else 3, height=2.0)
    for ax, (metric, part) in zip(axes, plots, strict=True):
        curves = [series(runs, split_mean(part, metric.key, metric.factor)) for runs in groups.values()]
        _lines(ax, curves)
        _zoom(ax, curves)
        ax.set_title(plain(f"{metric.task}: {parts[part]}"))
        ax.set_ylabel(f"{metric.name} ({metric.unit})" if metric.unit else metric.name)
    return finish(figure, list(groups), _band_note(everyone))


def domain_curves(groups: Groups) -> dict[str, Figure]:
    """Headline metric of each task against the step, a panel a domain; one line a label.

    On the held-out domains where there are any, else on the validation parts of the training domains; no
    figure where there is only one domain.
    """
    everyone = [run for runs in groups.values() for run in runs]
    part = "test" if any(run.held_out for run in everyone) else "val"
    splits = (split for run in everyone for record in run.records for split in record["metrics"])
    names = [split for split in dict.fromkeys(splits) if split.startswith(f"{part}/")]
    if len(names) < 2:
        return {}
    kind = "held-out domain" if part == "test" else "validation: domain"
    found = {}
    for task in dict.fromkeys(task for run in everyone for task in run.tasks):
        metric = task_metrics(task)[0]
        figure, axes = panels(len(names), per_row=3)
        for ax, name in zip(axes, names, strict=True):
            read = split_mean(name, metric.key, metric.factor)
            curves = [series(runs, read) for runs in groups.values()]
            _lines(ax, curves)
            _zoom(ax, curves)
            ax.set_title(plain(f"{kind} {name.removeprefix(f'{part}/')}"))
        _label_left(axes, 3, f"{metric.name} ({metric.unit})" if metric.unit else metric.name)
        found[f"learning_curves_{task}"] = finish(figure, list(groups), _band_note(everyone))
    return found


def losses(groups: Groups) -> Figure | None:
    """Training loss against the step: a panel a source, a line a label."""
    everyone = [run for runs in groups.values() for run in runs]
    names = sources(everyone)
    if not names:
        return None
    figure, axes = panels(len(names), per_row=3)
    curves = [[series(runs, of_source("losses", name)) for runs in groups.values()] for name in names]
    scale = "log" if _wide([curve for found in curves for curve in found]) else "linear"
    for ax, name, found in zip(axes, names, curves, strict=True):
        _lines(ax, found)
        ax.set_yscale(scale)
        ax.set_title(plain(f"source {name}"))
    _label_left(axes, 3, "training loss")
    return finish(figure, list(groups), _band_note(everyone))


def weights(groups: Groups) -> Figure | None:
    """Weights of the base solver against the step: a panel a label, a line a source.

    Labels whose solver has no weights, or whose weights never move, are named below instead.
    """
    names = sources([run for runs in groups.values() for run in runs], "weights")
    curves = {
        label: [series(runs, of_source("weights", name)) for name in names] for label, runs in groups.items()
    }
    absent = [label for label, found in curves.items() if not any(found)]
    constant = [
        label
        for label, found in curves.items()
        if label not in absent and all(c.constant for c in found if c)
    ]
    moving = {label: found for label, found in curves.items() if label not in (*absent, *constant)}
    if not moving:
        return None
    figure, axes = panels(len(moving), per_row=3)
    for ax, (label, found) in zip(axes, moving.items(), strict=True):
        _lines(ax, found)
        ax.set_title(plain(label, 28))
    _label_left(axes, 3, "weight")
    notes = [f"Constant weights: {', '.join(constant)}."] if constant else []
    notes += [f"No weights: {', '.join(absent)}."] if absent else []
    shown = [run for label in moving for run in groups[label]]
    return finish(figure, names, [*notes, *_band_note(shown)])


def cosine(groups: Groups) -> Figure | None:
    """Mean pairwise cosine of the source gradients against the step; a line a label."""
    curves = {label: series(runs, lambda record: record.get("cosine")) for label, runs in groups.items()}
    if not any(curves.values()):
        return None
    figure, (ax,) = panels(1, per_row=1, height=2.2)
    ax.axhline(0.0, color="#999999", linewidth=0.8)
    _lines(ax, list(curves.values()))
    ax.set_ylabel("mean cosine of source gradients")
    absent = [label for label, curve in curves.items() if curve is None]
    notes = [f"Not measured: {', '.join(absent)}."] if absent else []
    return finish(figure, list(groups), [*notes, *_band_note([r for runs in groups.values() for r in runs])])


def bars(table: Table) -> Figure | None:
    """What a table comes down to, with error bars of one standard error, a row a label.

    delta_m is drawn as bars from 0; means, which lie far from 0, as points on a cut axis.
    """
    names = [column.name for column in table.columns]
    wanted = [name for name in ("mean", "worst") if name in names] or names[:1]
    wanted = ["delta_m"] if "delta_m" in names else wanted
    numbers = [names.index(name) for name in wanted]
    rows = [row for row in table.rows if any(row.cells[number] for number in numbers)]
    if not rows:
        return None
    figure = Figure(
        figsize=(WIDTH if len(numbers) > 1 else 0.7 * WIDTH, 0.7 + 0.26 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(1, len(numbers), squeeze=False, sharey=True)[0]
    for ax, number in zip(axes, numbers, strict=True):
        _bar_panel(ax, table.columns[number], [(row, row.cells[number]) for row in rows])
    axes[0].set_yticks(range(len(rows)), [plain(row.label, 34) for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for ax in axes[1:]:
        ax.tick_params(left=False)
    figure.suptitle(plain(table.title, 90), fontsize=8)
    return figure


def _bar_panel(ax: Axes, column: Column, found: Sequence[tuple[Row, Cell | None]]) -> None:
    from_zero = column.name == "delta_m"
    for position, (row, cell) in enumerate(found):
        if cell is None or not math.isfinite(cell.mean):
            continue
        colour = COLOURS[7] if row.reference else COLOURS[1]
        error = cell.stderr if cell.stderr is not None and math.isfinite(cell.stderr) else None
        if from_zero:
            ax.barh(position, cell.mean, height=0.6, color=colour)
            ax.errorbar(cell.mean, position, xerr=error, color="black", linewidth=1, capsize=2)
        else:
            ax.errorbar(cell.mean, position, xerr=error, color=colour, fmt="o", capsize=2)
    first = next((c for row, c in found if not row.reference), None)
    ax.axvline(0.0 if from_zero or first is None else first.mean, color="#999999", linewidth=0.8, zorder=0)
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    better = {True: "higher is better", False: "lower is better", None: ""}[column.higher_is_better]
    ax.set_xlabel(f"{column.name} ({', '.join(filter(None, (column.unit, better)))})")


def _lines(ax: Axes, curves: Sequence[Series | None]) -> None:
    for number, curve in enumerate(curves):
        if curve is not None:
            draw(ax, curve, number, len(curves))


def _label_left(axes: Sequence[Axes], per_row: int, text: str) -> None:
    for ax in axes[::per_row]:
        ax.set_ylabel(text)


def _zoom(ax: Axes, curves: Sequence[Series | None]) -> None:
    """Leave the first tenth of the training out of the limits: what differs afterwards would not show."""
    steps = [step for curve in curves if curve for step in curve.steps]
    if not steps:
        return
    start = max(steps) / 10
    late = [
        edge
        for curve in curves
        if curve
        for step, value, error in zip(
            curve.steps, curve.mean, curve.stderr or [0.0] * len(curve.steps), strict=True
        )
        if step > start and math.isfinite(value)
        for edge in (value - error, value + error)
    ]
    if late:
        margin = 0.06 * (max(late) - min(late)) or 0.01 * (abs(late[0]) or 1.0)
        ax.set_ylim(min(late) - margin, max(late) + margin)


def _wide(curves: Sequence[Series | None]) -> bool:
    """Whether the values are positive and span more than 1.5 decades, so that a log axis reads better."""
    values = [value for curve in curves if curve for value in curve.mean if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)


def _band_note(runs: Sequence[RunResult]) -> list[str]:
    return [BAND] if len({run.seed for run in runs}) > 1 else []
