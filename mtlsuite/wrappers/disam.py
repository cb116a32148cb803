"""DISAM: domain-inspired sharpness-aware minimization."""

from __future__ import annotations

from typing_extensions import Unpack

from ..core.registry import register
from ..core.solver import Common, Solver
from ..core.types import NonNegative
from .ascent import Ascending, DISAMAscent


@register("wrapper", "disam")
class DISAM(Ascending):
    """SAM whose ascent spares the sources that lag behind.

    Zhang et al., Domain-Inspired Sharpness-Aware Minimization Under Domain Shifts, ICLR 2024: the ascent
    gradient is that of mean_k L_k - lambda Var_k(L_k), the variance with divisor K. That is the pullback
    of w_k = 1/K - (2 lambda / K) (L_k - mean L): sources above the average are perturbed less. The descent
    at the displaced point is that of the solver inside, without a variance term.

    Cost: 1 forward and 1 backward more.
    Known: An appendix of the paper says rho 0.5, its code has 0.05. A loss that exceeds the mean by more than
    1 / (2 lambda) gets a negative weight in the ascent.

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
        super().__init__(inner, DISAMAscent(rho, lambda_), **common)
