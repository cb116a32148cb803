"""Names and options in a config, checked against the classes that they are meant for."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import itertools
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import pydantic
import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ..core import registry
from ..core.errors import UsageError, unknown_name
from .messages import problems

SUPPLIED = {  # by the framework, so a specification need not give them
    "solver": {"n_sources"},
    "wrapper": {"n_sources"},
    "metric": {"n_classes"},
}
WITHHELD = {  # given by the framework alone; the seed belongs to the solver as a whole
    "solver": {"inner", *registry.OF_THE_WHOLE},
    "wrapper": {"inner", *registry.OF_THE_WHOLE},
    "model": {"tasks", "input_shape"},
}
REQUIRED = inspect.Parameter.empty
_CLOSURE_OR_SPARSE = {"LBFGS", "SparseAdam"}
_REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError)
_NOT_FROM_TEXT = {  # need functions, other schedulers, or a measured quantity
    "LambdaLR", "MultiplicativeLR", "ChainedScheduler", "SequentialLR", "ReduceLROnPlateau",
}  # fmt: skip


def complete(kind: str, spec: object) -> dict[str, Any]:
    """A specification with every option of its class filled in, checked without constructing the class.

    Options that the framework supplies (``n_sources``, ``tasks``, ...) are left out unless given.

    Raises:
        UsageError: unknown name or option, a missing one, or a value that is not allowed; ``key`` is
            relative to ``spec``.
    """
    cls, given = registry.parse(kind, spec)
    supplied = SUPPLIED.get(kind, set()) | WITHHELD.get(kind, set())
    own = getattr(cls, "complete_options", None)  # checks what goes beyond the signature
    further = set(given) - WITHHELD.get(kind, set()) if own else set()
    known = SUPPLIED.get(kind, set()) & set(_schema(cls).model_fields)
    _check_names(given, {*options_of(kind, cls), *known, *further})
    valid = _validated(_relaxed(cls, frozenset(supplied - set(given))), given)
    valid = own(valid) if own else valid
    filled = {name: default for name, default in options_of(kind, cls).items() if _is_plain(default)}
    return {"name": cls.name, **filled, **{name: _plain(value) for name, value in valid.items()}}


def options_of(kind: str, cls: type) -> dict[str, Any]:
    """The options that a specification may give, each with its default, or ``REQUIRED``."""
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    names = set(_schema(cls).model_fields) - SUPPLIED.get(kind, set()) - WITHHELD.get(kind, set())
    options = {name: parameter.default for name, parameter in parameters.items() if name in names}
    return {**options, **dict.fromkeys(sorted(names - set(options)), None)}


def complete_optimizer(spec: object) -> dict[str, Any]:
    """``{"name": "Adam", "lr": ...}`` checked against the class of ``torch.optim``; nothing is filled in.

    Raises:
        UsageError: as ``complete``.
    """
    spec = _torch_spec("optimizer", spec, optimizers(), {"params"})
    make_optimizer(spec, [torch.nn.Parameter(torch.zeros(2, 2))])  # checks the ranges
    return spec


def complete_scheduler(spec: object) -> dict[str, Any]:
    """``{"name": "StepLR", "interval": "epoch", ...}`` checked against the class of ``lr_scheduler``.

    Raises:
        UsageError: as ``complete``.
    """
    if not isinstance(spec, Mapping):
        return _torch_spec("scheduler", spec, schedulers(), set())
    interval = spec.get("interval", "epoch")
    if interval not in ("step", "epoch"):
        raise UsageError(f"found {interval!r}; allowed: 'step' or 'epoch'", ("interval",))
    options = {key: value for key, value in spec.items() if key != "interval"}
    checked = _torch_spec("scheduler", options, schedulers(), {"optimizer", "last_epoch"})
    return {"name": checked.pop("name"), "interval": interval, **checked}


def make_optimizer(spec: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """The optimizer of a config.

    Raises:
        UsageError: torch refuses an option; ``key`` names it where it can be told.
    """
    optimizer: Optimizer = _construct(optimizers(), spec, parameters)
    return optimizer


def make_scheduler(spec: Mapping[str, Any], optimizer: Optimizer) -> LRScheduler:
    """The learning rate scheduler of a config; when to step it is ``spec["interval"]``.

    Raises:
        UsageError: torch refuses an option, also in view of the ``optimizer``; ``key`` as above.
    """
    options = {key: value for key, value in spec.items() if key != "interval"}
    scheduler: LRScheduler = _construct(schedulers(), options, optimizer)
    return scheduler


@functools.cache
def optimizers() -> dict[str, type[Optimizer]]:
    """The classes of ``torch.optim`` that take dense gradients and no closure, by name."""
    return _subclasses(torch.optim, Optimizer, _CLOSURE_OR_SPARSE)


@functools.cache
def schedulers() -> dict[str, type[LRScheduler]]:
    """The classes of ``torch.optim.lr_scheduler`` that numbers and words can describe, by name."""
    return _subclasses(lr_scheduler, LRScheduler, _NOT_FROM_TEXT)


def check_schedule(optimizer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Take a step with both, for some values fail only there.

    Raises:
        UsageError: the scheduler refuses an option or the optimizer; ``key`` is relative to ``scheduler``.
    """
    trial = make_optimizer(optimizer, [torch.nn.Parameter(torch.zeros(2, 2))])
    schedule = make_scheduler(scheduler, trial)
    try:
        trial.step()
        schedule.step()
    except _REFUSALS as error:
        raise UsageError(f"{scheduler['name']}: {type(error).__name__} in the first step: {error}") from None


def _torch_spec(kind: str, spec: object, classes: Mapping[str, type], supplied: set[str]) -> dict[str, Any]:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise UsageError(f"found {spec!r}; allowed: a name, or a mapping with the key 'name'")
    if spec["name"] not in classes:
        raise UsageError(unknown_name(kind, spec["name"], classes), ("name",))
    given = {str(key): value for key, value in spec.items() if key != "name"}
    model = _torch_schema(classes[spec["name"]])
    _check_names(given, set(model.model_fields) - supplied)
    relaxed = _optional(model, frozenset(supplied))
    return {
        "name": spec["name"],
        **{k: _plain(v) for k, v in _validated(relaxed, given, as_json=True).items()},
    }


def _check_names(given: Mapping[str, Any], allowed: set[str]) -> None:
    for name in given:
        if name not in allowed:
            raise UsageError(unknown_name("option", name, allowed), (name,))


def _validated(
    model: type[pydantic.BaseModel], given: dict[str, Any], as_json: bool = False
) -> dict[str, Any]:
    try:
        # from JSON, validation is strict and yet lists pass for tuples
        valid = model.model_validate_json(json.dumps(given)) if as_json else model.model_validate(given)
    except pydantic.ValidationError as error:
        raise problems(error, given)[0] from None
    return {name: getattr(valid, name) for name in given}


def _construct(classes: Mapping[str, Any], spec: Mapping[str, Any], first: object) -> Any:
    cls = classes[spec["name"]]
    options = {key: value for key, value in spec.items() if key != "name"}
    try:
        return cls(first, **options)
    except _REFUSALS as error:
        # torch names the option in words of its own; it is the one without which all is well
        culprit = (
            name for name in options if _accepts(cls, first, {k: options[k] for k in options if k != name})
        )
        raise UsageError(f"{spec['name']}: {error}", tuple(itertools.islice(culprit, 1))) from None


def _accepts(cls: Any, first: object, options: Mapping[str, Any]) -> bool:
    try:
        cls(first, **options)
    except _REFUSALS:
        return False
    return True


@functools.cache
def _schema(cls: type) -> type[pydantic.BaseModel]:
    return registry.schema(cls)


@functools.cache
def _relaxed(cls: type, supplied: frozenset[str]) -> type[pydantic.BaseModel]:
    return _optional(_schema(cls), supplied)


def _optional(model: type[pydantic.BaseModel], names: frozenset[str]) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = dict.fromkeys(names & set(model.model_fields), (Any, None))
    return pydantic.create_model(model.__name__, __base__=model, **fields)


@functools.cache
def _torch_schema(cls: type) -> type[pydantic.BaseModel]:
    # torch imports some of the names in its annotations for type checkers only
    hints = get_type_hints(cls.__init__, localns={**vars(typing), **vars(collections.abc)})  # type: ignore[misc]
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:  # type: ignore[misc]
        required = parameter.default is parameter.empty
        hint = hints.get(parameter.name, _hint_of(parameter.default))
        if get_origin(hint) is collections.abc.Iterable:  # pydantic would not look at its items
            hint = list[get_args(hint)]  # type: ignore[misc]
        fields[parameter.name] = (hint, ... if required else parameter.default)
    config = pydantic.ConfigDict(
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )
    return pydantic.create_model(cls.__name__, __config__=config, **fields)


def _hint_of(default: object) -> Any:
    if isinstance(default, bool | str):
        return type(default)
    return float if isinstance(default, int | float) else Any


def _subclasses(module: Any, base: type, without: set[str]) -> dict[str, Any]:
    return {
        name: cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base
        if not name.startswith("_") and name not in without
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
