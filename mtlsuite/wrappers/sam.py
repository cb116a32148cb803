"""SAM: sharpness-aware minimization."""

from __future__ import annotations

from typing_extensions import Unpack

from ..core.registry import register
from ..core.solver import Common, Solver
from ..core.types import NonNegative
from .ascent import Ascending, SAMAscent


@register("wrapper", "sam")
class SAM(Ascending):
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
        super().__init__(inner, SAMAscent(rho, adaptive), **common)
