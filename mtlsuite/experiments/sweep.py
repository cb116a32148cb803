"""From a config file to its runs: all that is listed under ``sweep`` crossed, each run with its own id."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UsageError, unknown_name
from .config import Config, names, validate
from .config_file import ConfigFile, read
from .files import atomic_write
from .messages import shown
from .results import CONFIG, solver_label
from .yaml_file import Key, dotted, dump, parse_key, put

COSMETIC = (
    "name",
    "plugins",
    "label",
    "single_task",
    "device",
    "threads",
    "tensorboard",
)  # leave the results alone
_FIRST = ("solver", "held_out", "seed")  # the order of crossing; other keys follow in the order of the file


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        id: readable and unique; its last 8 digits depend on all of the config that can change results.
        label: its row in the tables.
        config: the run alone, everything decided.
        baseline: a model of one task alone, part of the baseline of delta_m.
        place: from a key of the config to the place in the file that decided it, for messages.
    """

    id: str
    label: str
    config: Config
    baseline: bool = False
    place: Callable[[Key], str] = field(default=dotted, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[Run], tuple[Any, ...]]:
        return Run, (self.id, self.label, self.config, self.baseline)  # another process has no file to name


@dataclass(frozen=True)
class Experiment:
    """Runs that are compared with each other; ``name`` is empty where the file holds one experiment."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class _Choice:
    target: Key  # what is set
    value: Any
    origin: Key  # where the file says so
    label: str | None = None

    @property
    def about_solver(self) -> bool:
        return self.target[0] == "solver"


@dataclass(frozen=True)
class _Point:
    """One combination of choices, validated."""

    choices: tuple[_Choice, ...]
    config: Config
    place: Callable[[Key], str] = dotted


def expand(file: ConfigFile) -> list[Experiment]:
    """Validate a file and list the runs of each of its experiments, in a stable order.

    Raises:
        UsageError: what is wrong, with file and line, one problem a line; also two runs with the same id.
    """
    return [Experiment(name, tuple(_runs(file, name))) for name in file.prefixes]


def check_folder(out: Path, file: ConfigFile, write: bool = True) -> None:
    """Refuse a folder that holds the results of another config; otherwise write ``out/config.yaml``.

    A sweep may have changed since, for every run has a folder of its own; and where no run has begun,
    there are no results.

    Args:
        out: the folder of the results; made if missing.
        file: the config at hand.
        write: whether to write; otherwise the folder is only looked at.

    Raises:
        UsageError: the folder holds another config (the message lists what differs), or nothing can be
            written there.
    """
    for folder in (out / "runs", out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"cannot write results to {out}: {folder} is not a folder; choose another --out")
    path = out / CONFIG
    begun = any(out.glob("runs/*")) or any(out.glob("*/runs/*"))
    if begun and path.exists():
        _compare(out, read(path, plugins=False), file)  # its plugins may have moved; ours are here
    try:
        if write:
            atomic_write(path, dump({"name": file.name, **file.document.data}))
    except OSError as error:
        raise UsageError(f"cannot write results to {out}: {error.strerror}; choose another --out") from None


def _runs(file: ConfigFile, name: str) -> list[Run]:
    values, prefix = file.experiment(name), file.prefixes[name]
    axes = _axes(file, prefix, values)
    points = [_point(file, prefix, values, choices) for choices in itertools.product(*axes)]
    labels = _solver_labels(points)
    runs = [_run(point, _label(point, labels, axes)) for point in points]
    _refuse_twins(file, prefix, runs, points)
    return runs + _baselines(points, axes)


def _axes(file: ConfigFile, prefix: Key, values: dict[str, Any]) -> list[list[_Choice]]:
    """The choices for every swept key, in the order of crossing; the sweep leaves ``values``."""
    if "sweep" not in values:
        return []
    sweep = values.pop("sweep")
    if not isinstance(sweep, Mapping) or not sweep:
        allowed = "a mapping of keys to lists with at least one value"
        raise _error(file, prefix, ("sweep",), f"found {shown(sweep)}; allowed: {allowed}")
    order = sorted(sweep, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    return [_axis(file, prefix, key, sweep[key]) for key in order]


def _axis(file: ConfigFile, prefix: Key, key: str, values: Any) -> list[_Choice]:
    origin, target = ("sweep", key), parse_key(key)
    allowed_keys = [field for field in Config.model_fields if field not in ("name", "label", "single_task")]
    if target[0] not in allowed_keys:
        raise _error(file, prefix, origin, unknown_name("key", target[0], allowed_keys))
    if key == "solver" and isinstance(values, dict) and values:
        return [_Choice(target, spec, (*origin, label), label) for label, spec in values.items()]
    if not isinstance(values, list) or not values:
        allowed = "a list with at least one value"
        if key == "solver":
            allowed += ", or a mapping of labels to solvers"
        elif isinstance(values, dict):
            allowed += (
                f" (to sweep a part, join the keys with a dot: '{key}.{next(iter(values), 'part')}: [...]')"
            )
        raise _error(file, prefix, origin, f"found {shown(values)}; allowed: {allowed}")
    if key == "held_out":
        values = [names(value) for value in values]
    return [_Choice(target, value, (*origin, index)) for index, value in enumerate(values)]


def _point(file: ConfigFile, prefix: Key, values: Mapping[str, Any], choices: tuple[_Choice, ...]) -> _Point:
    chosen = copy.deepcopy(dict(values))
    for choice in choices:
        try:
            put(chosen, choice.target, choice.value)
        except UsageError as error:
            raise _error(file, prefix, choice.origin, error.message) from None

    def place(key: Key) -> str:
        for choice in reversed(choices):
            target = choice.target
            if key[: len(target)] == target:
                return file.document.place((*prefix, *choice.origin, *key[len(target) :]), len(prefix))
            if target[: len(key)] == key and key[0] not in values:  # made by the sweep on its way
                return file.document.place((*prefix, *choice.origin), len(prefix))
        return file.document.place((*prefix, *key), len(prefix))

    return _Point(choices, validate(chosen, place), place)


def _solver_labels(points: Sequence[_Point]) -> dict[Key, str]:
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
            labels[origin] = _with(label, {key.split(".")[-1]: own[key] for key in differ})
    return labels


def _label(point: _Point, labels: Mapping[Key, str], axes: Sequence[Sequence[_Choice]]) -> str:
    """The solver, then every swept value that is neither held-out domains nor a seed."""
    base = point.config.label or solver_label(point.config.resolved()["solver"])
    base = next((labels[choice.origin] for choice in point.choices if choice.origin in labels), base)
    return _with(base, _swept(point, axes))


def _swept(point: _Point, axes: Sequence[Sequence[_Choice]], solver: bool = True) -> dict[str, Any]:
    targets = [axis[0].target for axis in axes]
    ends = [target[-1] for target in targets]
    return {
        str(choice.target[-1]) if ends.count(choice.target[-1]) == 1 else dotted(choice.target): choice.value
        for choice in point.choices
        if dotted(choice.target) not in _FIRST and (solver or not choice.about_solver)
    }


def _run(point: _Point, label: str, baseline: bool = False) -> Run:
    config = point.config.model_copy(update={"label": label, "single_task": False})
    decisive = {key: value for key, value in config.resolved().items() if key not in COSMETIC}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    parts = [_slug(label), f"seed-{config.seed}", digest]
    if config.held_out:
        parts.insert(1, f"held-{_slug('+'.join(config.held_out))}")
    return Run("_".join(parts), label, config, baseline, point.place)


def _baselines(points: Sequence[_Point], axes: Sequence[Sequence[_Choice]]) -> list[Run]:
    """One run a task where ``single_task`` is asked for, once for all solvers."""
    runs: dict[str, Run] = {}
    for point in points:
        for task in (point.config.known_tasks() or ()) if point.config.single_task else ():
            solver = {**point.config.resolved()["solver"], "base": "equal", "wrap": []}
            alone = {**point.config.resolved(), "tasks": [task], "solver": solver, "single_task": False}
            swept = _swept(point, axes, solver=False)
            swept.pop("tasks", None)
            run = _run(
                _Point((), validate(alone), point.place), _with(f"single-task {task}", swept), baseline=True
            )
            runs.setdefault(run.id, run)
    return list(runs.values())


def _refuse_twins(file: ConfigFile, prefix: Key, runs: Sequence[Run], points: Sequence[_Point]) -> None:
    seen: dict[str, _Point] = {}
    for run, point in zip(runs, points, strict=True):
        # file systems that ignore case, and tables, must tell them apart too
        other = seen.setdefault(run.id.lower(), point)
        if other is not point:
            pairs = [
                (a.origin, b.origin) for a, b in zip(other.choices, point.choices, strict=True) if a != b
            ]
            first, second = pairs[0]
            message = f"the same run as {dotted(first)}, both have the id {run.id!r}"
            raise _error(file, prefix, second, message)


def _compare(out: Path, old: ConfigFile, new: ConfigFile) -> None:
    there, wanted = ({e.name: e for e in expand(file)} for file in (old, new))
    shared = [name for name in wanted if name in there]
    lines = []
    if not shared:
        before, after = (", ".join(filter(None, names)) or "one without a name" for names in (there, wanted))
        lines = [f"  experiments: {before} there, {after} wanted"]
    for name in shared:
        was, now = (flat(experiments[name].runs[0].config.resolved()) for experiments in (there, wanted))
        swept = [*_swept_keys(old, name), *_swept_keys(new, name), *COSMETIC]
        for key in dict.fromkeys([*was, *now]):
            ignored = any(key == other or key.startswith(f"{other}.") for other in swept)
            if not ignored and was.get(key) != now.get(key):
                title = f"{name}: {key}" if name else key
                lines.append(f"  {title}: {shown(was.get(key))} there, {shown(now.get(key))} wanted")
    if lines:
        text = "\n".join(lines)
        raise UsageError(f"{out} holds the results of another config; choose another --out\n{text}")


def _swept_keys(file: ConfigFile, name: str) -> list[str]:
    """The keys whose value in the first run says nothing about the others, followers included."""
    keys = [key.removesuffix(".name") for key in file.experiment(name).get("sweep") or ()]
    if "seed" in keys:
        keys.append("solver.seed")
    if any(key.startswith("train") for key in keys):
        keys.append("evaluation.every")
    return keys


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as one mapping from dotted keys to values."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(index): item for index, item in enumerate(value)}
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _with(label: str, options: Mapping[str, Any]) -> str:
    return " ".join([label, *(f"{key}={_text(value)}" for key, value in options.items())])


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value["name"]) if set(value) == {"name"} else json.dumps(value)
    return "+".join(map(_text, value)) if isinstance(value, list) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+=-]+", "-", text).strip("-.")[:80] or "run"


def _error(file: ConfigFile, prefix: Key, key: Key, message: str) -> UsageError:
    return UsageError(f"{file.document.place((*prefix, *key), len(prefix))}: {message}", (*prefix, *key))
