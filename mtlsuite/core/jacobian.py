"""Jacobian: the gradients of all sources, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .products import combinations, cosines, inner_products, mean_of_pairs


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Rows g_k of shape (K, P); the first ``n_shared`` columns belong to the shared parameters.

    A source that does not reach a parameter has zeros there. ``losses`` are the (K,) losses where the rows
    were taken, if that was at several points.
    """

    rows: Tensor
    n_shared: int
    losses: Tensor | None = None

    @property
    def shared(self) -> Tensor:
        """(K, n_shared) view: the rows over the shared parameters."""
        return self.rows[:, : self.n_shared]

    def gramian(self) -> Tensor:
        """(K, K) inner products G = J J^T over the SHARED parameters."""
        return inner_products(self.shared)

    def cosine(self) -> Tensor:
        """(K, K) cosine similarities over ALL parameters; 0 where a row is zero, 1 on the diagonal."""
        return cosines(inner_products(self.rows))

    def mean_cosine(self) -> Tensor:
        """Scalar S: mean cosine over the K (K - 1) / 2 pairs of sources; 1 when K = 1."""
        return mean_of_pairs(self.cosine())

    def mean(self, out: Tensor | None = None) -> Tensor:
        """(P,) mean gradient."""
        if out is None or out.dtype == self.rows.dtype:
            return torch.mean(self.rows, dim=0, out=out)
        n_sources = len(self.rows)
        return self.combine(torch.full((n_sources,), 1 / n_sources, dtype=torch.float64), out)

    def combine(self, weights: Tensor, out: Tensor | None = None) -> Tensor:
        """(P,) sum_k w_k g_k for (K,) weights."""
        return combinations(weights, self.rows, out)

    def map(self, function: Callable[[Tensor], Tensor]) -> Jacobian:
        """The Jacobian whose rows are ``function(rows)``, again (K, P)."""
        return Jacobian(function(self.rows), self.n_shared)
