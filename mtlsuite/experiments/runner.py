"""All runs of all experiments: checked before the first one starts, trained, reported."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from ..core.errors import UsageError
from ..core.ranks import current
from .checkpoint import check_ranks, read_checkpoint
from .distributed import everywhere, on_first
from .domainbed_files import search_tables
from .job import Job
from .launch_config import Launcher, Local
from .launcher import launch
from .liveness import state
from .report import print_report, report_console, write_report
from .selection_tables import print_selection, write_selection
from .sweep import Experiment, Run
from .trainer import CHECKPOINT, Trainer

_PATIENCE = 5.0  # seconds


class RunFailedError(RuntimeError):
    """Some runs ended with an error; the others are done and reported."""


def run_all(
    experiments: Sequence[Experiment],
    out: Path,
    resume: bool,
    launcher: Launcher | None = None,
    profile: int = 0,
) -> None:
    """Train what is not done yet and write the report of every experiment.

    Of several ranks the first one says what is done and writes the reports; all train each run together.

    Args:
        experiments: each in its own folder below ``out``, or in ``out`` itself where it has no name.
        out: folder of the results.
        resume: go on with interrupted and failed runs from their checkpoints.
        launcher: where runs are trained; default: here, one after the other.
        profile: how many steps of each of them to profile.

    Raises:
        UsageError: before any training: a run does not fit its data set, was interrupted or
            failed and ``resume`` is false, is being trained, or its checkpoint cannot be read.
        RunFailedError: after all others are done: runs that failed.
    """
    todo = {experiment.name: _todo(experiment, out, resume) for experiment in experiments}
    console = report_console()
    failures = []
    for experiment in experiments:
        jobs = [replace(job, profile=profile) for job in todo[experiment.name]]
        folder = experiment_folder(out, experiment)
        title = experiment.name or out.name
        if jobs:
            done = len(experiment.runs) - len(jobs)
            failures += launch(title, jobs, done, resume, launcher or Local(), console)
        on_first(partial(_report, experiment, folder, title, console))
    if failures:
        raise RunFailedError("\n".join(failures))


def check_runs(experiments: Sequence[Experiment], out: Path, resume: bool = True) -> None:
    """Raise the UsageError that :func:`run_all` would raise before its first training, and train nothing."""
    for experiment in experiments:
        _todo(experiment, out, resume)


def _report(experiment: Experiment, folder: Path, title: str, console: Console) -> None:
    """The report, and what model selection makes of a search, where its runs allow that."""
    print_report(folder, title, write_report(folder, title), console)
    tables = search_tables(folder) if any(run.search for run in experiment.runs) else None
    if tables:
        write_selection(tables, folder / "selection", title)
        print_selection(tables, console)


def experiment_folder(out: Path, experiment: Experiment) -> Path:
    """Where the results of an experiment are."""
    return out / experiment.name if experiment.name else out


def run_folder(folder: Path, run: Run) -> Path:
    """Where the results of a run are, below the folder of its experiment."""
    return folder / "runs" / run.id


def _todo(experiment: Experiment, out: Path, resume: bool) -> list[Job]:
    folder = experiment_folder(out, experiment)
    jobs = [Job(run, run_folder(folder, run)) for run in experiment.runs]
    waiting = on_first(lambda: [state(job.folder) != "done" for job in jobs])
    todo = [job for job, waits in zip(jobs, waiting, strict=True) if waits]
    for job in todo:
        on_first(partial(_check_folder, job.folder, resume))
        everywhere(partial(_check, job.run))
    return todo


def _check_folder(folder: Path, resume: bool) -> None:
    found = _settled(folder) if resume else state(folder)
    if found == "running":
        raise UsageError(f"the run {folder} is being trained by another process; wait for it, or end it")
    if found in ("interrupted", "failed") and not resume:
        word = "was interrupted" if found == "interrupted" else "failed"
        raise UsageError(
            f"the run {folder} {word} earlier; add --resume to go on from its last checkpoint, "
            "or choose another --out"
        )
    if resume and (folder / CHECKPOINT).exists():
        path = folder / CHECKPOINT
        check_ranks(read_checkpoint(path, torch.device("cpu")), path, current())


def _check(run: Run) -> None:
    try:
        Trainer(run.config, current()).check()
    except UsageError as error:
        raise UsageError(f"{run.place(error.key)}: {error.message} (run {run.id})") from None
    except Exception:
        return  # no mistake in the config: this run will fail by itself, with its traceback kept


def _settled(folder: Path) -> str:
    """The state of a run; workers whose parent was killed are given the time to notice."""
    end = time.monotonic() + _PATIENCE
    while (found := state(folder)) == "running" and time.monotonic() < end:
        time.sleep(0.05)
    return found
