"""The Gramian of the sources' gradients without their Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from .forwards import Forwards
from .graphs import gradients
from .parameters import ParameterSpace
from .pool import Pool
from .products import inner_products
from .ranks import Ranks


def blockwise_gramian(
    forwards: Forwards, space: ParameterSpace, length: int, n_sources: int, pool: Pool, ranks: Ranks
) -> Tensor:
    """(K, K) inner products of the gradients over the first ``length`` entries, in memory of about as many.

    Blocks of parameters follow one another; for each, every source's graph is run backwards as far as the
    block. The graphs stay for a pullback.
    """
    blocks = space.blocks(length, -(-length // n_sources))
    longest = max((block.n_entries for block in blocks), default=0)
    buffer = pool.take(n_sources * longest, dtype=space.dtype, device=space.device)
    wide = torch.promote_types(space.dtype, torch.float32)
    gramian = torch.zeros(n_sources, n_sources, dtype=wide, device=space.device)
    for block in blocks:
        rows = buffer[: n_sources * block.n_entries].view(n_sources, -1)
        for first, losses in forwards.waiting():
            for row, loss in zip(rows[first:], losses, strict=False):
                block.write(row, gradients(loss, block.parameters, keep_graph=True, unreached=True))
        gramian += inner_products(ranks.sum_(rows))
    return gramian
