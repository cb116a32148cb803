"""GGA-L: gradient-guided annealing by Langevin noise."""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import NonNegative
from .noise import add_noise, disagreement


@register("wrapper", "gga_l")
class GGAL(Wrapper):
    """Noise on the direction, the stronger the less the sources agree.

    Ballas and Diou, Gradient-Guided Annealing for Domain Generalization, CVPR 2025 (variant L): every entry
    of the direction gets Gaussian noise of standard deviation gamma (1 - S), S the mean pairwise cosine of
    the sources' gradients over all parameters.

    Cost: K backwards where it is asked; a gradient that the solver inside takes there is then free.
    Known: The paper draws the noise uniformly, its code from a Gaussian, as here.

    Args:
        inner: the solver whose direction gets the noise.
        gamma: scale of the noise; 0: none. 1e-3 is the reference value.
    """

    def __init__(self, inner: Solver, gamma: NonNegative = 1e-3, **common: Unpack[Common]) -> None:
        super().__init__(inner, **common)
        self.gamma = gamma

    def direction(self, oracle: Oracle) -> Direction:
        """The noisy direction of the solver inside."""
        if self.gamma == 0:
            return self.inner.direction(oracle)
        metrics = disagreement(oracle, self.gamma, "gga_l")
        inner = self.inner.direction(oracle)
        add_noise(inner, metrics["gga_l/noise_std"], oracle, self.generator)
        return replace(inner, metrics={**inner.metrics, **metrics})
