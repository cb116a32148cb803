"""Training runs one after the other, or several at a time in processes of their own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .files import atomic_write
from .results import CONFIG, read_status, write_status
from .sweep import Run
from .trainer import Trainer
from .yaml_file import dump

Steps = Callable[[int, int], None]  # called with the steps done and the steps in all


@dataclass(frozen=True)
class Job:
    """A run and the folder of its results."""

    run: Run
    folder: Path


def launch(
    title: str, jobs: Sequence[Job], done: int, resume: bool, processes: int, console: Console
) -> list[str]:
    """Train all jobs with a progress bar; one that fails does not stop the others.

    Args:
        title: of the progress bar.
        jobs: what is to be trained.
        done: runs of the same experiment that are done already.
        resume: go on from checkpoints.
        processes: jobs at a time.
        console: where the progress goes.

    Returns:
        One message a failed run; its traceback is in its status.json.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    failures = []
    with Progress(*columns, console=console) as progress:
        total = progress.add_task(f"[bold]{title}", completed=done, total=done + len(jobs))
        outcomes = (
            _one_by_one(jobs, resume, progress) if processes == 1 else _at_once(jobs, resume, processes)
        )
        for failure in outcomes:
            if failure:
                failures.append(failure)
                console.print(failure, style="red", markup=False)
            progress.advance(total)
    return failures


def train(job: Job, resume: bool, steps: Steps) -> str | None:
    """Train one run and note how it ended; the message of its failure, or None."""
    facts = {"label": job.run.label, "baseline": job.run.baseline}
    try:
        trainer = Trainer(job.run.config)
        atomic_write(job.folder / CONFIG, dump(job.run.config.resolved()))
        write_status(job.folder, "running", **facts)
        trainer.run(job.folder, resume, lambda step: steps(step, trainer.steps))
        write_status(job.folder, "done", **facts)
    except Exception as error:
        message = f"{job.run.id}: {type(error).__name__}: {error}"
        write_status(job.folder, "failed", **facts, error=message, traceback=traceback.format_exc())
        return message
    return None


def _one_by_one(jobs: Sequence[Job], resume: bool, progress: Progress) -> Iterator[str | None]:
    for job in jobs:
        bar = progress.add_task(job.run.id)
        yield train(job, resume, functools.partial(_show, progress, bar))
        progress.remove_task(bar)


def _show(progress: Progress, bar: TaskID, step: int, steps: int) -> None:
    progress.update(bar, completed=step, total=steps)


def _at_once(jobs: Sequence[Job], resume: bool, processes: int) -> Iterator[str | None]:
    waiting = list(jobs)
    while waiting:
        try:
            for job, failure in _pool(waiting, resume, processes):
                waiting.remove(job)
                yield failure
        except BrokenProcessPool:
            dead = [job for job in waiting if read_status(job.folder)["status"] == "running"]
            if not dead:
                raise
            for job in dead:
                waiting.remove(job)
                yield _note_death(job)


def _pool(jobs: Sequence[Job], resume: bool, processes: int) -> Iterator[tuple[Job, str | None]]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, _prepare, (threads,)) as pool:
        work = functools.partial(_train_below, os.getpid(), resume)
        try:
            futures = {pool.submit(work, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else the runs still waiting would be trained
            raise


def _note_death(job: Job) -> str:
    message = f"{job.run.id}: its process died (killed, or out of memory?)"
    write_status(job.folder, "failed", label=job.run.label, baseline=job.run.baseline, error=message)
    return message


def _prepare(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches workers too: stop, do not take the next run
    torch.set_num_threads(threads)


def _train_below(parent: int, resume: bool, job: Job) -> str | None:
    def watch(step: int, steps: int) -> None:  # noqa: ARG001
        if os.getppid() != parent:
            os._exit(1)  # the parent was killed; going on would race with the run that resumes

    return train(job, resume, watch)
