"""The table over tasks: a row a method, a column a metric, then the mean rank and delta_m."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ..metrics import delta_m, mean_rank
from .notes import values_note, verdict
from .quotation import quote
from .results import RunResult
from .scores import Group, Metric, Scope, convention, mean, task_metrics
from .tables import Cell, Column, Row, Table

BASELINE = "single-task"
REFERENCE = "0 (reference)"
RANK = Column("mean rank", "", 2, higher_is_better=False)
DELTA_M = Column("delta_m", "%", 2, higher_is_better=False)
MEASURED_NOTE = (
    "delta_m: mean relative loss over the metrics against the single-task models (mean over their seeds), "
    "lower is better; the reference has the standard error of its own seeds in the comparison below."
)
PUBLISHED_NOTE = (
    "delta_m: mean relative loss over the metrics against the published single-task row, lower is better; "
    "of quoted rows as printed."
)


def task_table(
    tasks: Sequence[str],
    scope: Scope,
    runs: Sequence[RunResult],
    groups: Sequence[Group],
    baseline: Group | None,
) -> Table:
    """One row a label, one column a metric, then the mean rank and delta_m, as the papers have it.

    delta_m is against the single-task runs where there are any, or, where the configs ask for it, against the
    published single-task row, beside which the other published rows are quoted.

    Args:
        tasks: whose metrics are shown.
        scope: of the numbers.
        runs: all that count.
        groups: the methods.
        baseline: the single-task runs.
    """
    metrics = [metric for task in tasks for metric in task_metrics(task)]
    quoted = quote(runs, metrics)
    alone = _metric_row(baseline, scope, metrics, reference=True) if baseline else None
    measured = [_metric_row(group, scope, metrics) for group in groups]
    references = [row for row in (quoted.baseline, alone) if row is not None]
    rows = [*references, *quoted.rows, *measured]
    columns = [metric.column(name) for metric, name in zip(metrics, _names(metrics), strict=True)]
    what = scope.when + ("" if scope.pooled else f", mean over {scope.name}s")
    notes = [values_note(measured, what), convention(runs, tasks)]
    first = measured[0].label if measured else BASELINE
    judged = [(metrics.index(task_metrics(task)[0]), first) for task in tasks]
    if len(quoted.rows) + len(measured) > 1:
        ranks = _mean_ranks([*quoted.rows, *measured], metrics)
        notes.append(_rank_note(ranks))
        columns, rows = [*columns, RANK], _with_column(rows, ranks)
    if references and (missing := _not_a_baseline(references[0], metrics)):
        notes.append(f"No delta_m: {missing}.")
    elif references:
        base = references[0]
        judged = [(len(columns), BASELINE)] if base is alone else judged
        judged += [(len(columns), first)] if len(measured) > 1 else []
        everyone = [*groups, baseline] if baseline else groups
        deltas = {group.label: _delta_m_cell(group, scope, metrics, base) for group in everyone}
        notes.append(MEASURED_NOTE if base is alone else PUBLISHED_NOTE)
        columns, rows = [*columns, DELTA_M], _with_column(rows, {**deltas, **quoted.delta_m})
    notes += [*quoted.notes, *(verdict(rows, columns, column, label) for column, label in judged)]
    return Table(f"{', '.join(tasks)}: all metrics", tuple(columns), tuple(rows), tuple(filter(None, notes)))


def _names(metrics: Sequence[Metric]) -> list[str]:
    """Names of the metrics, with the task in front where two tasks share one."""
    count = Counter(metric.name for metric in metrics)
    return [metric.name if count[metric.name] == 1 else f"{metric.task}: {metric.name}" for metric in metrics]


def _metric_row(group: Group, scope: Scope, metrics: Sequence[Metric], reference: bool = False) -> Row:
    values = [list(group.over(scope.domains, metric, mean).values()) for metric in metrics]
    return Row(group.label, tuple(map(Cell.of, values)), reference)


def _with_column(rows: Sequence[Row], cells: Mapping[str, Cell | None]) -> list[Row]:
    """The rows with one more cell each, by label."""
    return [dataclasses.replace(row, cells=(*row.cells, cells.get(row.label))) for row in rows]


def _not_a_baseline(row: Row, metrics: Sequence[Metric]) -> str:
    """Why nothing can be relative to the row, or ""."""
    cells = list(zip(metrics, row.cells, strict=True))
    if missing := [metric.key for metric, cell in cells if cell is None]:
        return f"no finished single-task run measured {', '.join(missing)}"
    if nothing := [
        metric.key for metric, cell in cells if cell and not (cell.mean and math.isfinite(cell.mean))
    ]:
        return f"the single-task value of {', '.join(nothing)} is 0 or not finite"
    return ""


def _delta_m_cell(group: Group, scope: Scope, metrics: Sequence[Metric], base: Row) -> Cell | None:
    """delta_m of each seed against the mean row ``base``; of the baseline itself, its spread around 0."""
    baseline = [cell.mean for cell in base.cells if cell is not None]
    found = [group.over(scope.domains, metric, mean) for metric in metrics]
    seeds = [seed for seed in found[0] if all(seed in values for values in found)]
    flags = [metric.higher_is_better for metric in metrics]
    each = [float(delta_m([values[seed] for values in found], baseline, flags)) for seed in seeds]
    if group.label != base.label:
        return Cell.of(each)
    spread = Cell.of(each)
    return Cell(0.0, spread.stderr if spread else None, len(each), REFERENCE)


def _mean_ranks(rows: Sequence[Row], metrics: Sequence[Metric]) -> dict[str, Cell]:
    """Mean rank by label, among the rows that have every metric."""
    means = {row.label: [cell.mean for cell in row.cells if cell is not None] for row in rows}
    full = {
        label: values
        for label, values in means.items()
        if len(values) == len(metrics) and all(map(math.isfinite, values))
    }
    ranks = mean_rank(full, [metric.higher_is_better for metric in metrics])
    return {label: Cell(rank) for label, rank in ranks.items()}


def _rank_note(ranks: Mapping[str, Cell]) -> str:
    """The set compared, by name, for a mean rank says nothing without it."""
    return (
        f"Mean rank over the metrics (ties share) among the {len(ranks)} rows {', '.join(ranks)}."
        if ranks
        else ""
    )
