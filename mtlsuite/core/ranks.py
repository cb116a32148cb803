"""Ranks: the processes that share the batch of a step among themselves."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from .ranges import marked


class Ranks:
    """The processes of a ``torch.distributed`` process group.

    Args:
        group: the process group; default: the default one.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size(self._group)

    @property
    def rank(self) -> int:
        """Number of this process among them."""
        return dist.get_rank(self._group)

    def sum_(self, tensor: Tensor) -> Tensor:
        """The tensor itself, now the sum over all ranks of what each gave; one collective."""
        with marked("all-reduce"):
            dist.all_reduce(tensor, group=self._group)
        return tensor


class _Alone(Ranks):
    """One process: there is nothing to wait for and nothing to add."""

    size, rank = 1, 0

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor


ALONE = _Alone()


def current() -> Ranks:
    """The processes of the default process group, or this one alone where there is none."""
    return Ranks() if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else ALONE
