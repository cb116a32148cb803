"""Published rows as rows of a table, with what must be said about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .published import MARK, Published, PublishedRow, published
from .results import RunResult
from .scores import Metric, evaluation_of
from .tables import Cell, Row

_MISSING = object()


@dataclass(frozen=True)
class Quotation:
    """Rows that were not measured here.

    Attributes:
        baseline: the single-task row; None: there is none.
        rows: of the methods, cells for the metrics alone.
        delta_m: of all these rows as printed, by label.
        notes: sources, and how the runs at hand differ from the published protocol.
    """

    baseline: Row | None = None
    rows: tuple[Row, ...] = ()
    delta_m: Mapping[str, Cell] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def quote(runs: Sequence[RunResult], metrics: Sequence[Metric]) -> Quotation:
    """The published rows that the configs of the runs ask for; nothing, and why, where none fit.

    Args:
        runs: those of the table.
        metrics: its columns.
    """
    if not runs or any(evaluation_of(run).baseline == "measured" for run in runs):
        return Quotation()
    names = sorted({str(_value(run.config, "data.name")) for run in runs})
    ways = {evaluation_of(run).averaging for run in runs}
    found = published(names[0], ways.pop()) if len(names) == len(ways) == 1 else None
    if found is None or found.metrics != tuple(metric.key for metric in metrics):
        on = " and ".join(names)
        return Quotation(
            notes=(f"Nothing quoted: no published rows of these metrics, averaged in this way, on {on}.",)
        )
    everyone = [found.baseline, *found.rows] if found.baseline else found.rows
    rows = [_row(row, len(metrics)) for row in everyone]
    baseline = rows.pop(0) if found.baseline else None
    delta_m = {marked(row.label): printed(row.delta_m) for row in everyone if row.delta_m}
    notes = (sources([(row.label, row.source) for row in everyone]), _comparability(found, runs))
    return Quotation(baseline, tuple(rows), delta_m, tuple(filter(None, notes)))


def marked(label: str) -> str:
    """The label of a quoted row."""
    return f"{label} {MARK}"


def printed(text: str) -> Cell:
    """A number as it was printed."""
    return Cell(float(text), digits=len(text.partition(".")[2]))


def sources(rows: Sequence[tuple[str, str]]) -> str:
    """Where rows, label and source, are from, in a sentence."""
    by_source: dict[str, list[str]] = {}
    for label, source in rows:
        by_source.setdefault(source, []).append(label)
    quoted = "; ".join(f"{', '.join(labels)} ({source})" for source, labels in by_source.items())
    return f"{MARK} quoted, not measured here: {quoted}."


def differences(protocol: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """In what configs differ from a protocol, in words.

    Args:
        protocol: dotted key -> value.
        configs: resolved ones.
    """
    found = []
    for key, wanted in protocol.items():
        others = [value for config in configs if (value := _value(config, key)) != wanted]
        if others:
            found.append(f"{key} {_words(others)} instead of {_text(wanted)}")
    return found


def _row(row: PublishedRow, n_metrics: int) -> Row:
    cells = tuple(map(printed, row.values)) or (None,) * n_metrics
    return Row(marked(row.label), cells, reference=True, source=row.source)


def _comparability(found: Published, runs: Sequence[RunResult]) -> str:
    if not found.protocol:
        return "The protocol of the quoted rows is another one in more than the averaging."
    own = [run for run in runs if not run.baseline]
    different = [*differences(found.protocol, [run.config for run in own]), *_other_data(found, own)]
    if different:
        return f"Not comparable with the quoted rows, by their protocol: {'; '.join(different)}."
    return "The runs follow the protocol of the quoted rows in all that configs and records tell."


def _other_data(found: Published, runs: Sequence[RunResult]) -> list[str]:
    """The length of an epoch in the records gives away that the runs saw another number of frames."""
    if not found.frames:
        return []
    steps = {
        (round(record["step"] / record["epoch"]), math.ceil(found.frames / run.config["train"]["batch_size"]))
        for run in runs
        for record in run.records
        if record["epoch"]
    }
    others = [f"{there} steps instead of {wanted}" for there, wanted in sorted(steps) if there != wanted]
    return [f"an epoch has {' and '.join(others)}: other data"] if others else []


def _value(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part, _MISSING) if isinstance(node, Mapping) else _MISSING
    return node


def _words(values: Sequence[Any]) -> str:
    return " and ".join(dict.fromkeys(map(_text, values)))


def _text(value: Any) -> str:
    if value is _MISSING or value is None:
        return "none"
    if isinstance(value, Mapping):
        options = [f"{key}={item}" for key, item in value.items() if key != "name"]
        return " ".join([*([str(value["name"])] if "name" in value else []), *options])
    return str(value)
