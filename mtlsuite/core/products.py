"""Products of long rows, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Columns that are widened or multiplied at once. On a CPU a block of rows stays in its cache, and products of
# few long rows are up to twice as fast that way; a GPU wants large blocks.
CPU_BLOCK, GPU_BLOCK = 2**16, 2**20


def inner_products(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """(K, M) inner products of (K, P) rows and (M, P) others, by default the rows themselves.

    In float32 at least: weights solved from them need the digits.
    """
    others = rows if others is None else others
    wide = _wide(rows)
    if rows.is_cuda and rows.dtype == wide:
        return rows @ others.T
    total = torch.zeros(len(rows), len(others), dtype=wide, device=rows.device)
    for left, right in _blocks(rows, others):
        total.addmm_(left.to(wide), right.to(wide).T)
    return total


def combinations(weights: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """(M, P) sums sum_k w_mk row_k of (K, P) rows, for (M, K) weights; (P,) for (K,) weights.

    The sums are made in float32 at least, whatever the dtypes of the rows and of ``out``.
    """
    wide = _wide(rows)
    weights = weights.to(rows.device, wide)
    if out is None:
        out = rows.new_empty((*weights.shape[:-1], rows.shape[1]), dtype=wide)
    if rows.dtype != wide or out.dtype != wide:
        for block, result in _blocks(rows, out):
            result.copy_(weights @ block.to(wide))
        return out
    return torch.mv(rows.T, weights, out=out) if weights.dim() == 1 else torch.mm(weights, rows, out=out)


def cosines(gramian: Tensor) -> Tensor:
    """(K, K) cosine similarities from inner products; 0 where a vector is zero, 1 on the diagonal."""
    norms = gramian.diagonal().clamp_min(0).sqrt()
    scale = norms.outer(norms)
    cosine = torch.where(scale > 0, gramian / scale, torch.zeros_like(scale)).clamp(-1, 1)
    return cosine.fill_diagonal_(1)


def mean_of_pairs(cosine: Tensor) -> Tensor:
    """Scalar mean of the K (K - 1) / 2 cosines of pairs; 1 when K = 1."""
    n_sources = len(cosine)
    if n_sources == 1:
        return torch.ones_like(cosine[0, 0])
    return (cosine.sum() - n_sources) / (n_sources * (n_sources - 1))


def _blocks(*matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The columns of some matrices, a block of each at a time."""
    size = GPU_BLOCK if matrices[0].is_cuda else CPU_BLOCK
    return zip(*(torch.split(matrix, size, dim=-1) for matrix in matrices), strict=True)


def _wide(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)
