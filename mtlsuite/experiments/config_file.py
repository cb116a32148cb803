"""A config file: one experiment or several, with what the command line sets in them."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..core.errors import UsageError, unknown_name
from ..core.registry import load_plugin
from .config import NAME, Config
from .hparams import KINDS, keys_set
from .launch_config import Launcher, parse_launcher
from .messages import shown
from .yaml_file import Document, Key, load, parse_key, parse_value

_OF_THE_FILE = ("name", "plugins", "launcher", "experiments")  # keys that hold for all experiments


@dataclass(frozen=True)
class ConfigFile:
    """A file whose outline is in order; the values in it are not validated yet.

    Attributes:
        name: folder and title.
        document: the content with its origin.
        prefixes: key path of every experiment in the document, by name; a lone experiment is ``""``.
    """

    name: str
    document: Document
    prefixes: dict[str, Key]

    def experiment(self, name: str) -> dict[str, Any]:
        """A copy of what the file says of one experiment, with its name."""
        values: Any = self.document.data
        for part in self.prefixes[name]:
            values = values[part]
        plugins = self.document.data.get("plugins", [])
        found = {**copy.deepcopy(values), "name": name or self.name, "plugins": plugins}
        if not self.prefixes[name]:
            found.pop("launcher", None)  # of the file, not of its runs
        return found

    def launcher(self) -> Launcher:
        """Where the file wants its runs to be trained.

        Raises:
            UsageError: what is wrong with the section, with file and line.
        """
        try:
            return parse_launcher(self.document.data.get("launcher", "local"))
        except UsageError as error:
            raise _error(self.document, ("launcher", *error.key), error.message) from None


def read(path: str | PathLike[str], settings: Sequence[str] = (), plugins: bool = True) -> ConfigFile:
    """Read a config file and apply ``settings`` of the form ``dotted.key=value`` (the value is YAML).

    In a file with ``experiments``, a key that does not begin with ``experiments.`` is set in all of them.

    Args:
        path: the YAML file.
        settings: what the command line sets.
        plugins: import what the file lists under ``plugins``.

    Raises:
        UsageError: the file or a setting is malformed, or has a key that no experiment has.
    """
    document = Document(str(path), *load(path))
    if isinstance(document.data.get("launcher"), str):  # so that settings find its parts
        document.data["launcher"] = {"name": document.data["launcher"]}
    if plugins:
        _load_plugins(document)
    experiments = _experiments(document)
    for setting in settings:
        _set(document, setting, experiments)
    prefixes: dict[str, Key] = {name: ("experiments", name) for name in experiments} or {"": ()}
    file = ConfigFile(_name(document), document, prefixes)
    for name, prefix in prefixes.items():
        _refuse_idle(document, prefix, file.experiment(name).get("sweep"))
        for key in file.experiment(name):
            if key not in (*Config.model_fields, "sweep") or (key == "experiments" and not prefix):
                raise _error(
                    document, (*prefix, key), unknown_name("key", key, (*Config.model_fields, "sweep"))
                )
    return file


def _load_plugins(document: Document) -> None:
    """Import what ``plugins`` lists; files are looked for beside the YAML file."""
    plugins = document.data.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(plugin, str) for plugin in plugins):
        allowed = "a list of Python files or modules"
        raise _error(document, ("plugins",), f"found {shown(plugins)}; allowed: {allowed}")
    for index, plugin in enumerate(plugins):
        if plugin.endswith(".py"):
            plugins[index] = str((Path(document.path).parent / plugin).resolve())
        try:
            load_plugin(plugins[index])
        except UsageError as error:
            raise _error(document, ("plugins", index), error.message) from error


def _name(document: Document) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.+-]+|^[^A-Za-z0-9_]+", "-", Path(document.path).stem).lstrip("-")
    name = document.data.get("name", stem or "experiment")
    if not isinstance(name, str) or not re.match(NAME, name):
        raise _error(document, ("name",), f"found {name!r}; allowed: a name that can be a folder")
    return name


def _experiments(document: Document) -> list[str]:
    """Names of the experiments in a file that has several, else nothing."""
    if "experiments" not in document.data:
        return []
    for other in document.data:
        if other not in _OF_THE_FILE:
            raise _error(document, (other,), f"{unknown_name('key', other, _OF_THE_FILE)} beside experiments")
    experiments = document.data["experiments"]
    if not isinstance(experiments, dict) or not experiments:
        allowed = "a mapping of names to at least one experiment"
        raise _error(document, ("experiments",), f"found {shown(experiments)}; allowed: {allowed}")
    for name, values in experiments.items():
        key: Key = ("experiments", name)
        if not re.match(NAME, name):
            raise _error(document, key, f"found the name {name!r}; allowed: a name that can be a folder")
        if not isinstance(values, dict):
            raise _error(document, key, f"found {shown(values)}; allowed: a mapping")
        if "name" in values:
            raise _error(document, (*key, "name"), f"the name of this experiment is {name!r}, its key")
    return list(experiments)


def _set(document: Document, setting: str, experiments: Sequence[str]) -> None:
    text, equals, value_text = setting.partition("=")
    words = f"--set {text.strip()}"
    if not equals or not text.strip():
        raise UsageError(f"--set {setting}: allowed: --set dotted.key=value")
    try:
        value = parse_value(value_text)
    except UsageError as error:
        raise UsageError(f"{words}: {error.message}") from None
    key = parse_key(text.strip())
    prefixes: list[Key] = [("experiments", name) for name in experiments] or [()]
    if key[0] in ("name", "launcher"):
        prefixes = [()]
    elif key[0] == "experiments":
        if len(key) < 3 or str(key[1]) not in experiments:
            found = str(key[1]) if len(key) > 1 else ""
            raise UsageError(f"{words}: {unknown_name('experiment', found, experiments)}")
        prefixes, key = [("experiments", str(key[1]))], key[2:]
    for prefix in prefixes:
        document.set((*prefix, *_swept(document, prefix, key)), copy.deepcopy(value), words)


def _refuse_idle(document: Document, prefix: Key, sweep: Any) -> None:
    """A setting of what the sweep sets anyway would have no effect."""
    for name, by in keys_set(sweep).items():
        swept = (*prefix, *parse_key(name))
        for key, words in document.given.items():
            if key[: len(swept)] == swept:
                other = f"the values with --set 'sweep.{by}=[...]'" if by == name else f"sweep.{by}"
                raise UsageError(f"{words}: the key {name!r} is swept; set {other}")


def _swept(document: Document, prefix: Key, key: Key) -> Key:
    """``sweep.optimizer.lr`` as ``("sweep", "optimizer.lr")``, for the keys in a sweep are dotted ones."""
    if key[0] != "sweep" or len(key) < 2:
        return key
    if key[1] == "hparams":
        drawn = key[2:3] == ("distributions",) and len(key) > 3
        return _distribution_key(key) if drawn else key
    sweep: Any = document.data
    for part in (*prefix, "sweep"):
        sweep = (sweep.get(part) if isinstance(sweep, dict) else None) or {}
    for end in range(len(key), 1, -1):
        name = ".".join(map(str, key[1:end]))
        if name in sweep:
            return ("sweep", name, *key[end:])
    return ("sweep", ".".join(map(str, key[1:])))


def _distribution_key(key: Key) -> Key:
    """``sweep.hparams.distributions.optimizer.lr.uniform`` with the dotted key in one piece."""
    end = len(key) - 1 if key[-1] in KINDS else len(key)
    return (*key[:3], ".".join(map(str, key[3:end])), *key[end:])


def _error(document: Document, key: Key, message: str) -> UsageError:
    return UsageError(f"{document.place(key)}: {message}", key)
