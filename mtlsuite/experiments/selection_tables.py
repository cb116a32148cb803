"""Tables of a search: a selection, a data set; a row an algorithm, a column a held-out environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .files import atomic_write
from .selection import SELECTIONS, Records, selected
from .tables import Cell, Column, Row, Table, to_csv, to_latex, to_markdown, to_rich


def selection_tables(runs: Sequence[Records], names: Mapping[str, Sequence[str]]) -> list[Table]:
    """One table a data set and selection, in the form of DomainBed's own.

    Args:
        runs: as :func:`~.selection.selected` takes them.
        names: data set -> names of its environments, in the order of their numbers; others are numbered.
            A column stands for one that some run holds out.

    Returns:
        nothing for a selection that the runs do not allow.
    """
    found = []
    for dataset in sorted({records[0]["args"]["dataset"] for records in runs if records}):
        own = [records for records in runs if records and records[0]["args"]["dataset"] == dataset]
        for title, selection in SELECTIONS.items():
            accuracies = {key[1:]: trials for key, trials in selected(own, selection).items()}
            if accuracies:
                table = _table(f"{dataset}, {title}", own, accuracies, names.get(dataset, ()))
                found.append(table)
    return found


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


def _table(
    title: str,
    runs: Sequence[Records],
    accuracies: Mapping[tuple[str, int], Mapping[int, float]],
    names: Sequence[str],
) -> Table:
    """From (algorithm, environment) -> trial -> accuracy."""
    everywhere = sorted({env for records in runs for env in records[0]["args"]["test_envs"]})
    known = [names[env] if env < len(names) else f"env {env}" for env in everywhere]
    columns = [Column(name, "%", 1, True, bare=True) for name in (*known, "mean")]
    algorithms = dict.fromkeys(algorithm for algorithm, _ in accuracies)
    rows = []
    for algorithm in sorted(algorithms, key=lambda name: name != "ERM"):
        trials = [accuracies.get((algorithm, env), {}) for env in everywhere]
        cells = [Cell.of([100 * value for value in values.values()]) for values in trials]
        means = [cell.mean for cell in cells if cell is not None]
        mean = Cell(sum(means) / len(means)) if len(means) == len(cells) else None
        rows.append(Row(algorithm, (*cells, mean)))
    return Table(
        f"{title}: accuracy by held-out domain (%, higher is better)",
        tuple(columns),
        tuple(rows),
        _notes(runs, accuracies),
    )


def _notes(
    runs: Sequence[Records], accuracies: Mapping[tuple[str, int], Mapping[int, float]]
) -> tuple[str, ...]:
    trials = sorted({len(values) for values in accuracies.values()})
    seeds = len({records[0]["args"]["hparams_seed"] for records in runs})
    counted = str(trials[0]) if len(trials) == 1 else f"{trials[0]} to {trials[-1]}"
    return (
        f"Mean \N{PLUS-MINUS SIGN} standard error over {counted} trials, each with the best of up to {seeds} "
        "hyperparameter seeds; the last column is the mean of the means.",
        "Standard errors are sample standard deviations / sqrt(n); those that DomainBed prints are smaller "
        "by sqrt((n - 1) / n).",
    )
