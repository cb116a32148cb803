"""From runs to tables: what is averaged over what, and what may honestly be said about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from ..core.errors import UsageError
from .notes import values_note, verdict
from .results import RunResult
from .scores import Group, Scope, convention, mean, task_metrics, worst_of
from .tables import Cell, Row, Table
from .task_table import BASELINE as BASELINE
from .task_table import task_table


def summarise(runs: Sequence[RunResult]) -> list[Table]:
    """The tables of a folder of runs: only finished runs count, and a note names the others.

    Domains (held-out ones if there are any): a table per task, one column a domain, mean and worst. Tasks:
    one table, one column a metric, with the mean rank, and delta_m where there is a baseline; see
    :func:`~.task_table.task_table`.
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
    scope = Scope.of(used, everyone)
    tasks = list(
        dict.fromkeys(task for run in sorted(used, key=lambda run: run.baseline) for task in run.tasks)
    )
    tables = []
    if not scope.pooled:
        tables = [_domain_table(task, scope, everyone, convention(used, [task])) for task in tasks]
    if scope.pooled or len(tasks) > 1:
        tables.append(task_table(tasks, scope, used, groups, baseline))
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


def _domain_table(task: str, scope: Scope, groups: Sequence[Group], averaging: str) -> Table:
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
    notes = [values_note(rows, f"{scope.when}, on each {scope.name}"), averaging]
    if incomplete:
        notes.append(f"Mean and worst use only the seeds that have all domains: {', '.join(incomplete)}.")
    first = next((row.label for row in rows if not row.reference), None)
    if first is not None:
        notes += [verdict(rows, columns, len(scope.domains) + i, first) for i in range(2)]
    unit = f"{metric.unit}, " if metric.unit else ""
    better = "higher" if metric.higher_is_better else "lower"
    title = f"{task}: {metric.name} by {scope.name} ({unit}{better} is better)"
    return Table(title, tuple(columns), tuple(rows), tuple(filter(None, notes)))
