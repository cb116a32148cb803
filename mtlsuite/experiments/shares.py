"""What several ranks cannot share out among themselves, told before the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import UsageError

if TYPE_CHECKING:
    from .problem import Problem


def check_shares(problem: Problem) -> None:
    """Raise where the ranks of a problem would not do together what one process does.

    Raises:
        UsageError: the key is that of the config.
    """
    size, train, sources = problem.ranks.size, problem.config.train, problem.config.sources
    if size == 1:
        return
    if train.batch_size < size:
        raise UsageError(
            f"found {train.batch_size}, fewer than the {size} processes that share a batch; "
            f"allowed: {size} or more",
            ("train", "batch_size"),
        )
    if sources in ("domains", "views") and len(problem.tasks) > 1:
        raise UsageError(
            f"found {sources!r} with the tasks {', '.join(problem.tasks)} and {size} processes: where tasks "
            "have targets for different pixels, the sum of their losses is no mean over shares of a batch; "
            "allowed: one task, 'domains x tasks' or 'tasks', or one process",
            ("sources",),
        )
    if problem.synchronised:
        _check_synchronised(problem)


def _check_synchronised(problem: Problem) -> None:
    if problem.device.type == "cpu":
        raise UsageError(
            "found 'synchronised' with several processes on the CPU, but torch's SyncBatchNorm works on GPUs "
            "only; allowed here: local",
            ("batch_norm",),
        )
    for name, smallest in problem.smallest_batches.items():
        if smallest < problem.ranks.size:
            raise UsageError(
                f"found 'synchronised', but the last batch of an epoch of {name!r} has {smallest} images for "
                f"{problem.ranks.size} processes, and each needs one; allowed: local, or another batch_size",
                ("batch_norm",),
            )
