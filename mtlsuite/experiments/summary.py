"""From runs to tables: what is averaged over what, and what may honestly be said about it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ..core.errors import UsageError
from ..metrics import delta_m, mean_rank
from .results import RunResult
from .scores import Group, Metric, Scope, mean, task_metrics, worst_of
from .tables import Cell, Column, Row, Table

BASELINE = "single-task"
DELTA_M_NOTE = (
    "delta_m: mean relative loss over the metrics against the single-task models (mean over their seeds), "
    "lower is better; the reference has the standard error of its own seeds in the comparison below."
)


def summarise(runs: Sequence[RunResult]) -> list[Table]:
    """The tables of a folder of runs: only finished runs count, and a note names the others.

    Domains (held-out ones if there are any): a table per task, one column a domain, mean and worst. Tasks:
    one table, one column a metric, with delta_m where single-task runs are present and the mean rank.
    Several tasks on several domains: both, the second on means over the domains.

    Raises:
        UsageError: two runs cannot be told apart, or a task has no registered metric.
    """
    finished = [run for run in runs if run.finished]
    held_out = any(run.held_out for run in finished)
    used = [run for run in finished if run.held_out or not held_out]
    _refuse_twins(used)
    if not used:
        return []
    groups = [Group.of(label, found) for label, found in by_label(used).items()]
    baseline_runs = [run for run in used if run.baseline]
    baseline = Group.of(BASELINE, baseline_runs) if baseline_runs else None
    everyone = groups if baseline is None else [baseline, *groups]
    domains = dict.fromkeys(d for group in everyone for scores in group.scores.values() for d in scores)
    scope = Scope(tuple(domains), held_out, tuple(sorted({run.average_last for run in used})))
    tasks = list(
        dict.fromkeys(task for run in sorted(used, key=lambda run: run.baseline) for task in run.tasks)
    )
    tables = [] if scope.pooled else [_domain_table(task, scope, everyone) for task in tasks]
    if scope.pooled or len(tasks) > 1:
        tables.append(_task_table(tasks, scope, groups, baseline))
    left_out = _left_out(runs, used)
    return [dataclasses.replace(table, notes=table.notes + left_out) for table in tables]


def by_label(runs: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """Finished runs by label, in order of appearance, equal weights first (the natural reference).

    The single-task runs of the baseline are not among them.
    """
    found: dict[str, list[RunResult]] = {}
    for run in runs:
        if run.finished and not run.baseline:
            found.setdefault(run.label, []).append(run)
    return dict(sorted(found.items(), key=lambda item: not all(run.plain for run in item[1])))


def _refuse_twins(runs: Iterable[RunResult]) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for run in runs:
        if run.label == BASELINE and not run.baseline:
            raise UsageError(
                f"the run {run.name!r} has the label {BASELINE!r}, which is kept for the baseline"
            )
        key = (run.label, run.seed, run.held_out, run.baseline, run.tasks)
        if key in seen:
            raise UsageError(
                f"the runs {seen[key]!r} and {run.name!r} share the label {run.label!r}, the seed {run.seed} "
                f"and the held-out domains {list(run.held_out)}: give them different labels"
            )
        seen[key] = run.name


def _left_out(runs: Sequence[RunResult], used: Sequence[RunResult]) -> tuple[str, ...]:
    open_runs = [run for run in runs if not run.finished]
    other = [run for run in runs if run.finished and run not in used]
    notes = []
    if open_runs:
        names = ", ".join(f"{run.name} ({run.status})" for run in open_runs)
        notes.append(f"{len(open_runs)} of {len(runs)} runs not finished and left out: {names}.")
    if other:
        names = ", ".join(run.name for run in other)
        notes.append(f"{len(other)} of {len(runs)} runs without held-out domains left out: {names}.")
    return tuple(notes)


def _domain_table(task: str, scope: Scope, groups: Sequence[Group]) -> Table:
    """One row a label, one column a domain, then the mean and the worst domain of each seed."""
    metric = task_metrics(task)[0]
    reduces = (mean, worst_of(metric.higher_is_better))
    columns = [metric.column(name, bare=True) for name in (*scope.domains, "mean", "worst")]
    rows, incomplete = [], []
    for group in groups:
        reduced = [list(group.over(scope.domains, metric, reduce).values()) for reduce in reduces]
        cells = [Cell.of(values) for values in [*(group.on(d, metric) for d in scope.domains), *reduced]]
        if any(cells):
            rows.append(Row(group.label, tuple(cells), reference=group.label == BASELINE))
        if any(cells) and len(reduced[0]) < len(group.scores):
            incomplete.append(group.label)
    notes = [_values_note(rows, f"{scope.when}, on each {scope.name}")]
    if incomplete:
        notes.append(f"Mean and worst use only the seeds that have all domains: {', '.join(incomplete)}.")
    first = next((row.label for row in rows if not row.reference), None)
    if first is not None:
        notes += [verdict(rows, columns, len(scope.domains) + i, first) for i in range(2)]
    unit = f"{metric.unit}, " if metric.unit else ""
    better = "higher" if metric.higher_is_better else "lower"
    title = f"{task}: {metric.name} by {scope.name} ({unit}{better} is better)"
    return Table(title, tuple(columns), tuple(rows), tuple(filter(None, notes)))


def _task_table(tasks: Sequence[str], scope: Scope, groups: Sequence[Group], baseline: Group | None) -> Table:
    """One row a label, one column a metric, then delta_m against the baseline and the mean rank."""
    metrics = [metric for task in tasks for metric in task_metrics(task)]
    headlines = [metrics.index(task_metrics(task)[0]) for task in tasks]
    columns = [metric.column(name) for metric, name in zip(metrics, _names(metrics), strict=True)]
    rows = [_metric_row(group, scope, metrics) for group in groups]
    first = rows[0].label if rows else BASELINE
    judged = [(column, first) for column in headlines]
    notes = [_values_note(rows, scope.when + ("" if scope.pooled else f", mean over {scope.name}s"))]
    if baseline is not None:
        base_row = _metric_row(baseline, scope, metrics, reference=True)
        missing = [metric.key for metric, cell in zip(metrics, base_row.cells, strict=True) if cell is None]
        if missing:
            notes.append(f"No delta_m: no finished single-task run measured {', '.join(missing)}.")
        else:
            notes.append(DELTA_M_NOTE)
            judged = [(len(columns), BASELINE), *([(len(columns), first)] if len(rows) > 1 else [])]
            columns.append(Column("delta_m", "%", 2, higher_is_better=False))
            cells = [_delta_m_cell(group, scope, metrics, base_row) for group in (baseline, *groups)]
            rows = [
                Row(r.label, (*r.cells, c), r.reference)
                for r, c in zip([base_row, *rows], cells, strict=True)
            ]
    if len(groups) > 1:
        ranks = _mean_ranks([row for row in rows if not row.reference], metrics)
        rows = [Row(row.label, (*row.cells, ranks.get(row.label)), row.reference) for row in rows]
        columns.append(Column("mean rank", "", 2, higher_is_better=False))
        notes.append(
            f"Mean rank over the metrics (ties share), among the {len(ranks)} labels measured in full."
        )
    notes += [verdict(rows, columns, column, label) for column, label in judged]
    return Table(f"{', '.join(tasks)}: all metrics", tuple(columns), tuple(rows), tuple(filter(None, notes)))


def _names(metrics: Sequence[Metric]) -> list[str]:
    """Names of the metrics, with the task in front where two tasks share one."""
    count = Counter(metric.name for metric in metrics)
    return [metric.name if count[metric.name] == 1 else f"{metric.task}: {metric.name}" for metric in metrics]


def _metric_row(group: Group, scope: Scope, metrics: Sequence[Metric], reference: bool = False) -> Row:
    values = [list(group.over(scope.domains, metric, mean).values()) for metric in metrics]
    return Row(group.label, tuple(map(Cell.of, values)), reference)


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
    return Cell(0.0, spread.stderr if spread else None, len(each), "0 (reference)")


def _mean_ranks(rows: Sequence[Row], metrics: Sequence[Metric]) -> dict[str, Cell]:
    means = {row.label: [cell.mean for cell in row.cells[: len(metrics)] if cell is not None] for row in rows}
    full = {label: values for label, values in means.items() if len(values) == len(metrics)}
    if not full:
        return {}
    ranks = mean_rank(full, [metric.higher_is_better for metric in metrics])
    return {label: Cell(rank) for label, rank in ranks.items()}


def _values_note(rows: Sequence[Row], what: str) -> str:
    """How many seeds a number stands for."""
    counts = sorted({cell.n for row in rows for cell in row.cells if cell is not None})
    if not counts:
        return ""
    if counts == [1]:
        return f"Values of one seed: {what}."
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean \N{PLUS-MINUS SIGN} standard error over {seeds} seeds: {what}."


def verdict(rows: Sequence[Row], columns: Sequence[Column], column: int, reference: str) -> str:
    """One sentence: which labels differ from ``reference`` in a column by more than the noise.

    The noise is one standard error of the difference, sqrt(s_a^2 + s_b^2), the seeds taken as independent.
    """
    base = next((row.cells[column] for row in rows if row.label == reference), None)
    said: dict[str, list[str]] = {"better": [], "worse": [], "within the noise": []}
    unknown = []
    for row in rows:
        cell = row.cells[column]
        if row.label == reference or row.reference or cell is None:
            continue
        if base is None or base.stderr is None or cell.stderr is None:
            unknown.append(row.label)
            continue
        gain = cell.mean - base.mean if columns[column].higher_is_better else base.mean - cell.mean
        noise = math.hypot(cell.stderr, base.stderr)
        if math.isnan(gain) or math.isnan(noise):
            unknown.append(row.label)
        elif abs(gain) <= noise:
            said["within the noise"].append(row.label)
        else:
            said["better" if gain > 0 else "worse"].append(row.label)
    parts = [f"{word}: {', '.join(labels)}" for word, labels in said.items() if labels]
    if unknown:
        parts.append(f"no standard error, so not judged: {', '.join(unknown)}")
    if not parts:
        return ""
    what = f"{columns[column].name} against {reference}"
    return f"{what} (noise: one standard error of the difference): {'; '.join(parts)}."
