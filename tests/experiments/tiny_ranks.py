"""Several processes with the environment of torchrun, started in a blink and without its supervision."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny_runs import _SERVER, without_report

from mtlsuite import cli


class Ended(NamedTuple):
    """How a rank ended, and what it said."""

    code: int | None
    out: str
    err: str


def as_ranks(folder: Path, function: Callable[..., object], *arguments: object, size: int = 2) -> list[Ended]:
    """``function(*arguments)`` on every rank; its result is the exit code.

    Args:
        folder: for the output of the processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    processes = [
        _SERVER.Process(target=_rank, args=(folder, rank, size, port, function, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    hanging = [process for process in processes if process.exitcode is None]
    for process in hanging:
        process.kill()
    assert not hanging, f"a rank hangs; see {folder}"
    texts = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(size)]
    return [Ended(p.exitcode, *text) for p, text in zip(processes, texts, strict=True)]


def train(out: Path, config: Path, *options: str, size: int = 2) -> list[Ended]:
    """The command line on every rank, without reports."""
    return as_ranks(out.with_suffix(".log"), _command, [str(config), "--out", str(out), *options], size=size)


def _command(arguments: Sequence[str]) -> int:
    without_report(pytest.MonkeyPatch())
    return cli.main(arguments)


def _rank(
    folder: Path,
    rank: int,
    size: int,
    port: int,
    function: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1")
    for name, stream in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.exit(function(*arguments))
