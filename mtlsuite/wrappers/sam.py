"""SAM: sharpness-aware minimization."""

from __future__ import annotations

import torch
from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import NonNegative
from .ascent import adaptive_ascent, normalized_ascent


@register("wrapper", "sam")
class SAM(Wrapper):
    """Asks the solver inside at theta + rho g / ||g||, g the mean gradient. One forward and backward more.

    Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021,
    Algorithm 1. With ``adaptive`` it is ASAM (Kwon et al., ICML 2021, eq. 4, T = |theta| entry by entry):
    theta + rho T^2 g / ||T g||, which rescaling the weights of neighbouring ReLU layers leaves in proportion.

    Args:
        inner: the solver asked there.
        rho: length of the displacement, over all parameters; 0: none.
        adaptive: measure the length relative to the weights.
    """

    def __init__(
        self, inner: Solver, rho: NonNegative = 0.05, adaptive: bool = False, **common: Unpack[Common]
    ) -> None:
        super().__init__(inner, **common)
        self.rho = rho
        self.adaptive = adaptive

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside at the displaced point."""
        if self.rho == 0:
            return self.inner.direction(oracle)
        gradient = oracle.mean_gradient()
        if self.adaptive:
            displacement = adaptive_ascent(oracle.space.copy(oracle.pool), gradient, self.rho)
        else:
            displacement = normalized_ascent(gradient, self.rho)
        norm = torch.linalg.vector_norm(displacement)
        with oracle.moved(displacement) as there:
            inner = self.inner.direction(there)
        return Direction(inner.vector, inner.weights, {**inner.metrics, "sam/perturbation_norm": norm})
