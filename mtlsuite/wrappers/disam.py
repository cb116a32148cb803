"""DISAM: domain-inspired sharpness-aware minimization."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import NonNegative
from .ascent import normalized_ascent


@register("wrapper", "disam")
class DISAM(Wrapper):
    """SAM whose ascent spares the sources that lag behind. One forward and backward more.

    Zhang et al., Domain-Inspired Sharpness-Aware Minimization Under Domain Shifts, ICLR 2024: the ascent
    gradient is that of mean_k L_k - lambda Var_k(L_k), the variance with divisor K. That is the pullback
    of w_k = 1/K - (2 lambda / K) (L_k - mean L): sources above the average are perturbed less. The descent
    at the displaced point is that of the solver inside, without a variance term.

    Args:
        inner: the solver asked there.
        rho: length of the displacement, over all parameters; 0: none.
        lambda_: weight of the variance (``lambda`` in YAML).
    """

    def __init__(
        self,
        inner: Solver,
        rho: NonNegative = 0.05,
        lambda_: NonNegative = 0.1,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, **common)
        self.rho = rho
        self.lambda_ = lambda_

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside at the displaced point."""
        if self.rho == 0:
            return self.inner.direction(oracle)
        losses = oracle.losses()
        ascent = oracle.pullback(ascent_weights(losses, self.lambda_))
        displacement = normalized_ascent(ascent, self.rho)
        metrics = {
            "disam/loss_variance": losses.var(correction=0),
            "disam/perturbation_norm": torch.linalg.vector_norm(displacement),
        }
        with oracle.moved(displacement) as there:
            inner = self.inner.direction(there)
        return Direction(inner.vector, inner.weights, {**inner.metrics, **metrics})


def ascent_weights(losses: Tensor, lambda_: float) -> Tensor:
    """(K,) weights w_k = 1/K - (2 lambda / K) (L_k - mean L) of the gradient of mean L - lambda Var(L)."""
    return (1 - 2 * lambda_ * (losses - losses.mean())) / len(losses)
