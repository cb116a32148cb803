"""What the bargaining benchmark found: one result a case and way, judged, and their tables and verdict."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from bargaining_cases import Array, Case, Extended
from bargaining_ways import OURS
from measure import Ratio

from mtlsuite.experiments.tables import Cell, Column, Row, Table

WRONG = 1e-2  # residual from which weights count as no solution
TARGET = 50.0


@dataclass(frozen=True)
class Result:
    """What one way gave for one case.

    Attributes:
        case: the gradients.
        way: its name.
        seconds: median of the rounds.
        ratio: its time over ours, round by round.
        residual: max_i |a_i (G a)_i - 1|; NaN without finite weights.
        log_error: max_i |log a_i - log a*_i| to the reference a*; NaN without positive weights or reference.
        failure: empty where the answer is right, else what is wrong with it.
    """

    case: Case
    way: str
    seconds: float
    ratio: Ratio
    residual: float
    log_error: float
    failure: str


def judged(case: Case, given: Array | str | None, exact: Extended | None) -> tuple[float, float, str]:
    """(residual, error of the logarithms, failure) of weights, of None, or of an exception's name."""
    if given is None:
        return math.nan, math.nan, "no weights" if case.solvable else ""
    if isinstance(given, str):
        return math.nan, math.nan, given
    if not np.isfinite(given).all():
        return math.nan, math.nan, "not finite"
    residual = float(np.abs(given * (case.gramian @ given) - 1).max())
    if given.min() <= 0:
        return residual, math.nan, "not positive"
    error = math.nan if exact is None else float(np.abs(np.log(given) - np.log(exact)).max())
    if not case.solvable:
        return residual, error, "weights"
    return residual, error, "" if residual <= WRONG else "inexact"


def tables(results: Sequence[Result]) -> list[Table]:
    """Times of ours, then of each way over ours, residuals and failures; hard and unsolvable families."""
    grid = [result for result in results if _in_grid(result)]
    hard = [result for result in results if not _in_grid(result) and result.case.solvable]
    unsolvable = [result for result in results if not result.case.solvable]
    names = list(dict.fromkeys(result.way for result in results))
    found = []
    if grid:
        found.append(_by_condition(f"Microseconds of {OURS}", grid, OURS, lambda r: f"{1e6 * r.seconds:.0f}"))
        found += [
            _by_condition(
                f"Time of {name} as a multiple of ours (quartiles)", grid, name, lambda r: str(r.ratio)
            )
            for name in names
            if name != OURS
        ]
        found += [_accuracy(grid, names)]
    if hard:
        found.append(_by_way("Hard Gramians: time over ours, residual", hard, names, _short))
    if unsolvable:
        found.append(_by_way("Gramians without a solution: what is returned", unsolvable, names, _returned))
    return found


def _in_grid(result: Result) -> bool:
    return result.case.family == "conditioned"


def _by_condition(title: str, results: Sequence[Result], way: str, text: Callable[[Result], str]) -> Table:
    cells = {
        (r.case.k, r.case.condition): Cell(r.ratio.median, text=text(r)) for r in results if r.way == way
    }
    conditions = sorted({condition for _, condition in cells if condition is not None})
    columns = tuple(Column(f"condition {condition:.0e}") for condition in conditions)
    rows = [
        Row(f"K = {k}", tuple(cells.get((k, condition)) for condition in conditions))
        for k in sorted({k for k, _ in cells})
    ]
    return Table(title, columns, tuple(rows))


def _accuracy(results: Sequence[Result], names: Sequence[str]) -> Table:
    """A row a way, a column a condition: the largest residual over K, and how many answers are wrong."""
    conditions = sorted({r.case.condition for r in results if r.case.condition is not None})

    def cell(name: str, condition: float) -> Cell:
        chosen = [r for r in results if r.way == name and r.case.condition == condition]
        worst = max((r.residual for r in chosen if not r.failure), default=math.nan)
        wrong = [r for r in chosen if r.failure]
        return Cell(worst, text=f"{worst:.0e}" + (f", {len(wrong)} of {len(chosen)} fail" if wrong else ""))

    columns = tuple(Column(f"condition {condition:.0e}") for condition in conditions)
    rows = tuple(Row(name, tuple(cell(name, condition) for condition in conditions)) for name in names)
    return Table("Largest residual over K of the answers that are right, and failures", columns, rows)


def _by_way(
    title: str, results: Sequence[Result], names: Sequence[str], text: Callable[[Result], str]
) -> Table:
    labels = list(dict.fromkeys(_label(r.case) for r in results))
    cells = {(_label(r.case), r.way): Cell(r.ratio.median, text=text(r)) for r in results}
    rows = [Row(label, tuple(cells.get((label, name)) for name in names)) for label in labels]
    return Table(title, tuple(map(Column, names)), tuple(rows))


def _label(case: Case) -> str:
    return f"{case.family}, K = {case.k}"


def _short(result: Result) -> str:
    return f"{result.ratio.median:.0f}x, {result.failure or format(result.residual, '.0e')}"


def _returned(result: Result) -> str:
    if not result.failure:
        return "none"
    return f"residual {result.residual:.0e}" if math.isfinite(result.residual) else result.failure


def verdict(results: Sequence[Result]) -> list[str]:
    """Of each way the smallest speed-up over it and its failures, and whether the target is met."""
    lines = []
    ours = [r for r in results if r.way == OURS]
    failed = [_label(r.case) for r in ours if r.failure]
    for name in dict.fromkeys(r.way for r in results if r.way != OURS):
        chosen = [r for r in results if r.way == name]
        grid = [r for r in chosen if _in_grid(r)]
        line = f"- {name}: {_failures(chosen)}"
        if grid:
            least = min(grid, key=lambda r: r.ratio.median)
            where = f"K = {least.case.k}, condition {least.case.condition:.0e}"
            met = "met" if least.ratio.median >= TARGET and not failed else "NOT met"
            line += f"; ours is at least {least.ratio.median:.3g} times as fast ({where}): target {met}"
        lines.append(line)
    head = f"Target: ours at least {TARGET:g} times as fast at every K and condition, and never failing."
    return [head, f"- {OURS}: {_failures(ours)}" + "".join(f"; {label}" for label in failed), *lines]


def _failures(results: Sequence[Result]) -> str:
    solvable = [r for r in results if r.case.solvable]
    others = [r for r in results if not r.case.solvable]
    text = f"fails on {sum(bool(r.failure) for r in solvable)} of {len(solvable)} Gramians with a solution"
    if others:
        text += f", on {sum(bool(r.failure) for r in others)} of {len(others)} without one"
    return text


def results_csv(results: Sequence[Result]) -> str:
    """One line a case and way, the numbers in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [
        "family",
        "k",
        "condition",
        "dtype",
        "solvable",
        "way",
        "seconds",
        "ratio",
        "ratio_low",
        "ratio_high",
    ]
    writer.writerow([*names, "residual", "log_error", "failure"])
    for r in results:
        dtype = str(r.case.matrix.dtype).removeprefix("torch.")
        case = [r.case.family, r.case.k, r.case.condition, dtype, r.case.solvable]
        numbers = [r.seconds, r.ratio.median, r.ratio.low, r.ratio.high, r.residual, r.log_error]
        writer.writerow([*case, r.way, *numbers, r.failure])
    return out.getvalue()
