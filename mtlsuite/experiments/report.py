"""The report of a folder of runs: tables in three formats, figures, and the same tables on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .figures import write_figures
from .files import atomic_write
from .gallery import write_gallery
from .results import RunResult, collect
from .summary import summarise
from .tables import Table, to_csv, to_latex, to_markdown, to_rich

NOTES = "figures/notes.txt"


def write_report(folder: Path, title: str) -> list[Table]:
    """Write ``table.md``, ``table.csv``, ``table.tex`` and ``figures/`` into ``folder``; returns the tables.

    The pictures of predictions need the checkpoints and the data of the runs; ``figures/notes.txt`` says
    which runs could not be brought back, and why.

    Only finished runs count, a note names the others. Without a finished run nothing is written and the
    list is empty; :func:`print_report` then says why.

    Raises:
        UsageError: ``folder`` holds no runs, a file of a run is corrupt, or two runs cannot be told apart.
    """
    runs = collect(folder)
    tables = summarise(runs)
    if tables:
        heading = f"# {' '.join(title.split())}\n\n"
        atomic_write(folder / "table.md", heading + "\n".join(map(to_markdown, tables)))
        atomic_write(folder / "table.csv", to_csv(tables))
        atomic_write(folder / "table.tex", "\n".join(map(to_latex, tables)))
        write_figures(runs, tables, folder / "figures")
        _write_notes(folder, write_gallery(runs, folder))
    return tables


def _write_notes(folder: Path, notes: Sequence[str]) -> None:
    if notes:
        atomic_write(folder / NOTES, "".join(f"{note}\n" for note in notes))
    else:
        (folder / NOTES).unlink(missing_ok=True)


def print_report(folder: Path, title: str, tables: Sequence[Table], console: Console | None = None) -> None:
    """Show what :func:`write_report` returned for ``folder``, or which runs there are if none is finished."""
    console = console or report_console()
    console.print(Text(title, style="bold"))
    if not tables:
        console.print(Text(f"No finished run, so there is no table: {_count(collect(folder))}."))
        return
    for table in tables:
        console.print()
        console.print(to_rich(table))
        for note in table.notes:
            console.print(Text(note))
    console.print()
    if (notes := folder / NOTES).exists():
        console.print(Text(notes.read_text(encoding="utf-8").rstrip()))
    console.print(Text(f"Tables and figures: {folder}"))


def report_console(least: int = 110) -> Console:
    """A console at least that wide: a table broken by a narrow terminal is better than one that is cut."""
    console = Console()
    return console if console.width >= least else Console(width=least)


def _count(runs: Sequence[RunResult]) -> str:
    by_status = Counter("without a record" if run.status == "done" else run.status for run in runs)
    return ", ".join(f"{count} {status}" for status, count in by_status.items()) or "0 runs"
