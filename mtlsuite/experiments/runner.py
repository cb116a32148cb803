"""All runs of all experiments: checked before the first one starts, trained, reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..core.errors import UsageError
from .checkpoint import read_checkpoint
from .launcher import Job, launch
from .report import print_report, report_console, write_report
from .results import read_status
from .sweep import Experiment, Run
from .trainer import CHECKPOINT, Trainer


class RunFailedError(RuntimeError):
    """Some runs ended with an error; the others are done and reported."""


def run_all(experiments: Sequence[Experiment], out: Path, resume: bool, processes: int = 1) -> None:
    """Train what is not done yet and write the report of every experiment.

    Args:
        experiments: each in its own folder below ``out``, or in ``out`` itself where it has no name.
        out: folder of the results.
        resume: go on with interrupted and failed runs from their checkpoints.
        processes: runs to train at a time, each in a process of its own.

    Raises:
        UsageError: before any training: a run does not fit its data set, was interrupted and
            ``resume`` is false, or its checkpoint cannot be read.
        RunFailedError: after all others are done: runs that failed.
    """
    todo = {experiment.name: _todo(experiment, out, resume) for experiment in experiments}
    console = report_console()
    failures = []
    for experiment in experiments:
        jobs, folder = todo[experiment.name], experiment_folder(out, experiment)
        title = experiment.name or out.name
        if jobs:
            failures += launch(title, jobs, len(experiment.runs) - len(jobs), resume, processes, console)
        print_report(folder, title, write_report(folder, title), console)
    if failures:
        raise RunFailedError("\n".join(failures))


def check_runs(experiments: Sequence[Experiment], out: Path, resume: bool = True) -> None:
    """Raise the UsageError that :func:`run_all` would raise before its first training, and train nothing."""
    for experiment in experiments:
        _todo(experiment, out, resume)


def experiment_folder(out: Path, experiment: Experiment) -> Path:
    """Where the results of an experiment are."""
    return out / experiment.name if experiment.name else out


def run_folder(folder: Path, run: Run) -> Path:
    """Where the results of a run are, below the folder of its experiment."""
    return folder / "runs" / run.id


def _todo(experiment: Experiment, out: Path, resume: bool) -> list[Job]:
    folder = experiment_folder(out, experiment)
    jobs = []
    for run in experiment.runs:
        target = run_folder(folder, run)
        if read_status(target)["status"] != "done":
            _check(run, target, resume)
            jobs.append(Job(run, target))
    return jobs


def _check(run: Run, folder: Path, resume: bool) -> None:
    status = read_status(folder)["status"]
    if status in ("running", "failed") and not resume:
        word = "was interrupted" if status == "running" else "failed"
        raise UsageError(
            f"the run {folder} {word} earlier; add --resume to go on from its last checkpoint, "
            "or choose another --out"
        )
    if resume and (folder / CHECKPOINT).exists():
        read_checkpoint(folder / CHECKPOINT, torch.device("cpu"))
    try:
        Trainer(run.config).check()
    except UsageError as error:
        raise UsageError(f"{run.place(error.key)}: {error.message} (run {run.id})") from None
    except Exception:
        return  # no mistake in the config: this run will fail by itself, with its traceback kept
