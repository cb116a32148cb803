"""What is registered, for a reader: the list of everything, and one name explained in full."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from keyword import iskeyword
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from ..core.errors import UsageError, unknown_name
from ..core.registry import KINDS, registered, schema
from . import config  # noqa: F401  (registers ours)
from .docstring import read_docstring
from .messages import shown
from .options import REQUIRED, options_of

_WORDS: dict[Any, str] = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    NoneType: "null",
    dict: "mapping",
    Any: "anything",
}
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def overview() -> Iterator[Table]:
    """One table a kind: name, summary and options of everything registered."""
    for kind in KINDS:
        table = Table("name", "what", "options", title=f"{kind}s", title_justify="left", expand=True)
        for name, cls in registered(kind).items():
            table.add_row(name, read_docstring(cls).summary, _signature(kind, cls))
        yield table


def explanation(name: str) -> Iterator[RenderableType]:
    """What is registered as ``name``: summary, source, formula, cost, what is known, and the options.

    One text for each kind that has the name.

    Raises:
        UsageError: no kind has it; the message names the nearest.
    """
    classes = {kind: registered(kind) for kind in KINDS}
    if not any(name in of_kind for of_kind in classes.values()):
        raise UsageError(
            unknown_name("name", name, {each for of_kind in classes.values() for each in of_kind})
        )
    for kind in KINDS:
        if name in classes[kind]:
            yield _explained(kind, classes[kind][name])


def yaml_name(option: str) -> str:
    """The option as YAML has it: ``lambda`` for the parameter ``lambda_``."""
    return option[:-1] if iskeyword(option.removesuffix("_")) else option


def _signature(kind: str, cls: type) -> str:
    options = [
        yaml_name(name) + ("" if default is REQUIRED else f"={default!r}")
        for name, default in options_of(kind, cls).items()
    ]
    return ", ".join([*options, "..."] if _further(cls) else options)


def _explained(kind: str, cls: Any) -> Group:
    doc = read_docstring(cls)
    title = Text.assemble((f"{kind} {cls.name}", "bold"), f"   {cls.__module__}.{cls.__qualname__}")
    labelled = [f"{label}: {text}" for label, text in (("Cost", doc.cost), ("Known", doc.known)) if text]
    paragraphs = [text for text in (doc.summary, *doc.body, *labelled) if text]
    parts: list[RenderableType] = [title]
    for paragraph in paragraphs:
        parts += ["", paragraph]
    return Group(*parts, "", _option_table(kind, cls, doc.arguments))


def _option_table(kind: str, cls: type, descriptions: dict[str, str]) -> RenderableType:
    options = options_of(kind, cls)
    if not options:
        return "No options."
    fields = schema(cls).model_fields
    columns = ("option", "allowed", "default", "what")
    table = Table(*(Column(name, overflow="fold") for name in columns), box=box.SIMPLE_HEAD, pad_edge=False)
    for name, default in options.items():
        cell = "required" if default is REQUIRED else default if isinstance(default, str) else shown(default)
        table.add_row(yaml_name(name), _allowed(fields[name]), cell, descriptions.get(name, ""))
    if further := _further(cls):
        table.add_row("...", "", "", descriptions.get(further, ""))
    return table


def _further(cls: Any) -> str:
    """The name under which ``__init__`` collects what a specification may give beyond the options, or ""."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    names = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    return names[0] if names and hasattr(cls, "complete_options") else ""


def _allowed(hint: Any) -> str:
    """A type in words, its limits with it: ``number >= 0``, ``mean | sum``, ``[integer >= 1, ...]``."""
    if isinstance(hint, FieldInfo):
        return _limited(_allowed(hint.annotation), hint.metadata)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        metadata = [m for field in arguments[1:] for m in getattr(field, "metadata", [field])]
        return _limited(_allowed(arguments[0]), metadata)
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(_allowed(member) for member in arguments))
    if origin is not None and issubclass(origin, dict):
        return "mapping" if Any in arguments else "{" + ": ".join(map(_allowed, arguments)) + "}"
    if origin is not None and issubclass(origin, list | tuple):
        return f"[{_allowed(arguments[0])}, ...]"
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))


def _limited(words: str, metadata: list[Any]) -> str:
    limits = [
        f"{sign} {getattr(m, key):g}" for m in metadata for key, sign in _LIMITS.items() if hasattr(m, key)
    ]
    return " ".join([words, ", ".join(limits)]) if limits else words
