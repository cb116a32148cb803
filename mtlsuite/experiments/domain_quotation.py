"""Published rows in the tables of held-out domains and of single training domains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..core.registry import lookup
from .published_domains import COLUMNS, PROTOCOLS, SEVERAL, DomainRow, published_domains
from .quotation import differences, marked, printed, sources
from .results import RunResult
from .scores import evaluation_of
from .tables import Cell, Row

Asking = Mapping[str, Sequence[RunResult]]  # data set -> its runs, where they ask for published rows


def asking(runs: Mapping[str, Sequence[RunResult]]) -> dict[str, Sequence[RunResult]]:
    """Of runs by data set, those on a published one whose configs all have ``baseline: published``."""
    return {
        dataset: found
        for dataset, found in runs.items()
        if dataset in SEVERAL and all(evaluation_of(run).baseline == "published" for run in found)
    }


def domain_rows(
    selection: str, dataset: str, domains: Sequence[str], runs: Sequence[RunResult]
) -> tuple[list[Row], list[str]]:
    """The published rows for a table of one data set, and what must be said about them.

    Args:
        selection: of the table.
        dataset: its registered name.
        domains: columns of the table, which a column for the mean and one for the worst domain follow.
        runs: those of the table, whose configs and records are compared with what the rows share.
    """
    found = [row for row in published_domains(selection) if dataset in row.averages]
    if not found:
        return [], [f"Nothing quoted: no published rows on {dataset} under this selection."]
    rows = []
    for row in found:
        alone = [row.domains.get(dataset, {}).get(domain) for domain in domains]
        rows.append(_row(row, [*alone, row.averages[dataset], None]))
    return rows, [_sources(found), _comparability(selection, {dataset: runs})]


def average_rows(selection: str, asking: Asking) -> tuple[list[Row], list[str]]:
    """The same for a table of all data sets, whose columns are ``COLUMNS`` of the selection."""
    found = published_domains(selection)
    if not found:
        return [], ["Nothing quoted: no published rows under this selection."]
    columns = COLUMNS[selection]
    rows = [_row(row, [row.averages.get(column) for column in columns]) for row in found]
    return rows, [_sources(found), _comparability(selection, asking)]


def average_columns(selection: str) -> tuple[str, ...]:
    """The columns of a table of all data sets: their registered names, maybe then the average."""
    return COLUMNS.get(selection, SEVERAL)


def _row(row: DomainRow, texts: Sequence[str | None]) -> Row:
    cells: list[Cell | None] = [printed(text) if text else None for text in texts]
    return Row(marked(row.label), tuple(cells), reference=True, source=_source(row))


def _source(row: DomainRow) -> str:
    return f"{row.source}; {row.chosen}"


def _sources(rows: Sequence[DomainRow]) -> str:
    return sources([(row.label, _source(row)) for row in rows])


def _comparability(selection: str, asking: Asking) -> str:
    protocol = PROTOCOLS[selection]
    configs = [run.config for runs in asking.values() for run in runs]
    different = differences(protocol, configs)
    if any(config["model"].get("freeze_bn") is False for config in configs):
        different.append("BatchNorm is not frozen")
    different += [words for dataset, runs in asking.items() if (words := _other_images(dataset, runs))]
    if different:
        return f"Not comparable with the quoted rows: {'; '.join(different)}."
    return (
        f"The runs agree with the quoted rows in {', '.join(protocol)} and the number of images; in other "
        "constants the quoted papers differ among themselves."
    )


def _other_images(dataset: str, runs: Sequence[RunResult]) -> str:
    """The length of an epoch in the records gives away another number of images."""
    counts: Mapping[str, int | None] = lookup("dataset", dataset).published.domains
    others = []
    for run in runs:
        batch_size, holdout = run.config["train"]["batch_size"], run.config["data"]["holdout_fraction"]
        trained = [n and n - int(n * holdout) for domain, n in counts.items() if domain not in run.held_out]
        known = [n for n in trained if n]
        largest = sum(known) if run.config.get("sources") in ("views", "tasks") else max(known, default=0)
        wanted = math.ceil(largest / batch_size)
        found = [round(record["step"] / record["epoch"]) for record in run.records if record["epoch"]]
        if found and len(known) == len(trained) and found[0] != wanted:
            others.append((found[0], wanted))
    if not others:
        return ""
    measured, expected = (_span(numbers) for numbers in zip(*others, strict=True))
    return f"on {dataset} an epoch has {measured} steps instead of {expected}: other images"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
