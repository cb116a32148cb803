"""Checkpoints: everything that an exact resume needs, in one file, written atomically."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UsageError
from .files import atomic_write

KEYS = {"step", "model", "optimizer", "scheduler", "solver", "averaging", "averaged", "rng"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (see ``KEYS``; the random state of torch is added) over ``path``."""
    buffer = io.BytesIO()
    torch.save({**state, "rng": _random_state()}, buffer)
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
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the random state of torch to what a checkpoint says."""
    torch.set_rng_state(state["rng"]["cpu"].cpu())
    for index, cuda in enumerate(state["rng"]["cuda"]):
        torch.cuda.set_rng_state(cuda.cpu(), index)


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
