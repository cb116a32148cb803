"""The combinations of everything that is listed under ``sweep``, each validated."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import UsageError, unknown_name
from ..data.domainbed_split import seed_hash
from .config import Config, names, validate
from .config_file import ConfigFile
from .hparams import Search, keys_set, parse_search, parse_seeds
from .messages import shown
from .results import solver_label
from .yaml_file import Key, dotted, parse_key, put

SEARCH = ("hparams", "trial")  # keys of a sweep that are no keys of a config
# the order of crossing; other keys follow in the order of the file
FIRST = ("solver", "hparams", "held_out", "trial", "seed")


@dataclass(frozen=True)
class Choice:
    """One of the values listed for a key.

    Attributes:
        target: what is set.
        value: to what.
        origin: where the file says so.
        label: for a solver that the file names.
    """

    target: Key
    value: Any
    origin: Key
    label: str | None = None

    @property
    def about_solver(self) -> bool:
        """Whether it sets the solver or a part of it."""
        return self.target[0] == "solver"


@dataclass(frozen=True)
class Point:
    """One combination of choices, with the validated config that follows from them.

    Attributes:
        choices: one for each key of the sweep.
        config: all decided.
        place: from a key of the config to the place in the file that decided it.
    """

    choices: tuple[Choice, ...]
    config: Config
    place: Callable[[Key], str] = dotted

    def chosen(self, key: str) -> Any:
        """The value of a key of the sweep, or None."""
        return next((choice.value for choice in self.choices if choice.target == (key,)), None)


def points(file: ConfigFile, name: str) -> list[Point]:
    """The points of one experiment, in the order of crossing; one where it has no sweep.

    Raises:
        UsageError: something in the sweep, or in a config that it leads to, is wrong.
    """
    return _Sweep(file, name).points()


def job_seed(config: Config, hparams_seed: int, trial: int) -> int:
    """The seed of a run of a search: a hash of data set, algorithm, held-out domains and both seeds."""
    algorithm = solver_label(config.resolved()["solver"])
    return seed_hash(config.data["name"], algorithm, list(config.held_out), hparams_seed, trial)


def error(file: ConfigFile, prefix: Key, key: Key, message: str) -> UsageError:
    """A UsageError about ``key`` of the experiment at ``prefix``, with its place in the file."""
    return UsageError(f"{file.document.place((*prefix, *key), len(prefix))}: {message}", (*prefix, *key))


class _Sweep:
    """The section ``sweep`` of one experiment."""

    def __init__(self, file: ConfigFile, name: str) -> None:
        self.file, self.prefix = file, file.prefixes[name]
        self.values = file.experiment(name)
        self.search: Search | None = None
        self.axes: list[list[Choice]] = []
        if "sweep" in self.values:
            self._read(self.values.pop("sweep"))

    def points(self) -> list[Point]:
        return [self._point(choices) for choices in itertools.product(*self.axes)]

    def _read(self, sweep: Any) -> None:
        if not isinstance(sweep, Mapping) or not sweep:
            allowed = "a mapping of keys to lists with at least one value"
            raise self._error(("sweep",), f"found {shown(sweep)}; allowed: {allowed}")
        self._refuse_conflicts(sweep)
        order = sorted(sweep, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
        self.axes = [
            self._search_axis(key, sweep[key]) if key in SEARCH else self._axis(key, sweep[key])
            for key in order
        ]

    def _refuse_conflicts(self, sweep: Mapping[str, Any]) -> None:
        """What trials and random hyperparameters set cannot be swept as well."""
        decided = keys_set({key: sweep[key] for key in SEARCH if key in sweep})
        for key in sweep:
            if key in decided:
                raise self._error(("sweep", key), f"it is set by sweep.{decided[key]}; allowed: one of them")
        if "hparams" in sweep and self.values.get("single_task"):
            message = (
                "single_task needs one baseline, not one for each draw; give it an experiment of its own"
            )
            raise self._error(("sweep", "hparams"), message)

    def _search_axis(self, key: str, section: Any) -> list[Choice]:
        origin: Key = ("sweep", key)
        try:
            if key == "trial":
                seeds = parse_seeds(section, ())
            else:
                self.search = parse_search(section)
                seeds, origin = self.search.seeds, (*origin, "seeds")
        except UsageError as wrong:
            raise self._error(("sweep", key, *wrong.key), wrong.message) from None
        return [Choice((key,), seed, (*origin, index)) for index, seed in enumerate(seeds)]

    def _axis(self, key: str, values: Any) -> list[Choice]:
        origin, target = ("sweep", key), parse_key(key)
        fields = [field for field in Config.model_fields if field not in ("name", "label", "single_task")]
        if target[0] not in fields:
            raise self._error(origin, unknown_name("key", target[0], [*fields, *SEARCH]))
        if key == "solver" and isinstance(values, dict) and values:
            return [Choice(target, spec, (*origin, label), label) for label, spec in values.items()]
        if not isinstance(values, list) or not values:
            allowed = "a list with at least one value"
            if key == "solver":
                allowed += ", or a mapping of labels to solvers"
            elif isinstance(values, dict):
                joined = f"'{key}.{next(iter(values), 'part')}: [...]'"
                allowed += f" (to sweep a part, join the keys with a dot: {joined})"
            raise self._error(origin, f"found {shown(values)}; allowed: {allowed}")
        if key == "held_out":
            values = [names(value) for value in values]
        return [Choice(target, value, (*origin, index)) for index, value in enumerate(values)]

    def _point(self, choices: tuple[Choice, ...]) -> Point:
        applied = tuple(choice for choice in choices if choice.target[0] not in SEARCH)
        point = Point(choices, *self._decided(applied))
        if len(applied) < len(choices):
            applied += self._following(point)
            point = Point(choices, *self._decided(applied))
        return point

    def _decided(self, choices: tuple[Choice, ...]) -> tuple[Config, Callable[[Key], str]]:
        """The config under these choices, and where each of its keys comes from."""
        chosen = copy.deepcopy(self.values)
        for choice in choices:
            try:
                put(chosen, choice.target, choice.value)
            except UsageError as wrong:
                raise self._error(choice.origin, wrong.message) from None
        document, prefix = self.file.document, self.prefix

        def place(key: Key) -> str:
            for choice in reversed(choices):
                target = choice.target
                if key[: len(target)] == target:
                    return document.place((*prefix, *choice.origin, *key[len(target) :]), len(prefix))
                if target[: len(key)] == key and key[0] not in self.values:  # made by the sweep on its way
                    return document.place((*prefix, *choice.origin), len(prefix))
            return document.place((*prefix, *key), len(prefix))

        return validate(chosen, place), place

    def _following(self, point: Point) -> tuple[Choice, ...]:
        """What the trial and the hyperparameter seed decide: the draws, the split of the data, the seed."""
        config, trial, hparams_seed = point.config, point.chosen("trial") or 0, point.chosen("hparams") or 0
        origin: Key = ("sweep", "trial" if point.chosen("trial") is not None else "hparams")
        found = [Choice(("seed",), job_seed(config, hparams_seed, trial), origin)]
        if "trial_seed" in config.data:
            found.append(Choice(("data", "trial_seed"), trial, origin))
        values = self.search.values(config, hparams_seed, trial) if self.search else {}
        drawn: Key = ("sweep", "hparams", "distributions")
        return (*found, *(Choice(parse_key(key), value, (*drawn, key)) for key, value in values.items()))

    def _error(self, key: Key, message: str) -> UsageError:
        return error(self.file, self.prefix, key, message)
