"""SAGE: spectral-aware, gradient-aligned exploration."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import NonNegative
from .ascent import Polar, PolarDtype, Scale, spectral_ascent
from .noise import add_noise, disagreement


@register("wrapper", "sage")
class SAGE(Wrapper):
    """A spectral ascent before the solver inside is asked, and alignment noise on what it returns.

    Ballas and Diou, Flatness and Gradient Alignment Are Both Necessary, 2026. 1. With g the mean gradient,
    every matrix moves by rho ||W||_F U V^T (U V^T the polar factor of its gradient), every vector by
    rho g / ||g||, and the solver inside is asked there. 2. Every entry of its direction gets Gaussian noise
    of standard deviation gamma (1 - S), S the mean pairwise cosine of the sources' gradients at theta. Costs
    one Jacobian more than the solver inside (one gradient where gamma = 0).

    Args:
        inner: the solver asked at the displaced point.
        rho: radius of the ascent; 0: none. The reference values for tasks: 3e-3 (Cityscapes), 5e-4
            (NYUv2), both with ``scale="none"``.
        gamma: scale of the noise; 0: none.
        scale: ``weight_norm`` (the paper's Figure 1 and the domain-generalization code) or ``none`` (the
            multi-task code).
        polar: ``newton_schulz``: five quintic steps, singular values in about [0.68, 1.20]; ``exact``: SVD.
        polar_dtype: precision of the polar factor; default: that of the gradient.
    """

    def __init__(
        self,
        inner: Solver,
        rho: NonNegative = 0.05,
        gamma: NonNegative = 1e-4,
        scale: Scale = "weight_norm",
        polar: Polar = "newton_schulz",
        polar_dtype: PolarDtype | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, **common)
        self.rho = rho
        self.gamma = gamma
        self.scale = scale
        self.polar = polar
        self.polar_dtype = polar_dtype

    def direction(self, oracle: Oracle) -> Direction:
        """The noisy direction of the solver inside at the displaced point."""
        metrics: dict[str, Tensor] = {}
        if self.gamma:
            metrics |= disagreement(oracle, self.gamma, "sage")
        if self.rho:
            displacement = spectral_ascent(
                oracle.space, oracle.mean_gradient(), self.rho, self.scale, self.polar, self.polar_dtype
            )
            metrics["sage/perturbation_norm"] = torch.linalg.vector_norm(displacement)
            with oracle.moved(displacement) as there:
                inner = self.inner.direction(there)
        else:
            inner = self.inner.direction(oracle)
        if self.gamma:
            add_noise(inner, metrics["sage/noise_std"], oracle, self.generator)
        return Direction(inner.vector, inner.weights, {**inner.metrics, **metrics})
