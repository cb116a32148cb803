"""One run at work: its folder says what became of it, however it ends."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import atomic_write
from .liveness import beating, mark
from .results import CONFIG, write_status
from .sweep import Run
from .trainer import Trainer
from .yaml_file import dump

TRACEBACK = "traceback.txt"
Steps = Callable[[int, int], None]  # called with the steps done and the steps in all


@dataclass(frozen=True)
class Job:
    """A run and the folder of its results."""

    run: Run
    folder: Path


def train(job: Job, resume: bool, steps: Steps) -> str | None:
    """Train one run and note how it ended; the message of its failure, or None.

    The traceback of a failure is in ``traceback.txt`` until the run is done.
    """
    facts = _facts(job.run)
    try:
        trainer = Trainer(job.run.config)
        atomic_write(job.folder / CONFIG, dump(job.run.config.resolved()))
        write_status(job.folder, "running", **facts, **mark())
        with beating(job.folder):
            trainer.run(job.folder, resume, lambda step: steps(step, trainer.steps))
        write_status(job.folder, "done", **facts)
        (job.folder / TRACEBACK).unlink(missing_ok=True)
    except Exception as error:
        message = f"{job.run.id}: {type(error).__name__}: {error}"
        text = traceback.format_exc()
        write_status(job.folder, "failed", **facts, error=message, traceback=text)
        atomic_write(job.folder / TRACEBACK, text)
        return message
    except BaseException:
        write_status(job.folder, "running", **facts)  # this process may live on, and yet does not train it
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
