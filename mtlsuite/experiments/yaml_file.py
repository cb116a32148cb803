"""YAML that remembers where every key stands, and keys that are set from outside the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UsageError

Key = tuple["str | int", ...]  # ("solver", "wrap", 0, "rho")
NAMED = ("data", "model", "optimizer", "scheduler", "averaging")  # keys whose short form is a bare name

_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+|\.[0-9]+[eE][-+]?[0-9]+)"
_RESOLVERS = (  # the scalars of YAML 1.2 in decimal: `1e-3` is a number, `no` and `015` are text
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", rf"{_FLOAT}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {}  # noqa: RUF012 (as in PyYAML)


class _Dumper(yaml.SafeDumper):
    """Quotes what this loader or PyYAML's own would not read as text."""


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def load(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[Key, int]]:
    """The mapping in a YAML file, and the line (from 1) of every key path in it.

    Keys are always text. Numbers are decimal (``1e-3`` included), booleans are ``true`` and ``false``.

    Raises:
        UsageError: the file is missing, unreadable, empty, not YAML or not a mapping, has a key twice,
            or asks for a type other than mappings, lists, text, numbers, booleans and null.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        loader = _Loader(text)
        root = loader.get_single_node()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if root is None:
        raise UsageError(f"{path}:1: the file is empty; allowed: a mapping of keys to values")
    reader = _Reader(str(path), loader)
    data = reader.read(root, ())
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: found {data!r}; allowed: a mapping of keys to values")
    return data, reader.lines


def dump(data: Any) -> str:
    """YAML text that ``load``, and PyYAML's ``safe_load``, read back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def parse_value(text: str) -> Any:
    """The value of a YAML text, such as the right-hand side of ``--set``; nothing is null.

    Raises:
        UsageError: not YAML.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return None if root is None else _Reader("line", loader).read(root, ())
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"{text!r} is not valid YAML: {problem}") from None


def parse_key(text: str) -> Key:
    """``"solver.wrap.0.rho"`` as ``("solver", "wrap", 0, "rho")``."""
    return tuple(int(part) if part.isdecimal() else part for part in text.split("."))


def dotted(key: Sequence[str | int]) -> str:
    """The key path as it is written in messages and in ``--set``."""
    return ".".join(map(str, key))


def put(data: dict[str, Any], key: Key, value: Any) -> Key:
    """Set a value deep inside ``data``, in place, and return its key path (numbers only in lists).

    Mappings on the way are made where nothing stands, and short forms are opened: below ``solver: famo``
    lies ``{"base": "famo"}``, below ``model: mlp`` lies ``{"name": "mlp"}``.

    Raises:
        UsageError: the path leads through a value that has no parts, or past the end of a list.
    """
    node: Any = data
    path: Key = ()
    for depth, part in enumerate(key):
        _check_part(node, path, part)
        if isinstance(node, dict):
            part = str(part)
            node.setdefault(part, None)
        path = (*path, part)
        if depth < len(key) - 1:
            node[part] = _opened(path, node[part])
            node = node[part]
        else:
            node[part] = value
    return path


@dataclass
class Document:
    """The content of a YAML file with its origin, key by key.

    Attributes:
        path: the file as the user named it.
        data: what it says, after ``set``.
        lines: line of every key path.
        given: key paths set from outside, with the words that set them, e.g. ``--set train.steps``.
    """

    path: str
    data: dict[str, Any]
    lines: dict[Key, int]
    given: dict[Key, str] = field(default_factory=dict)

    def set(self, key: Key, value: Any, words: str) -> None:
        """Put ``value`` at ``key`` and remember the ``words`` as its origin."""
        try:
            self.given[put(self.data, key, value)] = words
        except UsageError as error:
            raise UsageError(f"{words}: {error.message}", key) from None

    def place(self, key: Key, start: int = 0) -> str:
        """``FILE:LINE: dotted.key`` of a key path, or ``--set key`` where that was its origin.

        A key that is not in the file stands where its parent does. The first ``start`` parts are not shown.
        """
        shown = dotted(key[start:])
        prefixes = [key[:end] for end in range(len(key), -1, -1)]
        words = next((self.given[prefix] for prefix in prefixes if prefix in self.given), None)
        if words is None and key not in self.lines:
            words = next((words for given, words in self.given.items() if given[: len(key)] == key), None)
        if words is not None and key:
            return words if words == f"--set {shown}" else f"{words}: {shown}"
        line = next((self.lines[prefix] for prefix in prefixes if prefix in self.lines), 1)
        return f"{self.path}:{line}: {shown}" if shown else f"{self.path}:{line}"


class _Reader:
    """Builds plain data from the nodes of a file and notes their lines."""

    def __init__(self, path: str, loader: _Loader) -> None:
        self.path, self.loader = path, loader
        self.lines: dict[Key, int] = {}
        self.open: set[int] = set()

    def read(self, node: yaml.Node, key: Key) -> Any:
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self.open:
            raise self._error(node, f"{dotted(key)} contains itself")
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self._error(node, f"the YAML type {node.tag!r} is not allowed")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, key)
            return [self.read(item, (*key, index)) for index, item in enumerate(node.value)]
        finally:
            self.open.remove(id(node))

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise self._error(name, "a key must be text")
            line = name.start_mark.line + 1
            if name.value in seen:
                raise self._error(
                    name,
                    f"{dotted((*key, name.value))}: the key stands twice, first in line {seen[name.value]}",
                )
            seen[name.value] = line
        try:
            self.loader.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            raise _syntax_error(self.path, error) from None
        data = {}
        for name, value in node.value:  # merged keys come first, so the mapping's own ones win
            inner = (*key, name.value)
            self.lines[inner] = name.start_mark.line + 1
            data[name.value] = self.read(value, inner)
        return data

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            value = self.loader.construct_object(node)
        except yaml.MarkedYAMLError as error:
            raise _syntax_error(self.path, error) from None
        except ValueError:
            raise self._error(node, f"{node.value!r} is not of the YAML type {node.tag!r}") from None
        if not isinstance(value, str | int | float | type(None)):
            raise self._error(node, f"the YAML type {node.tag!r} is not allowed")
        return value

    def _error(self, node: yaml.Node, message: str) -> UsageError:
        return UsageError(f"{self.path}:{node.start_mark.line + 1}: {message}")


def _syntax_error(path: str | PathLike[str], error: yaml.MarkedYAMLError) -> UsageError:
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}" if mark else f"{path}"
    context = f" ({error.context})" if error.context else ""
    return UsageError(f"{where}: not valid YAML: {error.problem}{context}")


def _check_part(node: Any, key: Key, part: str | int) -> None:
    if isinstance(node, list):
        if not isinstance(part, int) or part >= len(node):
            raise UsageError(f"{dotted(key)} is a list of {len(node)}, without an entry {part!r}", key)
    elif not isinstance(node, dict):
        raise UsageError(f"{dotted(key)} is {node!r}, which has no part {part!r}", key)


def _opened(key: Key, value: Any) -> Any:
    """What lies at ``key``, in the form that has parts."""
    if value is None:
        return {}
    if isinstance(value, str):
        names = [part for part in key if not isinstance(part, int)]
        if names[-1] == "solver" or names[-3:-1] == ["sweep", "solver"]:
            return {"base": value}
        if names[-1] in (*NAMED, "base", "wrap"):
            return {"name": value}
    return value
