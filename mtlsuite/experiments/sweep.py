"""From a config file to its runs: all that is listed under ``sweep`` crossed, each run with its own id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .config import Config, validate
from .config_file import ConfigFile
from .labels import flat, slug, with_options
from .points import FIRST, SEARCH, Point, error, job_seed, points
from .results import solver_label
from .yaml_file import Key, dotted

COSMETIC = (
    "name",
    "plugins",
    "label",
    "single_task",
    "device",
    "threads",
    "tensorboard",
)  # leave the results alone


@dataclass(frozen=True)
class SearchPoint:
    """Where a run is in a sweep over trials or random hyperparameters.

    Attributes:
        algorithm: its label without the hyperparameter seed: what a selection compares.
        hparams_seed: 0 where the hyperparameters are the defaults.
        trial: the number of the repetition.
    """

    algorithm: str
    hparams_seed: int
    trial: int


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        id: readable and unique; its last 8 digits depend on all of the config that can change results.
        label: its row in the tables.
        config: the run alone, everything decided.
        baseline: a model of one task alone, part of the baseline of delta_m.
        search: where the sweep has trials or random hyperparameters.
        place: from a key of the config to the place in the file that decided it, for messages.
    """

    id: str
    label: str
    config: Config
    baseline: bool = False
    search: SearchPoint | None = None
    place: Callable[[Key], str] = field(default=dotted, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[Run], tuple[Any, ...]]:
        # another process has no file to name
        return Run, (self.id, self.label, self.config, self.baseline, self.search)


@dataclass(frozen=True)
class Experiment:
    """Runs that are compared with each other; ``name`` is empty where the file holds one experiment."""

    name: str
    runs: tuple[Run, ...]


def expand(file: ConfigFile) -> list[Experiment]:
    """Validate a file and list the runs of each of its experiments, in a stable order.

    Raises:
        UsageError: what is wrong, with file and line, one problem a line; also two runs with the same id.
    """
    return [Experiment(name, tuple(_runs(file, name))) for name in file.prefixes]


def _runs(file: ConfigFile, name: str) -> list[Run]:
    found = points(file, name)
    labels = _solver_labels(found)
    runs = [_run(point, _label(point, labels)) for point in found]
    _refuse_twins(file, file.prefixes[name], runs, found)
    return runs + _baselines(found)


def _solver_labels(points: Sequence[Point]) -> dict[Key, str]:
    """Label of every swept solver, by origin; namesakes differ by the options that they do not share."""
    labels: dict[Key, str] = {}
    options: dict[str, dict[Key, dict[str, Any]]] = {}  # unlabelled solvers by name
    for point in points:
        choice = next((choice for choice in point.choices if choice.target == ("solver",)), None)
        if choice is not None and choice.origin not in labels:
            solver = point.config.resolved()["solver"]
            labels[choice.origin] = choice.label or solver_label(solver)
            if choice.label is None:
                options.setdefault(labels[choice.origin], {})[choice.origin] = flat(solver)
    for label, namesakes in options.items():
        for origin, own in namesakes.items():
            differ = [key for key in own if any(other.get(key) != own[key] for other in namesakes.values())]
            labels[origin] = with_options(label, {key.split(".")[-1]: own[key] for key in differ})
    return labels


def _label(point: Point, labels: Mapping[Key, str]) -> str:
    """The solver, then every swept value that is neither held-out domains nor a seed."""
    base = point.config.label or solver_label(point.config.resolved()["solver"])
    base = next((labels[choice.origin] for choice in point.choices if choice.origin in labels), base)
    return with_options(base, _swept(point))


def _swept(point: Point, solver: bool = True) -> dict[str, Any]:
    ends = [choice.target[-1] for choice in point.choices]
    return {
        str(choice.target[-1]) if ends.count(choice.target[-1]) == 1 else dotted(choice.target): choice.value
        for choice in point.choices
        if dotted(choice.target) not in FIRST and (solver or not choice.about_solver)
    }


def _run(point: Point, algorithm: str, baseline: bool = False) -> Run:
    hparams_seed, trial = (point.chosen(key) for key in SEARCH)
    # each draw has a row of its own, for draws are no repetitions
    label = algorithm if hparams_seed is None else with_options(algorithm, {"hparams": hparams_seed})
    search = None
    if hparams_seed is not None or trial is not None:
        search = SearchPoint(algorithm, hparams_seed or 0, trial or 0)
    config = point.config.model_copy(update={"label": label, "single_task": False})
    decisive = {key: value for key, value in config.resolved().items() if key not in COSMETIC}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    held_out = [f"held-{slug('+'.join(config.held_out))}"] if config.held_out else []
    repetition = f"trial-{search.trial}" if search else f"seed-{config.seed}"
    name = "_".join([slug(label), *held_out, repetition, digest])
    return Run(name, label, config, baseline, search, point.place)


def _baselines(points: Sequence[Point]) -> list[Run]:
    """One run a task where ``single_task`` is asked for, once for all solvers."""
    runs: dict[str, Run] = {}
    for point in points:
        for task in (point.config.known_tasks() or ()) if point.config.single_task else ():
            solver = {**point.config.resolved()["solver"], "base": "equal", "wrap": []}
            alone = {**point.config.resolved(), "tasks": [task], "solver": solver, "single_task": False}
            swept = _swept(point, solver=False)
            swept.pop("tasks", None)
            label = with_options(f"single-task {task}", swept)
            config = validate(alone | _own_seed(point, validate(alone)))
            run = _run(Point(point.choices, config, point.place), label, baseline=True)
            runs.setdefault(run.id, run)
    return list(runs.values())


def _own_seed(point: Point, alone: Config) -> dict[str, Any]:
    """The seed of a baseline in a search, where it depends on the solver; else nothing."""
    if point.chosen("trial") is None:
        return {}
    seed = job_seed(alone, 0, point.chosen("trial"))
    solver = alone.resolved()["solver"]
    follows = point.config.solver.seed == point.config.seed
    return {"seed": seed, "solver": {**solver, "seed": seed} if follows else solver}


def _refuse_twins(file: ConfigFile, prefix: Key, runs: Sequence[Run], points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for run, point in zip(runs, points, strict=True):
        # file systems that ignore case, and tables, must tell them apart too
        other = seen.setdefault(run.id.lower(), point)
        if other is not point:
            pairs = [
                (a.origin, b.origin) for a, b in zip(other.choices, point.choices, strict=True) if a != b
            ]
            first, second = pairs[0]
            message = f"the same run as {dotted(first)}, both have the id {run.id!r}"
            raise error(file, prefix, second, message)
