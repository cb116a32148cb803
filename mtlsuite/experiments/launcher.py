"""Training runs one after the other, several at a time in processes of their own, or through submitit."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

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

from .job import Job, note_death, train
from .launch_config import Launcher, Processes, Submitit
from .results import read_status
from .submitit_launcher import submitted


def launch(
    title: str, jobs: Sequence[Job], done: int, resume: bool, launcher: Launcher, console: Console
) -> list[str]:
    """Train all jobs with a progress bar; one that fails does not stop the others.

    Args:
        title: of the progress bar.
        jobs: what is to be trained.
        done: runs of the same experiment that are done already.
        resume: go on from checkpoints.
        launcher: where.
        console: where the progress goes.

    Returns:
        One message a failed run; its traceback is in its folder.

    Raises:
        UsageError: the launcher does not work here.
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
        for failure in _outcomes(jobs, resume, launcher, progress):
            if failure:
                failures.append(failure)
                console.print(failure, style="red", markup=False)
            progress.advance(total)
    return failures


def _outcomes(
    jobs: Sequence[Job], resume: bool, launcher: Launcher, progress: Progress
) -> Iterator[str | None]:
    if isinstance(launcher, Submitit):
        return submitted(jobs, resume, launcher, jobs[0].folder.parents[1] / "submitit")
    if isinstance(launcher, Processes):
        return _at_once(jobs, resume, launcher.jobs)
    return _one_by_one(jobs, resume, progress)


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
                yield note_death(job)


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


def _prepare(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches workers too: stop, do not take the next run
    torch.set_num_threads(threads)


def _train_below(parent: int, resume: bool, job: Job) -> str | None:
    def watch(step: int, steps: int) -> None:  # noqa: ARG001
        if os.getppid() != parent:
            os._exit(1)  # the parent was killed; going on would race with the run that resumes

    return train(job, resume, watch)
