"""Sentences below a table: how many seeds a number stands for, and what differs by more than the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .tables import Column, Row


def values_note(rows: Sequence[Row], what: str) -> str:
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
