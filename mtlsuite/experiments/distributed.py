"""The processes that torchrun started: how they join, and what they settle among themselves.

Every rank runs the same program on its share of each batch. What only one may do (files, the terminal) is
done by rank 0. An error by the user's doing, or a loss that is not finite, is met by all ranks alike and told
once; any other error on one rank ends that process, and torchrun then ends the others.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from ..core.errors import NonFiniteError, UsageError
from ..core.ranks import Ranks, current

T = TypeVar("T")
INTERRUPTED = 130
TIMEOUT = timedelta(hours=1)  # rank 0 may be writing a long report; a dead rank is noticed by torchrun
PATIENCE = timedelta(seconds=60)  # until ranks that fail alike have all failed

_side: dist.ProcessGroup | None = None  # for what is said while the others may wait in a collective


def as_rank(command: Callable[[], int]) -> int:
    """Run a command as one of the processes that torchrun started, and return its exit code.

    Only rank 0 writes to standard output. A rank whose command raises ends at once with a traceback.

    Raises:
        UsageError: the environment is not that of torchrun.
    """
    global _side
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT
        )
    except ValueError as error:
        size = os.environ.get("WORLD_SIZE")
        raise UsageError(
            f"WORLD_SIZE is {size}, but torchrun has not started this process: {error}"
        ) from None
    _side = dist.new_group(backend="gloo", timeout=PATIENCE)  # type: ignore[assignment]
    if dist.get_rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
        warnings.simplefilter("ignore")
    try:
        code = record(command)() or 0
        if code == INTERRUPTED:
            _leave(code)
        gathered(None)  # rank 0 has told what there was to tell
    except BaseException:
        traceback.print_exc()
        _leave(1)
    dist.destroy_process_group()
    _side = None
    return code


def everywhere(action: Callable[[], T]) -> T:
    """What ``action`` gives on this rank, after it ended on every rank.

    Raises:
        UsageError: on all ranks, where one of them raised it.
    """
    if current().size == 1:
        return action()
    result: T | None = None
    told: tuple[str, tuple[str | int, ...]] | None = None
    try:
        result = action()
    except UsageError as error:
        told = error.message, error.key
    for found in gathered(told):
        if found is not None:
            raise UsageError(*found)
    return result  # type: ignore[return-value]


def on_first(action: Callable[[], T]) -> T:
    """What ``action`` gives on rank 0, the only one to run it; picklable.

    Raises:
        UsageError: on all ranks, where rank 0 raised it.
    """
    return gathered(everywhere(lambda: action() if current().rank == 0 else None))[0]  # type: ignore[return-value]


def gathered(value: T) -> list[T]:
    """The values of all ranks, in their order; picklable."""
    ranks = current()
    values = [value] * ranks.size
    if ranks.size > 1:
        dist.all_gather_object(values, value)
    return values


def met_by_all(error: BaseException) -> bool:
    """Whether all ranks have failed as this one has, so that they may go on together."""
    if current().size == 1:
        return True
    if _side is None or not isinstance(error, UsageError | NonFiniteError):
        return False
    try:
        dist.barrier(_side)
    except RuntimeError:
        return False
    return True


def own_device(name: str, ranks: Ranks) -> torch.device:
    """The device of this rank: with several on GPUs, each has its own, by its number on this machine.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, or ``cuda:0``, ...

    Raises:
        UsageError: there is no such device, or not one for each rank; the key is ``device``.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"{name!r}, but torch finds no CUDA device here; allowed: auto, cpu", ("device",))
    if name == "cpu" or ranks.size == 1:
        return torch.device(name)
    if name != "cuda":
        raise UsageError(
            f"found {name!r} with {ranks.size} processes, each of which takes a GPU of its own; "
            "allowed: auto, cpu, cuda",
            ("device",),
        )
    number, there = int(os.environ.get("LOCAL_RANK", ranks.rank)), torch.cuda.device_count()
    if number >= there:
        raise UsageError(
            f"more processes on this machine than the {there} GPUs that torch finds; allowed: "
            f"--nproc-per-node {there}, or device cpu",
            ("device",),
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _leave(code: int) -> NoReturn:
    """End this process without waiting for the others, who may wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
