"""SAM: sharpness-aware minimization."""

from __future__ import annotations

from typing_extensions import Unpack

from ..core.registry import register
from ..core.solver import Common, Solver
from ..core.types import NonNegative
from .ascent import Ascending, SAMAscent


@register("wrapper", "sam")
class SAM(Ascending):
    """Asks the solver inside where the mean loss rises fastest, at theta + epsilon.

    Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021,
    Algorithm 1: eps = rho g / ||g||, g the mean gradient. With ``adaptive`` it is ASAM (Kwon et al., ICML
    2021, eq. 4): eps = rho T^2 g / ||T g|| with T = |theta| entry by entry.

    Cost: 1 forward and 1 backward more.
    Known: g is the mean gradient whatever solver is inside. Rescaling the weights of neighbouring ReLU layers
    leaves an ASAM step in proportion, a SAM step not; ASAM wants a larger rho.

    Args:
        inner: the solver asked there.
        rho: length of the displacement, over all parameters; 0: none.
        adaptive: measure the length relative to the weights.
    """

    def __init__(
        self, inner: Solver, rho: NonNegative = 0.05, adaptive: bool = False, **common: Unpack[Common]
    ) -> None:
        super().__init__(inner, SAMAscent(rho, adaptive), **common)
