"""What one experiment is: the schema of the YAML files, checked once, at the door.

``validate`` turns one run as YAML gives it into a ``Config``. Everything that can be known without loading
data is checked here, options of registered classes included; nothing later checks it again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

# Importing a package registers its classes.
from .. import data, metrics, models, solvers, wrappers  # noqa: F401
from ..core import registry
from ..core.errors import UsageError, unknown_name
from ..core.types import Count
from .messages import problems
from .options import check_schedule, complete, complete_optimizer, complete_scheduler
from .parts import (
    Averaging,
    EvaluationConfig,
    Part,
    Seed,
    SolverConfig,
    Spec,
    SwadConfig,
    TrainConfig,
    ViewsConfig,
)
from .precision import Autocast
from .yaml_file import NAMED, Key, dotted

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"  # becomes a folder


def _unique(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for index, name in enumerate(names or ()):
        if name in (names or ())[:index]:
            raise UsageError(f"found {name!r} twice: two sources with the same name", (index,))
    return names


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"found {name!r}; allowed: auto, cpu, cuda, or cuda:0, cuda:1, ...")
    return name


def _autocast(name: Any) -> Any:
    if name == "float16":
        raise UsageError(
            "found 'float16', whose small gradients underflow unless each loss is scaled, with a factor that "
            "depends on earlier steps; allowed: null, 'bfloat16', which has the range of float32"
        )
    return name


Names = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_unique)]
DataSpec = Annotated[Spec, AfterValidator(lambda spec: complete("dataset", spec))]
ModelSpec = Annotated[Spec, AfterValidator(lambda spec: complete("model", spec))]
OptimizerSpec = Annotated[Spec, AfterValidator(complete_optimizer)]
SchedulerSpec = Annotated[Spec, AfterValidator(complete_scheduler)]


class Config(Part):
    """One run, everything in it decided."""

    name: Annotated[str, Field(pattern=NAME)] = "experiment"
    plugins: Annotated[tuple[str, ...], Field(strict=False)] = ()  # imported by the file's reader
    data: DataSpec
    model: ModelSpec
    sources: Literal["tasks", "domains", "views", "domains x tasks"]
    graph: Literal["auto", "joint", "separate"] = "auto"
    tasks: Annotated[Names, Field(min_length=1)] | None = None
    domains: Annotated[Names, Field(min_length=1)] | None = None
    held_out: Names = ()
    views: ViewsConfig | None = None
    solver: SolverConfig
    optimizer: OptimizerSpec
    scheduler: SchedulerSpec | None = None
    train: TrainConfig
    evaluation: EvaluationConfig
    averaging: Averaging | None = None
    seed: Seed = 0
    label: Annotated[str, Field(min_length=1)] | None = None
    single_task: bool = False
    batch_norm: Literal["local", "synchronised"] = "local"
    autocast: Annotated[Autocast | None, BeforeValidator(_autocast)] = None
    channels_last: bool = False
    device: Annotated[str, AfterValidator(_device)] = "auto"
    threads: Count | None = None
    tensorboard: bool = False

    @pydantic.model_validator(mode="before")
    @classmethod
    def _full_form(cls, values: Any) -> Any:
        return normalise(values) if isinstance(values, Mapping) else values

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Config:
        self._check_domains()
        self._check_sources()
        if self.evaluation.every > self.train.length:
            raise UsageError(
                f"found {self.evaluation.every}; allowed: at most the {self.train.length} {self.train.unit} "
                "of train",
                ("evaluation", "every"),
            )
        self._check_averaging()
        if self.scheduler is not None:
            try:
                check_schedule(self.optimizer, self.scheduler)
            except UsageError as error:
                raise error.under("scheduler") from None
        return self

    def _check_averaging(self) -> None:
        evaluations = math.ceil(self.train.length / self.evaluation.every)
        if isinstance(self.averaging, SwadConfig) and evaluations < self.averaging.n_converge:
            raise UsageError(
                f"found {self.averaging.n_converge}, but the run has {evaluations} evaluations after its "
                "start; a valley of the loss needs at least n_converge of them: lower evaluation.every",
                ("averaging", "n_converge"),
            )

    def resolved(self) -> dict[str, Any]:
        """The config as plain mappings, lists and scalars, defaults filled in; loads to an equal Config."""
        resolved: dict[str, Any] = _plain(self)
        return resolved

    def known_tasks(self) -> tuple[str, ...] | None:
        """The tasks, as far as they can be told before the data set is made."""
        offered = self._offered("tasks")
        return self.tasks or (tuple(offered) if offered is not None else None)

    def _offered(self, what: Literal["tasks", "domains"]) -> Sequence[str] | None:
        """Tasks or domains that the class of the data set declares, or None where it depends on its data."""
        declared = getattr(registry.lookup("dataset", self.data["name"]), what, None)
        return tuple(declared) if isinstance(declared, tuple | list | dict) else None

    def _check_domains(self) -> None:
        for key in ("tasks", "domains"):
            self._check_members(key, self._offered(key))
        domains = self.domains if self.domains is not None else self._offered("domains")
        self._check_members("held_out", domains)
        if domains is not None and not set(domains) - set(self.held_out):
            raise UsageError(
                f"found {list(self.held_out)}; no domain of {list(domains)} is left to train on",
                ("held_out",),
            )

    def _check_members(
        self, key: Literal["tasks", "domains", "held_out"], allowed: Sequence[str] | None
    ) -> None:
        for index, name in enumerate(getattr(self, key) or ()):
            if allowed is not None and name not in allowed:
                raise UsageError(
                    unknown_name("task" if key == "tasks" else "domain", name, allowed), (key, index)
                )

    def _check_sources(self) -> None:
        if self.views is not None and self.sources != "views":
            raise UsageError(
                f"allowed only with 'sources: views', found sources {self.sources!r}", ("views",)
            )
        if self.graph == "separate" and self.sources == "tasks":
            raise UsageError("found 'separate'; tasks share one graph; allowed: auto, joint", ("graph",))
        if not self.single_task:
            return
        tasks = self.known_tasks()
        if self.sources != "tasks":
            raise UsageError(
                f"found true; allowed only with 'sources: tasks', not {self.sources!r}", ("single_task",)
            )
        if tasks is None:
            raise UsageError(
                f"found true; the data set {self.data['name']!r} tells its tasks only once it is made: "
                "name them in 'tasks: [...]'",
                ("single_task",),
            )
        if len(tasks) < 2:
            raise UsageError(
                f"found true with the tasks {list(tasks)}; at least two are needed", ("single_task",)
            )


def validate(values: object, place: Callable[[Key], str] = dotted) -> Config:
    """One run as a ``Config``.

    Args:
        values: the mapping as YAML gives it; short forms are allowed.
        place: from a key path to the place that messages name.

    Raises:
        UsageError: one line per problem.
    """
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        found = problems(error, normalise(values) if isinstance(values, Mapping) else values)
        lines = [f"{place(problem.key)}: {problem.message}" for problem in found]
        raise UsageError("\n".join(lines), found[0].key) from None


def normalise(values: Mapping[str, Any]) -> dict[str, Any]:
    """The long form of every short form, and the defaults that depend on other keys.

    What is not of the expected form stays as it is, for the schema to refuse.
    """
    full = {"solver": "equal", "optimizer": {"name": "Adam", "lr": 1e-3}, "evaluation": {}, **values}
    for key in NAMED:
        if key in full:
            full[key] = _named(full[key])
    if isinstance(full["optimizer"], Mapping):
        full["optimizer"] = {"name": "Adam", **full["optimizer"]}
    if "held_out" in full:
        full["held_out"] = names(full["held_out"])
    if "domains" in full:
        full["domains"] = _texts(full["domains"])
    solver = {"base": full["solver"]} if isinstance(full["solver"], str) else full["solver"]
    if isinstance(solver, Mapping):
        full["solver"] = solver = {"base": "equal", **solver}
        solver["base"] = _named(solver["base"])
        if isinstance(solver.get("wrap"), list | tuple):
            solver["wrap"] = [_named(item) for item in solver["wrap"]]
        if _is_integer(full.get("seed", 0), 0):
            solver.setdefault("seed", full.get("seed", 0))
    train, evaluation = full.get("train"), full["evaluation"]
    if isinstance(train, Mapping) and isinstance(evaluation, Mapping):
        lengths = [train[unit] for unit in ("steps", "epochs") if _is_integer(train.get(unit), 1)]
        full["evaluation"] = {**({"every": lengths[0]} if lengths else {}), **evaluation}
        if isinstance(full.get("scheduler"), Mapping):
            unit = "step" if train.get("steps") else "epoch"
            full["scheduler"] = {**full["scheduler"], "interval": full["scheduler"].get("interval", unit)}
    if full.get("sources") == "views" and full.get("views") is None:
        full["views"] = {}
    return full


def names(value: Any) -> Any:
    """A bare name as a list of one, nothing as an empty list, and numbers as text."""
    return _texts(value if isinstance(value, list | tuple) else [] if value is None else [value])


def _texts(values: Any) -> Any:
    if not isinstance(values, list | tuple):
        return values
    number = (int, float)
    return [str(v) if isinstance(v, number) and not isinstance(v, bool) else v for v in values]


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _named(spec: Any) -> Any:
    return {"name": spec} if isinstance(spec, str) else spec


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {key: _plain(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
