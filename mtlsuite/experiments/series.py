"""Curves: a number of every record against the step, averaged over the runs of one label."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .results import RunResult

Read = Callable[[dict[str, Any]], float | None]


@dataclass(frozen=True)
class Series:
    """Means over seeds at the steps that all runs have; ``stderr`` is None for a single seed."""

    steps: list[int]
    mean: list[float]
    stderr: list[float] | None

    @property
    def constant(self) -> bool:
        """Whether nothing moves and the seeds agree."""
        spread = self.stderr or [0.0]
        return max(self.mean) - min(self.mean) < 1e-9 and max(spread) < 1e-9


def series(runs: Sequence[RunResult], read: Read) -> Series | None:
    """The curve of ``read(record)``: first averaged over the runs of a seed, then over the seeds.

    Runs and records in which ``read`` finds nothing (None) do not count; None if nothing is left.
    """
    curves: list[tuple[int, dict[int, float]]] = []
    for run in runs:
        found = {record["step"]: read(record) for record in run.records}
        points = {step: float(value) for step, value in found.items() if value is not None}
        if points:
            curves.append((run.seed, points))
    steps = sorted(set.intersection(*(set(points) for _, points in curves))) if curves else []
    if not steps:
        return None
    seeds = list(dict.fromkeys(seed for seed, _ in curves))
    means, errors = [], []
    for step in steps:
        by_seed = [_mean([points[step] for s, points in curves if s == seed]) for seed in seeds]
        finite = all(map(math.isfinite, by_seed))
        means.append(_mean(by_seed) if finite else math.nan)
        if len(seeds) > 1:
            errors.append(statistics.stdev(by_seed) / math.sqrt(len(seeds)) if finite else math.nan)
    return Series(steps, means, errors or None)


def split_mean(part: str, metric: str, factor: float = 1.0) -> Read:
    """Reads ``metric`` averaged over the splits ``part`` and ``part/<domain>`` of a record.

    ``part`` may itself be ``val/<domain>`` or ``test/<domain>``, which is then all there is to average over.
    """

    def read(record: dict[str, Any]) -> float | None:
        values = [
            scores[metric]
            for split, scores in record["metrics"].items()
            if (split == part or split.startswith(f"{part}/")) and metric in scores
        ]
        return factor * _mean(values) if values else None

    return read


def of_source(kind: str, source: str) -> Read:
    """Reads the loss or weight (``kind`` ``losses`` or ``weights``) of one source."""

    def read(record: dict[str, Any]) -> float | None:
        value: float | None = (record.get(kind) or {}).get(source)
        return value

    return read


def sources(runs: Sequence[RunResult], kind: str = "losses") -> list[str]:
    """The sources of all runs, in order of appearance."""
    return list(dict.fromkeys(k for run in runs for record in run.records for k in record.get(kind) or {}))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
