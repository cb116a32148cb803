"""A plain table of results, and its four forms: terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text


@dataclass(frozen=True)
class Cell:
    """A mean over seeds, in the unit of its column.

    Attributes:
        mean: the mean.
        stderr: its standard error (sample standard deviation / sqrt(n)), or None for a single value.
        n: number of values (seeds).
        text: printed instead of the numbers.
        digits: decimals to print, where they are not those of the column.
    """

    mean: float
    stderr: float | None = None
    n: int = 1
    text: str | None = None
    digits: int | None = None

    @classmethod
    def of(cls, values: Sequence[float], text: str | None = None) -> Cell | None:
        """The cell of these values, one a seed; None where there are none."""
        if not values:
            return None
        n = len(values)
        mean = sum(values) / n
        if n == 1:
            return cls(mean, None, n, text)
        spread = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        return cls(mean, spread / math.sqrt(n), n, text)

    def show(self, digits: int, plus_minus: str = "\N{PLUS-MINUS SIGN}") -> str:
        """``83.1 ± 0.4``, or the mean alone when there is no standard error."""
        if self.text is not None:
            return self.text
        digits = digits if self.digits is None else self.digits
        mean = f"{self.mean:.{digits}f}"
        return mean if self.stderr is None else f"{mean} {plus_minus} {self.stderr:.{digits}f}"


@dataclass(frozen=True)
class Column:
    """What a column shows.

    Attributes:
        name: its name.
        unit: unit of the values, may be empty.
        digits: decimals to print.
        higher_is_better: which way is better; None where there is no better.
        bare: print the name alone in the header, because the title says unit and direction.
    """

    name: str
    unit: str = ""
    digits: int = 4
    higher_is_better: bool | None = None
    bare: bool = False

    @property
    def direction(self) -> bool | None:
        """The direction that the header shows with an arrow."""
        return None if self.bare else self.higher_is_better

    def header(self, up: str = "\N{UPWARDS ARROW}", down: str = "\N{DOWNWARDS ARROW}") -> str:
        """Name, unit and the arrow of what is better."""
        arrow = {True: up, False: down, None: ""}[self.direction]
        unit = "" if self.bare else self.unit
        return " ".join(part for part in (self.name, unit, arrow) if part)


@dataclass(frozen=True)
class Row:
    """One label and its cells, None where nothing was measured.

    Attributes:
        label: its name.
        cells: one a column.
        reference: never called the best.
        source: where a row that was not measured here is quoted from.
    """

    label: str
    cells: tuple[Cell | None, ...]
    reference: bool = False
    source: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns, with a title above and notes below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def best(self, column: int) -> set[int]:
        """Numbers of the rows that share the best printed mean of a column; none if all rows share it."""
        spec = self.columns[column]
        means = {
            number: round(cell.mean, spec.digits)
            for number, row in enumerate(self.rows)
            if (cell := row.cells[column]) is not None and math.isfinite(cell.mean) and not row.reference
        }
        if spec.higher_is_better is None or len(set(means.values())) < 2:
            return set()
        top = max(means.values()) if spec.higher_is_better else min(means.values())
        return {number for number, mean in means.items() if mean == top}

    def _grid(
        self, show: Callable[[Cell, Column], str], absent: str, mark: Callable[[str], str]
    ) -> list[list[str]]:
        """The printed cells, row by row, the best ones marked."""
        grid = [[absent] * len(self.columns) for _ in self.rows]
        for j, column in enumerate(self.columns):
            best = self.best(j)
            for i, row in enumerate(self.rows):
                if (cell := row.cells[j]) is not None:
                    text = show(cell, column)
                    grid[i][j] = mark(text) if i in best else text
        return grid


class _Fitted:
    """A table for the terminal that breaks headers, then cells, then labels where it is too wide.

    Left to itself, rich may cut the last of many columns.

    Args:
        table: to be shown.
        widths: of the columns, the label's first: as they would like it, with broken headers, and at least.
    """

    def __init__(self, table: rich.table.Table, widths: Sequence[Sequence[int]]) -> None:
        self.table = table
        self.wanted, *self.narrower = widths

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - 2 * len(self.wanted) - 1  # between columns, and at the edges
        widths = list(self.wanted)
        for level in self.narrower:
            for j in sorted(range(1, len(widths)), key=lambda j: level[j] - widths[j]):
                widths[j] = level[j] if sum(widths) > room else widths[j]
        widths[0] = max(min(widths[0], room - sum(widths[1:])), self.narrower[-1][0])
        for column, width in zip(self.table.columns, widths, strict=True):
            column.width = width
        yield self.table


def to_rich(table: Table) -> RenderableType:
    """For the terminal; the best cell of a column is bold, and the notes are not included.

    A narrow terminal breaks headers and cells between words and never cuts a number.
    """
    title = Text(table.title, style="bold")
    shown = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE, padding=(0, 1, 0, 0))
    longest = max(len("method"), *(len(row.label) for row in table.rows))
    widths = [(longest, longest, min(longest, 12))]
    shown.add_column("method", overflow="fold")
    grid = table._grid(lambda cell, column: cell.show(column.digits), "-", lambda text: text)
    for j, column in enumerate(table.columns):
        header, cells = column.header(), [row[j] for row in grid]
        word, whole = (max(map(len, [*header.split(), *texts])) for texts in (" ".join(cells).split(), cells))
        widths.append((max(len(header), whole), whole, word))
        shown.add_column(Text(header), justify="right")
    for i, (row, texts) in enumerate(zip(table.rows, grid, strict=True)):
        styles = ["bold" if i in table.best(j) else "" for j in range(len(texts))]
        shown.add_row(Text(row.label), *map(Text, texts, styles))
    return _Fitted(shown, list(zip(*widths, strict=True)))


def to_markdown(table: Table) -> str:
    """A heading, a pipe table with the best cells bold, and the notes as a list."""
    grid = table._grid(lambda cell, column: cell.show(column.digits), "-", lambda text: f"**{text}**")
    lines = [
        "| method | " + " | ".join(_markdown(column.header()) for column in table.columns) + " |",
        "| --- |" + " ---: |" * len(table.columns),
    ]
    for row, cells in zip(table.rows, grid, strict=True):
        lines.append(f"| {_markdown(row.label)} | " + " | ".join(cells) + " |")
    notes = "".join(f"- {_markdown(note)}\n" for note in table.notes)
    return f"## {_markdown(table.title)}\n\n" + "\n".join(lines) + "\n" + (f"\n{notes}" if notes else "")


def to_csv(tables: Sequence[Table]) -> str:
    """One line a cell (table, label, column, unit, mean, stderr, n, source), numbers in full precision.

    The source is ``measured``, or where the row is quoted from.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "label", "column", "unit", "mean", "stderr", "n", "source"])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is not None:
                    numbers = [repr(cell.mean), "" if cell.stderr is None else repr(cell.stderr), cell.n]
                    names = [table.title, row.label, column.name, column.unit]
                    writer.writerow([*names, *numbers, row.source or "measured"])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A booktabs table (``\\usepackage{booktabs}``), the best cells bold, the notes in small print."""

    def show(cell: Cell, column: Column) -> str:
        if cell.text is not None:
            return latex_escape(cell.text)
        return cell.show(column.digits, r"\pm").replace("nan", r"\mathrm{nan}")

    grid = table._grid(show, "--", lambda text: rf"\mathbf{{{text}}}")
    headers = [latex_escape(column.header("", "")) for column in table.columns]
    for j, column in enumerate(table.columns):
        if column.direction is not None:
            headers[j] += r" $\uparrow$" if column.direction else r" $\downarrow$"
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_escape(table.title)}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"    \toprule",
        "    method & " + " & ".join(headers) + r" \\",
        r"    \midrule",
    ]
    for row, cells in zip(table.rows, grid, strict=True):
        math_cells = [
            text if text == "--" or (cell and cell.text is not None) else f"${text}$"
            for text, cell in zip(cells, row.cells, strict=True)
        ]
        lines.append(f"    {latex_escape(row.label)} & " + " & ".join(math_cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\smallskip{{\footnotesize {latex_escape(note)}}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{DAGGER}": r"\textdagger{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def latex_escape(text: str) -> str:
    """``text`` so that LaTeX prints it as it stands, on one line."""
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))


def _markdown(text: str) -> str:
    """``text`` on one line, so that Markdown prints it as it stands, also inside a table."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|" else char for char in " ".join(text.split()))
