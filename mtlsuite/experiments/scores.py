"""Final scores of the runs, by label, seed, domain and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.registry import lookup
from ..metrics import delta_m
from .parts import EvaluationConfig
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


def evaluation_of(run: RunResult) -> EvaluationConfig:
    """The section ``evaluation`` of a run's config."""
    return EvaluationConfig.model_validate(run.config.get("evaluation") or {})


def final_scores(run: RunResult) -> Scores:
    """What a table shows of a run: split -> metric -> value, by the way of selection in its config."""
    if evaluation_of(run).select == "last":
        return run.final()
    metrics: Scores = run.records[best_evaluation(run)]["metrics"]
    return metrics


def best_evaluation(run: RunResult) -> int:
    """Number of the record that is best on the validation parts, the first of equals.

    That is the lowest delta_m over all metrics, each relative to its own mean over the run's evaluations
    after step 0; several validation domains are averaged first. An evaluation with a value that is not finite
    is never the best (where all have one, the last is), and a metric that is 0 throughout says nothing.
    """
    flags = {m.key: m.higher_is_better for task in run.tasks for m in task_metrics(task)}
    numbers = [i for i, record in enumerate(run.records) if record["step"] > 0]
    numbers = numbers or list(range(len(run.records)))
    table = np.array([[_validation(run.records[i]["metrics"], key) for key in flags] for i in numbers])
    finite = np.isfinite(table).all(axis=1)
    if not finite.any():
        return numbers[-1]
    means = table[finite].mean(axis=0)
    told = means != 0
    higher = np.array(list(flags.values()))[told]
    changes = {
        number: delta_m(row[told], means[told], higher)
        for number, row, sound in zip(numbers, table, finite, strict=True)
        if sound and told.any()
    }
    return min(changes, key=changes.__getitem__, default=numbers[-1])


def _validation(metrics: Scores, key: str) -> float:
    """Mean over the validation parts; NaN where none has the metric."""
    parts = [values for split, values in metrics.items() if split.split("/")[0] == "val"]
    found = [values[key] for values in parts if key in values]
    return mean(found) if found else math.nan


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
            for split, values in final_scores(run).items():
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
    """What the numbers of a table are about.

    Attributes:
        domains: on which they were measured.
        held_out: whether these were held out in training.
        when: which evaluations of a run a value stands for, in words.
    """

    domains: tuple[str, ...]
    held_out: bool
    when: str

    @classmethod
    def of(cls, runs: Sequence[RunResult], groups: Sequence[Group]) -> Scope:
        """The scope of a table of all these runs."""
        domains = dict.fromkeys(d for group in groups for scores in group.scores.values() for d in scores)
        held_out = any(run.held_out for run in runs)
        return cls(tuple(domains), held_out, " or ".join(dict.fromkeys(map(_when, runs))))

    @property
    def pooled(self) -> bool:
        """One validation set, not told apart by domain."""
        return self.domains == ("",)

    @property
    def name(self) -> str:
        """What one domain of it is called."""
        return "held-out domain" if self.held_out else "validation domain"


def _when(run: RunResult) -> str:
    evaluation = evaluation_of(run)
    if evaluation.select == "best":
        where = "validation data" if run.held_out else "the validation data that the table shows"
        return f"the evaluation of each run that is best on {where}"
    count = min(evaluation.average_last, sum(record["step"] > 0 for record in run.records))
    return (
        f"mean of the last {count} evaluations of each run"
        if count > 1
        else "the last evaluation of each run"
    )


def convention(runs: Sequence[RunResult], tasks: Sequence[str]) -> str:
    """How the metrics that can be averaged in two ways were averaged, in a sentence; "" for other tasks."""
    names = [task for task in tasks if lookup("metric", task).depends_on_averaging]
    ways = dict.fromkeys(
        "over all pixels (averaging: pixel)"
        if evaluation.averaging == "pixel"
        else f"over batches of {evaluation.batch_size} images, then over the batches (averaging: batch)"
        for evaluation in map(evaluation_of, runs)
    )
    return f"Averages of {' and '.join(names)}: {' or '.join(ways)}." if names else ""


def mean(values: Sequence[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def worst_of(higher_is_better: bool) -> Callable[[Sequence[float]], float]:
    """The function that picks the worst value; NaN if there is one, because a lost domain is the worst."""
    pick = min if higher_is_better else max

    def worst(values: Sequence[float]) -> float:
        return math.nan if any(map(math.isnan, values)) else pick(values)

    return worst
