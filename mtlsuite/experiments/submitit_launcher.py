"""Runs as a Slurm job array, through submitit (extra ``mtlsuite[slurm]``)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from .job import Job, note_death, train
from .launch_config import Submitit

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit import Job as Handle
    from submitit.helpers import DelayedSubmission

POLL = 0.5  # seconds; submitit itself asks Slurm once a minute


class Training:
    """What a Slurm job does; one that is about to reach its time limit is queued again, to go on."""

    def __call__(self, job: Job, resume: bool) -> str | None:
        """Train; the message of a failure, or None."""
        return train(job, resume, lambda *_: None)

    def checkpoint(self, job: Job, resume: bool) -> DelayedSubmission:  # noqa: ARG002
        """What submitit is to queue again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, True)


def submitted(jobs: Sequence[Job], resume: bool, options: Submitit, logs: Path) -> Iterator[str | None]:
    """Submit all jobs as one array and wait; yields the message of a failure, or None, as each ends.

    What has not ended is cancelled where the waiting is given up.

    Args:
        jobs: what is to be trained.
        resume: go on from checkpoints.
        options: of the section ``launcher``.
        logs: folder for submitit's files, the output of the jobs among them.

    Raises:
        UsageError: submitit is not installed, or there is no Slurm.
    """
    waiting = list(zip(submit(executor(options, logs), jobs, resume), jobs, strict=True))
    try:
        while waiting:
            for handle, job in [pair for pair in waiting if pair[0].done()]:
                waiting.remove((handle, job))
                yield _outcome(handle, job)
            if waiting:
                time.sleep(POLL)
    finally:
        for handle, _ in waiting:
            handle.cancel(check=False)


def executor(options: Submitit, logs: Path) -> AutoExecutor:
    """submitit's executor with these options.

    Raises:
        UsageError: as :func:`submitted`.
    """
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise UsageError("the launcher submitit needs: pip install 'mtlsuite[slurm]'") from None
    slurm = options.cluster == "slurm"
    try:
        found = AutoExecutor(
            logs, options.cluster, **({"slurm_max_num_timeout": options.requeues} if slurm else {})
        )
    except RuntimeError as error:
        raise UsageError(f"no Slurm on this machine ({error}); allowed: 'cluster: local'") from None
    found.update_parameters(**_parameters(options, slurm))
    return found


def submit(executor: AutoExecutor, jobs: Sequence[Job], resume: bool) -> list[Handle[str | None]]:
    """All jobs as one array."""
    with executor.batch():
        return [executor.submit(Training(), job, resume) for job in jobs]


def _parameters(options: Submitit, slurm: bool) -> dict[str, Any]:
    """The options in submitit's words."""
    found: dict[str, Any] = {
        "name": "mtlsuite",
        "timeout_min": options.minutes,
        "cpus_per_task": options.cpus,
        "gpus_per_node": options.gpus,
    }
    if options.memory_gb is not None:
        found["mem_gb"] = options.memory_gb
    if slurm:
        found["slurm_array_parallelism"] = options.parallel
        found["slurm_additional_parameters"] = options.slurm
        if options.partition is not None:
            found["slurm_partition"] = options.partition
    return found


def _outcome(handle: Handle[str | None], job: Job) -> str | None:
    if handle.exception() is None:
        return handle.result()
    return note_death(
        job, f"its job {handle.job_id} died (killed, out of memory or time?); {handle.paths.stderr}"
    )
