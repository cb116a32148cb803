"""Checkpoints: everything that an exact resume needs, in one file, written atomically."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UsageError
from ..core.ranks import Ranks
from .files import atomic_write

KEYS = {"step", "model", "optimizer", "scheduler", "solver", "averaging", "averaged", "rng"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (see ``KEYS``) over ``path``; ``rng`` lists the :func:`random_state` of each rank."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, buffer.getvalue())


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote, checked for being whole.

    Raises:
        UsageError: the file is truncated or is no checkpoint of ours.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UsageError(
            f"{path}: not a readable checkpoint, truncated perhaps ({type(error).__name__}); "
            "remove the folder of this run to start it anew"
        ) from None
    if not isinstance(state, dict) or set(state) != KEYS:
        raise UsageError(f"{path}: not a checkpoint of mtlsuite; it should hold {', '.join(sorted(KEYS))}")
    if not isinstance(state["rng"], list):
        raise UsageError(
            f"{path}: of an earlier version of mtlsuite; remove the folder of this run to start it anew"
        )
    return state


def check_ranks(state: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """Raise a UsageError where a checkpoint is of another number of processes."""
    found = len(state["rng"])
    if found != ranks.size:
        raise UsageError(
            f"{path}: this run was trained by {found} {_processes(found)}, and {ranks.size} "
            f"{_processes(ranks.size)} cannot go on as they would have; allowed: {_command(found)}, "
            "or another --out"
        )


def random_state(device: torch.device) -> dict[str, Any]:
    """The random state of torch for a model on a device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the random state of torch to what :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"].cpu())
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _processes(count: int) -> str:
    return "process" if count == 1 else "processes"


def _command(count: int) -> str:
    return "without torchrun" if count == 1 else f"torchrun with {count} processes in all"
