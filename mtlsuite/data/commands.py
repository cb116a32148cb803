"""The commands ``mtlsuite data check | make-scenes | prepare``."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..core.errors import UsageError
from ..core.registry import build, load_plugin
from .base import DataSet
from .domainbed import inspecting
from .inspection import Summary, inspect
from .mtan_check import LayoutError
from .prepare_cityscapes import prepare_cityscapes
from .prepare_nyuv2 import prepare_nyuv2
from .scenes import Scenes
from .sheet import contact_sheet
from .write_mtan import write_scenes

_T = TypeVar("_T")


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code is 0, or 1 where ``check`` finds values that no data should have.

    Args:
        argv: what follows ``mtlsuite data``.

    Raises:
        SystemExit: from argparse, on ``--help`` and on wrong options.
        UsageError: something in the call or its files is wrong.
    """
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print("mtlsuite: interrupted; no folder was made", file=sys.stderr)
        return 130
    return code


def parser() -> argparse.ArgumentParser:
    """The options of all commands; ``run`` of what it parses is the function to call with it."""
    top = argparse.ArgumentParser(
        "mtlsuite data", description="Check and prepare data sets.", allow_abbrev=False
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_check(commands)
    _add_make_scenes(commands)
    prepare = _command(commands, "prepare", "turn a download into the layout of the MTAN code")
    kinds = prepare.add_subparsers(required=True, metavar="NAME")
    _add_cityscapes(kinds)
    _add_nyuv2(kinds)
    return top


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", "print what is in a data set and draw a contact sheet")
    command.set_defaults(run=_check)
    add = command.add_argument
    add("name", metavar="NAME", help="nyuv2, cityscapes, mtan, or any other data set")
    add("--root", metavar="DIR", help="the option root of the data set")
    add("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="other options")
    add("--plugin", action="append", default=[], help="a module or .py file to load first (repeatable)")
    add("--sheet", type=Path, metavar="PNG", help="the contact sheet (NAME-sheet.png)")
    add("--samples", type=_count, default=3, metavar="N", help="images on the sheet (3)")


def _add_make_scenes(commands: Any) -> None:
    command = _command(commands, "make-scenes", "store the embedded scenes as files, to try out a data path")
    command.set_defaults(run=_make_scenes)
    add = command.add_argument
    add("--layout", choices=["mtan"], default="mtan", help="of the files (mtan)")
    add("--root", type=Path, required=True, metavar="DIR", help="a new folder")
    add("--labels", default="label", metavar="FOLDER", help="name of the label folder (label)")
    add("--domains", nargs="+", default=["day"], metavar="DOMAIN", help="visual domains to draw from (day)")
    add("--size", type=_count, nargs=2, default=[96, 128], metavar=("H", "W"), help="in pixels (96 128)")
    add(
        "--frames",
        type=_count,
        nargs=2,
        default=[100, 40],
        metavar=("TRAIN", "VAL"),
        help="a domain (100 40)",
    )
    add("--seed", type=int, default=0, help="another seed gives other scenes (0)")


def _add_cityscapes(kinds: Any) -> None:
    command = _command(kinds, "cityscapes", "from leftImg8bit, gtFine and disparity")
    command.set_defaults(run=_cityscapes)
    add = command.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="holds the three folders")
    add("--root", type=Path, required=True, metavar="DIR", help="a new folder")
    add("--size", type=_count, nargs=2, default=[128, 256], metavar=("H", "W"), help="in pixels (128 256)")


def _add_nyuv2(kinds: Any) -> None:
    command = _command(kinds, "nyuv2", "from nyu_depth_v2_labeled.mat")
    command.set_defaults(run=_nyuv2)
    add = command.add_argument
    add("--raw", type=Path, required=True, metavar="MAT", help="nyu_depth_v2_labeled.mat")
    add("--root", type=Path, required=True, metavar="DIR", help="a new folder")
    files: dict[str, Any] = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE"}
    add("--classes", **files, help="894 class numbers as text, or classMapping40.mat class13Mapping.mat")
    add("--splits", **files, help="splits.mat, or two text files of frame numbers from 1: train, val")
    add("--normals", type=Path, metavar="DIR", help="{n}.npy of each frame; default: computed from depth")
    add("--size", type=_count, nargs=2, default=[288, 384], metavar=("H", "W"), help="in pixels (288 384)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number from 1 up")
    return int(text)


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    return made


def _check(arguments: argparse.Namespace) -> int:
    for plugin in arguments.plugin:
        load_plugin(plugin)
    options = dict(_setting(text) for text in arguments.set)
    if arguments.root is not None:
        options["root"] = arguments.root
    try:
        with inspecting():
            dataset: DataSet = build("dataset", {"name": arguments.name, **options})
    except LayoutError as error:
        raise UsageError(error.listing(len(error.problems))) from None
    console = _console()
    problems: list[str] = []
    for domain in dataset.domains:
        counted: dict[str, Summary] = {}
        for part in ("train", "val"):
            count, summaries, found = inspect(dataset, domain, part, _tracked)
            console.print(_table(f"{domain}, {part}: {count} samples", summaries))
            problems += found
            counted.update((part, summary) for summary in summaries if len(summary.counts))
        if counted:
            console.print(_histogram(dataset, counted))
    for remark in getattr(dataset, "remarks", list)():
        console.print(f"note: {remark}")
    sheet = arguments.sheet or Path(f"{arguments.name}-sheet.png")
    draw = getattr(dataset, "draw_sheet", functools.partial(contact_sheet, dataset))
    console.print(f"contact sheet: {draw(sheet, arguments.samples)}")
    for problem in problems:
        console.print(f"problem: {problem}")
    return 1 if problems else 0


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if key and equals:
            return key, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise UsageError(f"--set {text}: allowed: KEY=VALUE, the value in YAML")


def _table(title: str, summaries: Sequence[Summary]) -> Table:
    table = Table("array", "shape", "lowest", "highest", "valid", title=title, title_justify="left")
    for s in summaries:
        bounds = ("", "") if s.low > s.high else (f"{s.low:.5g}", f"{s.high:.5g}")
        table.add_row(s.kind, " x ".join(map(str, s.shape)) or "1", *bounds, f"{s.valid:.1%}")
    return table


def _histogram(dataset: DataSet, parts: dict[str, Summary]) -> Table:
    """Per class, its share of the valid labels in each part."""
    table = Table("id", "class", *parts, title="classes: share of valid labels", title_justify="left")
    shares = torch.stack([s.counts / s.counts.sum().clamp(min=1) for s in parts.values()])  # (parts, C)
    bars = (20 * shares / shares.amax(dim=1, keepdim=True).clamp(min=1e-9)).round().int()
    for k in range(shares.shape[1]):
        cells = [f"{share:6.2%} {'#' * bar}" for share, bar in zip(shares[:, k], bars[:, k], strict=True)]
        table.add_row(str(k), dataset.classes[k] if k < len(dataset.classes) else "", *cells)
    return table


def _make_scenes(arguments: argparse.Namespace) -> int:
    (height, width), (n_train, n_val) = arguments.size, arguments.frames
    scenes = Scenes(height, width, n_train, n_val, arguments.domains, arguments.seed)
    write_scenes(arguments.root, scenes, arguments.labels)
    _console().print(f"{arguments.root}: {n_train} + {n_val} frames of each of {len(scenes.domains)} domains")
    return 0


def _cityscapes(arguments: argparse.Namespace) -> int:
    prepare_cityscapes(arguments.raw, arguments.root, tuple(arguments.size), _tracked)
    return 0


def _nyuv2(arguments: argparse.Namespace) -> int:
    prepare_nyuv2(
        arguments.raw,
        arguments.root,
        arguments.classes,
        arguments.splits,
        arguments.normals,
        tuple(arguments.size),
        _tracked,
    )
    return 0


def _tracked(items: Iterable[_T], title: str, count: int) -> Iterable[_T]:
    """The same items, with a progress bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    return track(items, title, total=count, console=console, disable=not sys.stderr.isatty(), transient=True)


def _console() -> Console:
    """Tables keep their columns where the output is a file or a pipe."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    return (
        console if console.is_terminal else Console(width=120, highlight=False, markup=False, soft_wrap=True)
    )
