"""What ``step_cost`` found, as tables and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from measure import Ratio

from mtlsuite.experiments.tables import Cell, Column, Row, Table

WAYS = {"ours": "ours", "papers": "papers' way", "autojac": "TorchJD autojac", "autogram": "TorchJD autogram"}


@dataclass(frozen=True)
class Result:
    """One way of taking a method's step in one case.

    Attributes:
        case, method, way: which.
        time: as a multiple of the plain step; None: it failed.
        overhead: our time over that of the bare passes, of our way only.
        memory: peak, as a multiple of the plain step's; None: it failed.
        seconds: median time.
        repeats: rounds.
        threads: of torch.
        note: why it failed.
    """

    case: str
    method: str
    way: str
    time: Ratio | None
    overhead: Ratio | None
    memory: float | None
    seconds: float | None
    repeats: int
    threads: int
    note: str = ""


def tables(title: str, results: Sequence[Result]) -> list[Table]:
    """Times of all ways with our overhead, and memory; a row a method. Why a way failed is noted."""
    found = {(result.method, result.way): result for result in results}
    ways = {way: label for way, label in WAYS.items() if any(key[1] == way for key in found)}
    methods = list(dict.fromkeys(result.method for result in results))
    columns = tuple(Column(label, digits=2) for label in ways.values())
    times = [
        Row(m, (*(_time(found.get((m, way))) for way in ways), _ratio(found[m, "ours"].overhead)))
        for m in methods
    ]
    memory = [Row(m, tuple(_memory(found.get((m, way))) for way in ways)) for m in methods]
    failed = [f"n/a: {r.method}, {WAYS.get(r.way, r.way)}: {r.note}" for r in results if r.note]
    unit = "in multiples of a plain step"
    how = "median (quartiles); overhead: our time over that of the same passes and optimizer step alone"
    return [
        Table(f"{title}: time {unit}", (*columns, Column("overhead")), tuple(times), (*failed, how)),
        Table(f"{title}: peak memory {unit}", columns, tuple(memory)),
    ]


def to_csv(results: Sequence[Result]) -> str:
    """A line a result, numbers in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ratio = ("time_ratio", "time_low", "time_high", "overhead", "overhead_low", "overhead_high")
    rest = ("memory_ratio", "seconds", "repeats", "threads", "note")
    writer.writerow(["case", "method", "way", *ratio, *rest])
    for r in results:
        numbers = [*_numbers(r.time), *_numbers(r.overhead), r.memory, r.seconds, r.repeats, r.threads]
        writer.writerow([r.case, r.method, r.way, *numbers, r.note])
    return out.getvalue()


def _numbers(ratio: Ratio | None) -> list[float | None]:
    return [None] * 3 if ratio is None else [ratio.median, ratio.low, ratio.high]


def _time(result: Result | None) -> Cell | None:
    return None if result is None else _ratio(result.time) or _failed()


def _memory(result: Result | None) -> Cell | None:
    if result is None:
        return None
    return _failed() if result.memory is None else Cell(result.memory)


def _ratio(ratio: Ratio | None) -> Cell | None:
    return None if ratio is None else Cell(ratio.median, text=str(ratio))


def _failed() -> Cell:
    return Cell(float("nan"), text="n/a")
