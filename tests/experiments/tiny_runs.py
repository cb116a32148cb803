"""Configs that train in a blink, and the command line in a process that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlsuite import cli
from mtlsuite.core import registry
from mtlsuite.experiments import files, runner, trainer

QUICK = {"threads": 1, "device": "cpu"}
DIGITS = {
    **QUICK,
    "data": "rotated_digits",
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "sources": "domains",
    "domains": ["0", "15", "30"],
    "held_out": "30",
    "train": {"steps": 4, "batch_size": 4},
    "evaluation": {"every": 2},
}
VIEWS = {
    **QUICK,
    "data": "rotated_digits",
    "model": {"name": "convnet", "widths": [4]},
    "sources": "views",
    "domains": ["0"],
    "solver": {"base": "equal", "wrap": ["sam"]},
    "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.9},
    "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "step"},
    "train": {"steps": 4, "batch_size": 4},
    "evaluation": {"every": 2},
}


def scenes(cache: Path) -> dict[str, Any]:
    """Domains x tasks with a model whose BatchNorm statistics move."""
    size = {"height": 8, "width": 8, "n_train": 6, "n_val": 2}
    return {
        **QUICK,
        "data": {"name": "scenes", **size, "domains": ["day", "dusk", "fog"], "cache": str(cache)},
        "model": {"name": "unet", "widths": [4, 4], "norm": "batch"},
        "sources": "domains x tasks",
        "tasks": ["segmentation", "depth"],
        "held_out": "fog",
        "solver": {"base": "nash_mtl"},
        "train": {"epochs": 2, "batch_size": 4},
    }


def write(path: Path, config: dict[str, Any]) -> Path:
    """A config as a YAML file."""
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def run(config: Path, out: Path, *options: str) -> int:
    """The command line in this process."""
    return cli.main([str(config), "--out", str(out), *options])


def results(out: Path) -> dict[str, bytes]:
    """The content of every results.jsonl below a folder, by run (with its experiment)."""
    return {str(path.parent.relative_to(out)): path.read_bytes() for path in out.rglob("results.jsonl")}


def statuses(out: Path) -> dict[str, dict[str, Any]]:
    """The content of every status.json, by the id of its run."""
    return {path.parent.name: json.loads(path.read_text()) for path in out.rglob("status.json")}


def run_folder(out: Path, part: str) -> Path:
    """The folder of the one run whose id holds ``part``."""
    [folder] = [path for path in out.glob("**/runs/*") if part in path.name]
    return folder


def error_message(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message on standard error."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    head, *others = captured.err.splitlines()
    assert head.startswith("mtlsuite: error: ")
    assert all(line.startswith("  ") for line in others), "one message"
    return captured.err.removeprefix("mtlsuite: error: ")


def without_report(patch: pytest.MonkeyPatch) -> None:
    """Tables and figures take longer than these runs."""
    patch.setattr(runner, "write_report", lambda *_: [])
    patch.setattr(runner, "print_report", lambda *_: None)


def interrupted_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """The first training that comes to its step number ``steps`` + 1 meets a Ctrl-C there."""
    original = trainer._Session.advance

    def advance(session: Any, *others: Any) -> Any:
        if session.step == steps:
            raise KeyboardInterrupt
        return original(session, *others)

    patch.setattr(trainer._Session, "advance", advance)


def with_own_registry(patch: pytest.MonkeyPatch, without: str = "") -> None:
    """What plugins register is forgotten after the test; the name ``without`` at once."""
    copy = {
        kind: {name: cls for name, cls in classes.items() if name != without}
        for kind, classes in registry._classes.items()
    }
    patch.setattr(registry, "_classes", copy)


# --- a process that can be killed -----------------------------------------------------------------------

_SERVER = multiprocessing.get_context("forkserver")  # imports once, then forks
_SERVER.set_forkserver_preload(["__main__", "mtlsuite.cli", "mtlsuite.experiments.runner", "tiny_runs"])


def start(arguments: Sequence[str], dies_at: int | None = None, renamed: bool = False) -> ForkServerProcess:
    """The command line in a process of its own, without reports.

    Args:
        arguments: of the command line.
        dies_at: it kills itself (-9) when it is about to rename its n-th temporary file over the final one,
            counted from 0,
        renamed: or right after that.
    """
    return apart(_command, list(arguments), dies_at, renamed)


def apart(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """A function at work in a process of its own, which writes to nowhere."""
    process = _SERVER.Process(target=_quietly, args=(function, *arguments))
    process.start()
    return process


def _quietly(function: Callable[..., object], *arguments: object) -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    without_report(pytest.MonkeyPatch())
    function(*arguments)


def _command(arguments: list[str], dies_at: int | None, renamed: bool) -> None:
    if dies_at is not None:
        writes = iter(range(dies_at + 1))
        original = os.replace

        def replace(source: Any, target: Any) -> None:
            last = next(writes) == dies_at
            if renamed or not last:
                original(source, target)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        pytest.MonkeyPatch().setattr(files.os, "replace", replace)
    sys.exit(cli.main(arguments))
