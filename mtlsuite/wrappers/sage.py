"""SAGE: spectral-aware, gradient-aligned exploration."""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver
from ..core.types import NonNegative
from .ascent import Ascending, Polar, PolarDtype, SAGEAscent, Scale
from .noise import add_noise, disagreement


@register("wrapper", "sage")
class SAGE(Ascending):
    """A spectral ascent before the solver inside is asked, and alignment noise on what it returns.

    Ballas and Diou, Flatness and Gradient Alignment Are Both Necessary, 2026. 1. With g the mean gradient,
    every matrix moves by rho ||W||_F U V^T (U V^T the polar factor of its gradient), every vector by
    rho g / ||g||, and the solver inside is asked there. 2. Every entry of its direction gets Gaussian noise
    of standard deviation gamma (1 - S), S the mean pairwise cosine of the sources' gradients at theta.

    Cost: 1 forward and K backwards more (1 backward with ``gamma: 0``), and a polar factor of every matrix.
    Known: Paper and codes differ in ``scale``. Five Newton-Schulz steps do not converge: singular values end
    in about [0.68, 1.20]. The noise comes after any norm limit of the solver inside.

    Args:
        inner: the solver asked at the displaced point.
        rho: radius of the ascent; 0: none. The reference values for tasks: 3e-3 (Cityscapes), 5e-4
            (NYUv2), both with ``scale="none"``.
        gamma: scale of the noise; 0: none.
        scale: ``weight_norm`` (the paper's Figure 1 and the domain-generalization code) or ``none`` (the
            multi-task code).
        polar: ``newton_schulz``: five quintic steps, singular values in about [0.68, 1.20]; ``exact``: SVD.
        polar_dtype: precision of the polar factor; default: that of the gradient.
        compile: run ``newton_schulz`` through ``torch.compile``, where that works here.

    Raises:
        UsageError: ``compile`` with ``polar="exact"``.
    """

    def __init__(
        self,
        inner: Solver,
        rho: NonNegative = 0.05,
        gamma: NonNegative = 1e-4,
        scale: Scale = "weight_norm",
        polar: Polar = "newton_schulz",
        polar_dtype: PolarDtype | None = None,
        compile: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, SAGEAscent(rho, scale, polar, polar_dtype, compile), **common)
        self.gamma = gamma

    def direction(self, oracle: Oracle) -> Direction:
        """The noisy direction of the solver inside at the displaced point."""
        if self.gamma == 0:
            return super().direction(oracle)
        metrics = disagreement(oracle, self.gamma, "sage")
        inner = super().direction(oracle)
        add_noise(inner, metrics["sage/noise_std"], oracle, self.generator)
        return replace(inner, metrics={**inner.metrics, **metrics})
