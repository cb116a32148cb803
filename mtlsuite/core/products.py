"""Products of long rows."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**20  # columns that are widened at once


def inner_products(rows: Tensor) -> Tensor:
    """(K, K) inner products of (K, P) rows, in float32 at least: weights solved from them need the digits."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    if rows.dtype == wide:
        return rows @ rows.T
    total = torch.zeros(len(rows), len(rows), dtype=wide, device=rows.device)
    for block in torch.split(rows, BLOCK, dim=1):
        part = block.to(wide)
        total += part @ part.T
    return total


def combinations(weights: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """(M, P) sums sum_k w_mk row_k of (K, P) rows, for (M, K) weights; (P,) for (K,) weights."""
    weights = weights.to(rows)
    return torch.mv(rows.T, weights, out=out) if weights.dim() == 1 else torch.mm(weights, rows, out=out)
