"""Final scores of the runs, by label, seed, domain and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import metrics as _registers_the_metrics  # noqa: F401
from ..core.registry import lookup
from .results import RunResult, Scores
from .tables import Column

# quantity -> how it is printed: name, factor, unit, digits; others are printed as they are
DISPLAY = {
    "accuracy": ("accuracy", 100.0, "%", 1),
    "miou": ("mIoU", 100.0, "%", 2),
    "pixel_accuracy": ("pixel accuracy", 100.0, "%", 2),
    "abs_err": ("abs. error", 1.0, "", 4),
    "rel_err": ("rel. error", 1.0, "", 4),
    "angle_mean": ("angle mean", 1.0, "deg", 2),
    "angle_median": ("angle median", 1.0, "deg", 2),
    "within_11": ("within 11.25", 100.0, "%", 2),
    "within_22": ("within 22.5", 100.0, "%", 2),
    "within_30": ("within 30", 100.0, "%", 2),
}


@dataclass(frozen=True)
class Metric:
    """One quantity of one task: ``key`` in the records, ``factor`` from there to the printed unit."""

    key: str
    higher_is_better: bool
    name: str
    factor: float
    unit: str
    digits: int

    @property
    def task(self) -> str:
        """The task that it is about."""
        return self.key.split("/")[0]

    def column(self, name: str, bare: bool = False) -> Column:
        """A column of its values."""
        return Column(name, self.unit, self.digits, self.higher_is_better, bare)


def task_metrics(task: str) -> list[Metric]:
    """The quantities of a task, the headline first, as its registered metric declares them."""
    flags: dict[str, bool] = lookup("metric", task).higher_is_better_by
    shown = {quantity: DISPLAY.get(quantity, (quantity, 1.0, "", 4)) for quantity in flags}
    return [Metric(f"{task}/{quantity}", flags[quantity], *shown[quantity]) for quantity in flags]


@dataclass(frozen=True)
class Group:
    """The final scores of all runs of one label: seed -> domain -> metric -> value.

    A run contributes its test domains if it held some out, else its validation domains (or the pooled
    validation, under the domain ``""``); what several runs of one seed measured on one domain is averaged.
    """

    label: str
    scores: dict[int, Scores]

    @classmethod
    def of(cls, label: str, runs: Sequence[RunResult]) -> Group:
        """Gather runs of one label."""
        found: dict[int, dict[str, dict[str, list[float]]]] = {}
        for run in runs:
            part = "test" if run.held_out else "val"
            for split, values in run.final().items():
                if split.split("/")[0] == part:
                    domain = found.setdefault(run.seed, {}).setdefault(split[len(part) + 1 :], {})
                    for name, value in values.items():
                        domain.setdefault(name, []).append(value)
        scores = {
            seed: {
                domain: {name: sum(v) / len(v) for name, v in values.items()}
                for domain, values in domains.items()
            }
            for seed, domains in found.items()
        }
        return cls(label, scores)

    def on(self, domain: str, metric: Metric) -> list[float]:
        """Printed values on one domain, one for each seed that has it."""
        key, factor = metric.key, metric.factor
        return [factor * s[domain][key] for s in self.scores.values() if key in s.get(domain, {})]

    def over(
        self, domains: Sequence[str], metric: Metric, reduce: Callable[[list[float]], float]
    ) -> dict[int, float]:
        """Seed -> printed value reduced over the domains, for the seeds that have all of them."""
        key = metric.key
        return {
            seed: reduce([metric.factor * scores[domain][key] for domain in domains])
            for seed, scores in self.scores.items()
            if all(key in scores.get(domain, {}) for domain in domains)
        }


@dataclass(frozen=True)
class Scope:
    """What the numbers of a table are about: which domains, and how many of the last evaluations."""

    domains: tuple[str, ...]
    held_out: bool
    evaluations: tuple[int, ...] = (1,)

    @property
    def pooled(self) -> bool:
        """One validation set, not told apart by domain."""
        return self.domains == ("",)

    @property
    def name(self) -> str:
        """What one domain of it is called."""
        return "held-out domain" if self.held_out else "validation domain"

    @property
    def when(self) -> str:
        """Which evaluations of a run its value is the mean of."""
        if self.evaluations == (1,):
            return "the last evaluation of each run"
        return f"mean of the last {' or '.join(map(str, self.evaluations))} evaluations of each run"


def mean(values: Sequence[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def worst_of(higher_is_better: bool) -> Callable[[Sequence[float]], float]:
    """The function that picks the worst value; NaN if there is one, because a lost domain is the worst."""
    pick = min if higher_is_better else max

    def worst(values: Sequence[float]) -> float:
        return math.nan if any(map(math.isnan, values)) else pick(values)

    return worst
