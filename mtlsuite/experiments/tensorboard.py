"""The records of a run, also for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UsageError


class TensorBoardLog:
    """Writes records of results.jsonl as scalars ``losses/<source>``, ``metrics/<split>/<metric>``, ...

    Args:
        folder: where the event files go.
        resume_step: step of the checkpoint from which the run goes on; what an earlier start of the run
            logged after it is purged. None for a run that starts afresh.

    Raises:
        UsageError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "tensorboard: true needs the package tensorboard: pip install 'mtlsuite[tensorboard]'",
                ("tensorboard",),
            ) from None
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of one record at its step, at once on disk; what is null is left out."""
        for tag, value in scalars(record):
            self._writer.add_scalar(tag, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def scalars(value: object, tag: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested mapping with their keys joined by ``/``; ``step`` is none of them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if tag or key != "step":
                yield from scalars(inner, f"{tag}/{key}" if tag else str(key))
    elif isinstance(value, int | float):
        yield tag, float(value)
