"""One run at work: its folder says what became of it, however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.ranks import current
from .distributed import met_by_all
from .files import atomic_write
from .liveness import beating, mark
from .results import CONFIG, write_status
from .sweep import Run
from .trainer import Trainer
from .yaml_file import dump

TRACEBACK = "traceback.txt"
Steps = Callable[[int, int], None]  # called with the steps done and the steps in all


class RankError(RuntimeError):
    """A rank failed where others did not, so that they cannot go on together."""


@dataclass(frozen=True)
class Job:
    """A run, the folder of its results, and how many of its steps to profile."""

    run: Run
    folder: Path
    profile: int = 0


def train(job: Job, resume: bool, steps: Steps) -> str | None:
    """Train one run and note how it ended; the message of its failure, or None.

    The traceback of a failure is in ``traceback.txt`` until the run is done. Of several ranks the first one
    notes it, and a failure that not all of them meet is raised after that.
    """
    facts, ranks = _facts(job.run), current()
    first = ranks.rank == 0
    try:
        trainer = Trainer(job.run.config, ranks)
        if first:
            for left in job.folder.glob(".*.tmp"):  # of a write that was killed
                left.unlink()
            atomic_write(job.folder / CONFIG, dump(job.run.config.resolved()))
            write_status(job.folder, "running", **facts, **mark())
        with beating(job.folder) if first else contextlib.nullcontext():
            trainer.run(job.folder, resume, lambda step: steps(step, trainer.steps), job.profile)
        if first:
            write_status(job.folder, "done", **facts)
            (job.folder / TRACEBACK).unlink(missing_ok=True)
    except Exception as error:
        message = f"{job.run.id}: {type(error).__name__}: {error}"
        if first:
            text = traceback.format_exc()
            write_status(job.folder, "failed", **facts, error=message, traceback=text)
            atomic_write(job.folder / TRACEBACK, text)
        if not met_by_all(error):
            raise RankError(f"rank {ranks.rank} of {ranks.size} failed in the run {message}") from error
        return message
    except BaseException:
        if first:
            write_status(job.folder, "running", **facts)  # this process may live on without training it
        raise
    return None


def note_death(job: Job, reason: str = "its process died (killed, or out of memory?)") -> str:
    """Note that a run ended without a word; the message of its failure."""
    message = f"{job.run.id}: {reason}"
    write_status(job.folder, "failed", **_facts(job.run), error=message)
    return message


def _facts(run: Run) -> dict[str, Any]:
    facts: dict[str, Any] = {"label": run.label, "baseline": run.baseline}
    return facts if run.search is None else facts | {"search": dataclasses.asdict(run.search)}
