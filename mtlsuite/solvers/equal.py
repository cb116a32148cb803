"""Equal (or given) weights: ERM, linear scalarization."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from ..core.errors import UsageError
from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver
from ..core.types import Count, NonNegative


@register("solver", "equal")
class Equal(Solver):
    """The same or given weights for all sources: ERM, linear scalarization.

    The direction is d = sum_k w_k g_k; with w_k = 1/K it is the gradient of the mean loss.

    Cost: 1 forward, 1 backward.
    Known: Under plain SGD ``sum`` is ``mean`` with K times the learning rate; Adam hardly tells them apart.

    Args:
        n_sources: K; default: as many as the objective has.
        reduction: ``mean``: w_k = 1/K, as empirical risk minimisation; ``sum``: w_k = 1, as LibMTL's EW
            and the LS baseline of the Nash-MTL code.
        weights: K weights w_k >= 0 instead.
    """

    def __init__(
        self,
        n_sources: Count | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        weights: Annotated[list[NonNegative], Field(min_length=1)] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if weights is not None and n_sources not in (None, len(weights)):
            raise UsageError(f"equal: {len(weights)} weights for {n_sources} sources", ("weights",))
        self.n_sources = n_sources if weights is None else len(weights)
        self.reduction = reduction
        self.weights = weights

    def direction(self, oracle: Oracle) -> Direction:
        """The weighted sum of the gradients, by one pullback."""
        weights = self._weights(self.n_sources or oracle.n_total)
        if len(weights) == oracle.n_total:
            weights = oracle.of_present(weights)  # an absent source counts as a loss of zero
        uniform = self.weights is None and self.reduction == "mean" and oracle.n_sources == oracle.n_total
        vector = oracle.mean_gradient() if uniform else oracle.pullback(weights)
        return Direction(vector, weights.to(oracle.losses()))

    def _weights(self, n_sources: int) -> Tensor:
        if self.weights is not None:
            return torch.tensor(self.weights, dtype=torch.float64)
        value = 1 / n_sources if self.reduction == "mean" else 1.0
        return torch.full((n_sources,), value, dtype=torch.float64)
