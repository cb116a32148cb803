"""SAM: sharpness-aware minimization."""

from __future__ import annotations

import torch
from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import NonNegative
from .ascent import normalized_ascent


@register("wrapper", "sam")
class SAM(Wrapper):
    """Asks the solver inside at theta + rho g / ||g||, g the mean gradient. One forward and backward more.

    Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021,
    Algorithm 1.

    Args:
        inner: the solver asked there.
        rho: length of the displacement, over all parameters; 0: none.
    """

    def __init__(self, inner: Solver, rho: NonNegative = 0.05, **common: Unpack[Common]) -> None:
        super().__init__(inner, **common)
        self.rho = rho

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside at the displaced point."""
        if self.rho == 0:
            return self.inner.direction(oracle)
        displacement = normalized_ascent(oracle.mean_gradient(), self.rho)
        norm = torch.linalg.vector_norm(displacement)
        with oracle.moved(displacement) as there:
            inner = self.inner.direction(there)
        return Direction(inner.vector, inner.weights, {**inner.metrics, "sam/perturbation_norm": norm})
