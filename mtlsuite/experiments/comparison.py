"""Predictions of several methods on the same fixed images, side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import UsageError
from .restored import Place, Restored, fixed_places, restore
from .results import RunResult
from .summary import by_label
from .task_table import BASELINE

Array: TypeAlias = NDArray[Any]
Problems: TypeAlias = dict[str, list[str]]  # what is wrong -> the runs of which it is true
Read = TypeVar("Read")


@dataclass
class Comparison:
    """N fixed images of one evaluation, and what the methods make of them.

    Attributes:
        held_out: domains held out in training, on which the methods are then compared.
        places: domain and number of each image.
        inputs: (C, H, W) each.
        targets: task -> N targets.
        predictions: task -> label of a method -> N predictions.
        channels: task -> its output channels.
        classes: names of the classes, or empty.
        inverse_depth: whether depth grows as things come nearer.
        seeds: of the runs shown.
    """

    held_out: tuple[str, ...]
    places: list[Place]
    inputs: list[Array]
    targets: dict[str, list[Array]]
    channels: dict[str, int]
    classes: tuple[str, ...]
    inverse_depth: bool
    predictions: dict[str, dict[str, list[Array]]] = field(default_factory=dict)
    seeds: set[int] = field(default_factory=set)


def methods(runs: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """Finished runs by label, the single-task runs of the baseline first where there are any."""
    runs = list(runs)
    baseline = [run for run in runs if run.finished and run.baseline]
    return {**({BASELINE: baseline} if baseline else {}), **by_label(runs)}


def used(runs: Sequence[RunResult]) -> list[RunResult]:
    """The finished runs; only those with held-out domains where there are any, as in the tables."""
    finished = [run for run in runs if run.finished]
    return [run for run in finished if run.held_out] or finished


def compare(runs: Sequence[RunResult], folder: Path, samples: int, problems: Problems) -> Comparison | None:
    """Restore runs that share an evaluation, and show them the same images; None if none can be restored.

    Of each label, the run with the lowest seed is shown; of the baseline, one run a task.

    Args:
        runs: finished ones of one evaluation, see :func:`evaluations`.
        folder: holds ``runs``.
        samples: images to show; see :func:`~.restored.fixed_places`.
        problems: runs that cannot be restored are noted here.
    """
    comparison: Comparison | None = None
    for label, several in methods(runs).items():
        for run in _to_show(several):
            restored = attempt(restore, run, folder / "runs" / run.name, problems)
            if restored is not None:
                comparison = comparison or _start(restored, run, samples)
                _add(comparison, label, run, restored)
    return comparison


def attempt(
    read: Callable[[RunResult, Path], Read], run: RunResult, folder: Path, problems: Problems
) -> Read | None:
    """``read(run, folder)``; None, and a note in ``problems``, where the run is not what it should be."""
    try:
        return read(run, folder)
    except UsageError as error:
        names = problems.setdefault(error.message, [])
        if run.name not in names:
            names.append(run.name)
        return None


def evaluations(runs: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """Runs evaluated on the same images, which share data set, domains and held-out domains.

    Trials, which share the images of a domain out in different ways, belong together as seeds do.

    Each group has a name that a file can have: of its held-out domains, or ``""`` if it is the only one.
    """
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        data = run.config.get("data")
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if name != "trial_seed"}
        key = [data, run.config.get("domains"), run.held_out]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    if len(groups) == 1:
        return {"": next(iter(groups.values()))}
    named: dict[str, list[RunResult]] = {}
    for group in groups.values():
        name = file_name("+".join(group[0].held_out) or "validation")
        number = sum(other == name or other.startswith(f"{name}_") for other in named)
        named[f"{name}_{number + 1}" if number else name] = group
    return named


def file_name(text: str) -> str:
    """``text`` with every character that a file name should not have replaced by ``-``."""
    return re.sub(r"[^A-Za-z0-9+.-]", "-", text)


def _to_show(runs: Sequence[RunResult]) -> list[RunResult]:
    """The first seed of every set of tasks."""
    chosen: dict[tuple[str, ...], RunResult] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        chosen.setdefault(run.tasks, run)
    return list(chosen.values())


def _start(restored: Restored, run: RunResult, samples: int) -> Comparison:
    dataset = restored.problem.dataset
    places = fixed_places(restored.splits, samples)
    items = [restored.splits[domain][index] for domain, index in places]
    return Comparison(
        held_out=run.held_out,
        places=places,
        inputs=[_array(image) for image, _ in items],
        targets={task: [_array(targets[task]) for _, targets in items] for task in dataset.tasks},
        channels=dict(dataset.tasks),
        classes=tuple(dataset.classes),
        inverse_depth=bool(getattr(dataset, "inverse_depth", False)),
    )


def _add(comparison: Comparison, label: str, run: RunResult, restored: Restored) -> None:
    comparison.seeds.add(run.seed)
    for domain, index in comparison.places:
        _, _, predictions = restored.predict(domain, [index])
        for task in restored.problem.tasks:
            by_method = comparison.predictions.setdefault(task, {})
            by_method.setdefault(label, []).append(_array(predictions[task][0]))


def _array(tensor: Tensor) -> Array:
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array
