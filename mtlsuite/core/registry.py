"""Names to classes, for YAML and for plugins.

A registered class is its own schema: the signature of ``__init__`` names the options, its annotations
say what is allowed (``Annotated[float, Field(gt=0)]``), and both YAML and direct calls are checked
against it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from keyword import iskeyword
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
from typing_extensions import Unpack

from .errors import UsageError, unknown_name

KINDS = ("solver", "wrapper", "ascent", "dataset", "model", "metric")
ENTRY_POINTS = "mtlsuite.plugins"

# Options of a solver as a whole, which no base solver or wrapper in its specification has for itself.
OF_THE_WHOLE = ("seed", "generator", "on_nonfinite", "memory", "jacobian_dtype")
_NOT_IN_SPECS = ("inner", *OF_THE_WHOLE)

_classes: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
_C = TypeVar("_C", bound=type)


def register(kind: str, name: str) -> Callable[[_C], _C]:
    """Class decorator: make a class known as ``name`` among the solvers, wrappers, data sets, ...

    Args:
        kind: one of ``solver``, ``wrapper``, ``ascent``, ``dataset``, ``model``, ``metric``.
        name: the snake_case name used in YAML.

    Raises:
        UsageError: unknown kind, or another class already has the name.
    """
    if kind not in KINDS:
        raise UsageError(unknown_name("kind", kind, KINDS))
    if not isinstance(name, str) or not name:
        raise UsageError(f"{_a(kind)} is registered under a name, found {name!r}")

    def decorate(cls: _C) -> _C:
        taken = _classes[kind].get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(f"the {kind} name {name!r} is taken by {taken.__module__}.{taken.__qualname__}")
        cls.name = name  # type: ignore[attr-defined]
        if cls.__init__ is not object.__init__:  # type: ignore[misc]
            _check_calls(cls)
        _classes[kind][name] = cls
        return cls

    return decorate


def registered(kind: str) -> dict[str, type]:
    """All classes of a kind by name, those of installed plugins included."""
    _load_plugins()
    return dict(sorted(_classes[kind].items()))


def lookup(kind: str, name: str) -> Any:
    """The class registered as ``name``.

    Raises:
        UsageError: no such name; the message lists the allowed ones and the nearest.
    """
    classes = registered(kind)
    if name not in classes:
        others = [other for other in KINDS if other != kind and name in registered(other)]
        hint = f"{name!r} is {_a(others[0])}, not {_a(kind)}: " if others else ""
        raise UsageError(hint + unknown_name(kind, name, classes))
    return classes[name]


def build(kind: str, spec: str | Mapping[str, Any], **context: Any) -> Any:
    """Make the object that ``spec`` (a name, or ``{"name": ..., **options}``) describes.

    ``context`` holds what the caller knows and the class may ask for by parameter name (``inner``,
    ``n_sources``, ``tasks``, ...); what the class does not ask for is dropped, and an option that
    contradicts the context is refused.

    Raises:
        UsageError: with the offending key relative to ``spec``.
    """
    cls, options = parse(kind, spec)
    asked = inspect.signature(cls.__init__).parameters
    for key, value in context.items():
        if key not in asked or value is None:
            continue
        if options.setdefault(key, value) != value:
            raise UsageError(f"{cls.name}: {key} is {value!r} here, found {options[key]!r}", (key,))
    return cls(**options)


def parse(kind: str, spec: object) -> tuple[Any, dict[str, Any]]:
    """Class and options of a specification, the names checked and the values not yet."""
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise UsageError(f"{_a(kind)} is a name or a mapping with the key 'name', found {spec!r}")
    # `lambda` is no name in Python, so the parameter is `lambda_`; YAML may say either.
    options = {f"{key}_" if iskeyword(str(key)) else str(key): spec[key] for key in spec if key != "name"}
    if len(options) < len(spec) - 1:
        doubled = next(key for key in spec if iskeyword(str(key)))
        raise UsageError(f"found both {doubled!r} and '{doubled}_'; allowed: one of them", (doubled,))
    try:
        cls = lookup(kind, spec["name"])
    except UsageError as error:
        raise error.under("name") from None
    return cls, options


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def nested(kind: str) -> pydantic.AfterValidator:
    """For an option that is itself a specification: ``Annotated[str | dict, nested("ascent")]``."""

    def check(spec: object) -> dict[str, Any]:
        cls, options = parse(kind, spec)
        try:
            schema(cls).model_validate(options)
        except pydantic.ValidationError as error:
            raise explain(cls, error) from None
        return {"name": cls.name, **options}

    return pydantic.AfterValidator(check)


def schema(cls: type) -> type[pydantic.BaseModel]:
    """The options of a class as a pydantic model, read from the signature of its ``__init__``."""
    hints = _hints(cls)
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:  # type: ignore[misc]
        hint = hints.get(parameter.name, Any)
        if parameter.kind is parameter.VAR_KEYWORD and get_origin(hint) is Unpack:
            common = get_type_hints(get_args(hint)[0], include_extras=True)
            fields.update({name: (kind, None) for name, kind in common.items()})
        elif parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            required = parameter.default is parameter.empty
            fields[parameter.name] = (_lists_too(hint), ... if required else parameter.default)
    # A class with `complete_options` checks what goes beyond its signature itself.
    config = pydantic.ConfigDict(
        extra="allow" if hasattr(cls, "complete_options") else "forbid",
        strict=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    return pydantic.create_model(f"{cls.__name__}Options", __config__=config, **fields)


def _hints(cls: type) -> dict[str, Any]:
    init: Any = cls.__init__  # type: ignore[misc]
    try:
        return get_type_hints(init, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"{cls.__qualname__}: annotations of __init__ must be names of the module: {error}"
        ) from None


def _lists_too(hint: Any) -> Any:
    """A tuple may also be given as a list, which is what YAML has."""
    if get_origin(hint) is tuple:
        return Annotated[hint, pydantic.Field(strict=False)]
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_lists_too(member) for member in get_args(hint))]  # noqa: UP007
    return hint


def as_written(part: str | int) -> str | int:
    """A part of a key as YAML has it: ``lambda`` for the parameter ``lambda_``."""
    return part[:-1] if isinstance(part, str) and part.endswith("_") and iskeyword(part[:-1]) else part


def explain(cls: type, error: pydantic.ValidationError) -> UsageError:
    """One clear error out of pydantic's: which option, what was found, what is allowed."""
    first = error.errors()[0]
    key = tuple(map(as_written, first["loc"]))
    name = getattr(cls, "name", cls.__name__)
    inside = first.get("ctx", {}).get("error")
    if isinstance(inside, UsageError):  # of a specification within this one
        return UsageError(f"{name}: {inside.message}", (*key, *inside.key))
    if first["type"] == "extra_forbidden":
        allowed = [as_written(field) for field in schema(cls).model_fields if field not in _NOT_IN_SPECS]
        return UsageError(f"{name}: {unknown_name('option', key[0], map(str, allowed))}", key)
    if first["type"] == "missing":
        return UsageError(f"{name}: the option {key[0]!r} is required", key)
    option = next((str(part) for part in key if isinstance(part, str)), "")
    messages = {e["msg"] for e in error.errors() if e["loc"][:1] == first["loc"][:1]}
    reason = " or ".join(sorted(message[0].lower() + message[1:] for message in messages))
    return UsageError(f"{name}: {option}: {reason}, found {first['input']!r}", key[:1])


def _check_calls(cls: type) -> None:
    original = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.lru_cache(maxsize=1)
    def options() -> type[pydantic.BaseModel]:
        return schema(cls)

    @functools.wraps(original)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:
        if type(self) is not cls:  # a subclass checks its own signature
            original(self, *args, **kwargs)
            return
        names = list(signature.parameters)[1:]
        if len(args) > len(names):
            signature.bind(self, *args, **kwargs)  # raises the usual TypeError
        given = dict(zip(names, args, strict=False)) | kwargs
        try:
            valid = options().model_validate(given)
        except pydantic.ValidationError as error:
            raise explain(cls, error) from None
        original(self, **{name: getattr(valid, name) for name in given})

    cls.__init__ = checked  # type: ignore[misc]


@functools.lru_cache(maxsize=1)
def _load_plugins() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise UsageError(
                f"cannot load the plugin {point.name!r} ({point.value}): {type(error).__name__}: {error}"
            ) from error


def load_plugin(plugin: str) -> None:
    """Import a module, or run a Python file once, so that it can register its classes.

    Args:
        plugin: ``package.module``, or the path of a file that ends in ``.py``.

    Raises:
        UsageError: there is no such module or file, or it fails on import.
    """
    try:
        if not plugin.endswith(".py"):
            importlib.import_module(plugin)
            return
        path = Path(plugin).resolve()
        name = f"mtlsuite_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # classes must find their module while they are made
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except UsageError as error:
        raise UsageError(f"{plugin}: {error.message}") from None
    except Exception as error:
        raise UsageError(f"cannot load {plugin}: {type(error).__name__}: {error}") from error
