"""Tables of model selection: a selection, a data set; a row an algorithm, a column a domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .domain_quotation import Asking, average_columns, average_rows, domain_rows
from .files import atomic_write
from .published_domains import AVERAGE
from .scores import worst_of
from .selection import (
    BEST_ORACLE,
    SELECTIONS,
    SINGLE_SOURCE,
    TRAINING_DOMAIN,
    Records,
    Selection,
    held_out,
    last_step,
    selected,
    single_source,
    trained_on,
)
from .tables import Cell, Column, Row, Table, to_csv, to_latex, to_markdown, to_rich

Accuracies = Mapping[tuple[str, int], Mapping[int, float]]  # (algorithm, environment) -> trial -> in [0, 1]


_SMALLER = (
    "Standard errors are sample standard deviations / sqrt(n); those that DomainBed prints are smaller by "
    "sqrt((n - 1) / n)."
)


@dataclass(frozen=True)
class _Layout:
    """What the columns of tables stand for.

    Attributes:
        environments: those that a run counts for.
        column: what one of them is called.
        value: what a number is, where the title does not say it; may be "".
        digits: decimals to print.
    """

    environments: Callable[[Records], Iterable[int]]
    column: str
    value: str
    digits: int

    def columns(self, names: Iterable[str]) -> tuple[Column, ...]:
        return tuple(Column(name, "%", self.digits, True, bare=True) for name in names)

    def title(self, what: str) -> str:
        return f"{what}: accuracy by {self.column} (%, higher is better)"


_SEVERAL = _Layout(held_out, "held-out domain", "", 1)
_SINGLE = _Layout(trained_on, "training domain", "Each value is the mean over all other domains. ", 2)


def selection_tables(
    runs: Sequence[Records], names: Mapping[str, Sequence[str]], asking: Asking | None = None
) -> list[Table]:
    """One table a data set and selection, in the form of DomainBed's own, then all data sets together.

    Where weights were averaged by SWAD, the rows that its code prints follow.

    Args:
        runs: as :func:`~.selection.selected` takes them.
        names: data set -> names of its environments, in the order of their numbers; others are numbered.
            A column stands for one that some run holds out alone.
        asking: data sets beside whose runs published rows are quoted.

    Returns:
        nothing for a selection that the runs do not allow.
    """
    return _tables(runs, names, asking or {}, SELECTIONS, _SEVERAL)


def single_source_tables(
    runs: Sequence[Records], names: Mapping[str, Sequence[str]], asking: Asking | None = None
) -> list[Table]:
    """One table a data set, then all data sets together, of runs that train on one domain each.

    A column is the domain trained on, its value the mean over all other domains at the checkpoint that is
    best on the validation part. Arguments and result: as above.
    """
    return _tables(runs, names, asking or {}, {SINGLE_SOURCE: single_source}, _SINGLE)


def write_selection(tables: Sequence[Table], path: Path, title: str) -> None:
    """Write tables to ``path`` with the endings .md, .csv and .tex."""
    heading = f"# {' '.join(title.split())}\n\n"
    atomic_write(path.with_name(f"{path.name}.md"), heading + "\n".join(map(to_markdown, tables)))
    atomic_write(path.with_name(f"{path.name}.csv"), to_csv(tables))
    atomic_write(path.with_name(f"{path.name}.tex"), "\n".join(map(to_latex, tables)))


def print_selection(tables: Sequence[Table], console: Console) -> None:
    """Show tables and their notes."""
    for table in tables:
        console.print(to_rich(table))
        for note in table.notes:
            console.print(Text(note))
        console.print()


def _tables(
    runs: Sequence[Records],
    names: Mapping[str, Sequence[str]],
    asking: Asking,
    selections: Mapping[str, Selection],
    layout: _Layout,
) -> list[Table]:
    found: list[Table] = []
    measured: dict[str, dict[str, Mapping[str, Cell]]] = {}  # selection -> data set -> algorithm -> average
    for dataset in sorted({records[0]["args"]["dataset"] for records in runs if records}):
        own = [records for records in runs if records and records[0]["args"]["dataset"] == dataset]
        environments = _environments(own, names.get(dataset, ()), layout, everything=dataset in asking)
        for title, selection in selections.items():
            accuracies = _selected(own, selection, layout)
            if accuracies:
                domains, rows = _rows(accuracies, environments, _averages(own))
                averages = {row.label: row.cells[-2] for row in rows}
                measured.setdefault(title, {})[dataset] = {k: v for k, v in averages.items() if v}
                notes = _notes(own, accuracies, title, layout)
                if dataset in asking:
                    quoted, more = domain_rows(title, dataset, domains, asking[dataset])
                    rows, notes = [*quoted, *rows], [*notes, *more]
                columns = layout.columns((*domains, "mean", "worst"))
                found.append(Table(layout.title(f"{dataset}, {title}"), columns, tuple(rows), tuple(notes)))
        found += _swad_table(dataset, own, names.get(dataset, ()), layout)
    return found + [
        _average_table(title, means, asking, layout) for title, means in measured.items() if len(means) > 1
    ]


def _selected(runs: Sequence[Records], selection: Selection, layout: _Layout) -> Accuracies:
    """Of the runs on one data set."""
    return {key[1:]: trials for key, trials in selected(runs, selection, layout.environments).items()}


def _averages(runs: Sequence[Records], name: str | None = None) -> dict[str, str]:
    """Algorithms that are averages of weights, maybe of one name alone -> what they are the average of."""
    found = [records[0]["args"] for records in runs]
    return {
        args["algorithm"]: args["average_of"]
        for args in found
        if "average_of" in args and name in (None, args["averaging"])
    }


def _environments(
    runs: Sequence[Records], names: Sequence[str], layout: _Layout, everything: bool
) -> dict[int, str]:
    """The columns: environments that some run is about alone, or all, beside published means over all."""
    counted = [list(layout.environments(records)) for records in runs]
    alone = {found[0] for found in counted if len(found) == 1}
    everywhere = sorted(alone | set(range(len(names) if everything else 0)))
    return {env: names[env] if env < len(names) else f"env {env}" for env in everywhere}


def _rows(
    accuracies: Accuracies, environments: Mapping[int, str], averages: Mapping[str, str]
) -> tuple[list[str], list[Row]]:
    """The names of the columns with a domain each, and a row an algorithm, ERM first, averages below."""
    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in accuracies))
    trained = [averages.get(algorithm, algorithm) for algorithm in algorithms]
    order = {
        algorithm: (base != "ERM", trained.index(base), algorithm != base)
        for algorithm, base in zip(algorithms, trained, strict=True)
    }
    rows = [
        Row(algorithm, _cells([accuracies.get((algorithm, env), {}) for env in environments]))
        for algorithm in sorted(algorithms, key=order.__getitem__)
    ]
    return list(environments.values()), rows


def _cells(columns: Sequence[Mapping[int, float]]) -> tuple[Cell | None, ...]:
    """From trial -> accuracy, one a domain: their cells, the mean of the means, the worst of each trial."""
    cells = [Cell.of([100 * value for value in values.values()]) for values in columns]
    means = [cell.mean for cell in cells if cell is not None]
    mean = Cell(sum(means) / len(means)) if len(means) == len(cells) else None
    trials = sorted(set.intersection(*(set(values) for values in columns)))
    worst = worst_of(higher_is_better=True)
    return (*cells, mean, Cell.of([100 * worst([values[trial] for values in columns]) for trial in trials]))


def _notes(runs: Sequence[Records], accuracies: Accuracies, selection: str, layout: _Layout) -> list[str]:
    trials = sorted({len(values) for values in accuracies.values()})
    seeds = len({records[0]["args"]["hparams_seed"] for records in runs})
    counted = str(trials[0]) if len(trials) == 1 else f"{trials[0]} to {trials[-1]}"
    one = trials == [1]
    several = (
        f", {'' if one else 'each '}with the best of up to {seeds} hyperparameter seeds" if seeds > 1 else ""
    )
    swad = [name for name in _averages(runs, "swad") if any(name == label for label, _ in accuracies)]
    chosen = (
        "its best checkpoint"
        if selection == BEST_ORACLE
        else "at the end of training: no checkpoint is chosen"
    )
    error = "" if one else "Mean \N{PLUS-MINUS SIGN} standard error over "
    return [
        f"{layout.value}{error}{'One trial' if one else f'{counted} trials'}{several}; mean: of the "
        f"{'values' if one else 'means'} in the row; worst: the lowest accuracy over the {layout.column}s "
        "within each trial, for the trials that have all of them.",
        *([] if one else [_SMALLER]),
        *([f"{', '.join(swad)}: the averaged model, {chosen}."] if swad else []),
    ]


def _swad_table(dataset: str, runs: Sequence[Records], names: Sequence[str], layout: _Layout) -> list[Table]:
    """What SWAD's code prints of a training: its oracle, training-domain validation, last step and SWAD."""
    swad = _averages(runs, "swad")
    if not swad or layout is not _SEVERAL:
        return []
    iid = _selected(runs, SELECTIONS[TRAINING_DOMAIN], layout)
    ways = {
        "oracle": _selected(runs, SELECTIONS[BEST_ORACLE], layout),
        "iid": iid,
        "last": _selected(runs, last_step, layout),
    }
    found: dict[tuple[str, int], Mapping[int, float]] = {}
    for averaged, trained in swad.items():
        for way, accuracies in ways.items():
            found |= {
                (f"{trained}: {way}", env): v for (name, env), v in accuracies.items() if name == trained
            }
        found |= {(name, env): v for (name, env), v in iid.items() if name == averaged}
    environments = _environments(runs, names, layout, everything=False)
    domains, rows = _rows(found, environments, {})
    note = (
        "oracle: the checkpoint that is best on the out-split of the held-out domain; iid: best on those of "
        "the training domains; last: the last checkpoint; the rows of SWAD: the averaged model at the end. "
        "Mean and worst as in the tables above."
    )
    columns = layout.columns((*domains, "mean", "worst"))
    rows = [Row(row.label, row.cells, reference=row.label.endswith(": oracle")) for row in rows]
    return [Table(layout.title(f"{dataset}, as SWAD's code prints it"), columns, tuple(rows), (note,))]


def _average_table(
    selection: str, measured: Mapping[str, Mapping[str, Cell]], asking: Asking, layout: _Layout
) -> Table:
    """A row an algorithm, a column a data set: the means of the tables above."""
    known = average_columns(selection)
    published = set(measured) <= set(known)
    columns = known if published else (*measured, AVERAGE)
    rows = []
    for algorithm in dict.fromkeys(name for means in measured.values() for name in means):
        cells = [measured.get(dataset, {}).get(algorithm) for dataset in columns]
        means = [cell.mean for cell in cells if cell is not None]
        if AVERAGE in columns and len(means) == len(columns) - 1:
            cells[columns.index(AVERAGE)] = Cell(sum(means) / len(means))
        rows.append(Row(algorithm, tuple(cells)))
    notes = [f"Means of the tables by {layout.column}."]
    if published and set(measured) <= set(asking):
        quoted, more = average_rows(selection, asking)
        rows, notes = [*quoted, *rows], [*notes, *more]
    title = f"{selection}: mean accuracy by data set (%, higher is better)"
    return Table(title, layout.columns(columns), tuple(rows), tuple(notes))
