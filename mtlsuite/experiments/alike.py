"""Ranks that train together hold the same model: how it is kept so, and how it is checked."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.ranks import Ranks


@torch.no_grad()
def unite_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give the buffers of all ranks the same values, in place.

    Where floating ones differ (running statistics of BatchNorm, each of its rank's images), all get the mean;
    where others do (counts of batches), the largest.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.numel() and not buffer.is_complex()]
    if ranks.size == 1 or not buffers:
        return
    own = torch.cat([buffer.flatten().double() for buffer in buffers])
    least, most = _range(own)
    mean = ranks.sum_(own.clone()) / ranks.size
    floating = torch.cat(
        [torch.full_like(b, b.is_floating_point(), dtype=torch.bool).flatten() for b in buffers]
    )
    united = torch.where(least == most, own, torch.where(floating, mean, most))
    sizes = [buffer.numel() for buffer in buffers]
    for buffer, values in zip(buffers, torch.split(united, sizes), strict=True):
        buffer.copy_(values.view_as(buffer))


@torch.no_grad()
def check_parameters(model: nn.Module, ranks: Ranks) -> None:
    """Raise where the parameters of some ranks are not those of the others, told by their sums.

    Raises:
        RuntimeError: on all ranks, naming the first such parameter.
    """
    named = dict(model.named_parameters())
    if ranks.size == 1 or not named:
        return
    sums = [p.sum(dtype=torch.float64) for p in named.values()]
    sums += [p.double().square().sum() for p in named.values()]
    least, most = _range(torch.stack(sums).nan_to_num())
    apart = (least != most).view(2, len(named)).any(dim=0)
    if bool(apart.any()):
        name = list(named)[int(apart.nonzero()[0])]
        raise RuntimeError(
            f"the parameters of the {ranks.size} ranks have come apart ({name!r} is the first that differs, "
            f"{int(apart.sum())} of {len(named)} do), no checkpoint was written; all ranks must run the same "
            "code on the same kind of device"
        )


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest over the ranks, element by element."""
    both = torch.stack([-values, values])
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return -both[0], both[1]
