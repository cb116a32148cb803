"""SAGM: sharpness-aware gradient matching."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from ..core.registry import register
from ..core.solver import Common, Solver
from ..core.types import Finite, NonNegative
from .ascent import AscentSpec, Clean, TwoPoints


@register("wrapper", "sagm")
class SAGM(TwoPoints):
    """The mean of the gradients at theta and at theta + epsilon - alpha g, which makes the two match.

    Wang et al., Sharpness-Aware Gradient Matching for Domain Generalization, CVPR 2023: with g the gradient
    at theta and d_p the direction of the solver inside at theta + eps - alpha g, d = (g + d_p) / 2.

    Cost: 1 forward and backward and another direction of the solver inside more; around ``equal`` with
    ``ascent: sam`` that is SAM's.
    Known: a solver inside that keeps a state over time is asked twice a step with ``clean: inner``.

    Args:
        inner: the solver asked there.
        rho: radius of the ascent.
        alpha: step back along g; 5e-4 on OfficeHome and DomainNet.
        ascent: what gives eps: ``sam``, ``disam`` or ``sage``, or a mapping with that name and its options.
        clean: g is the direction of the solver inside at theta (``inner``) or the mean gradient (``mean``).
    """

    def __init__(
        self,
        inner: Solver,
        rho: NonNegative = 0.05,
        alpha: Finite = 1e-3,
        ascent: AscentSpec = "sam",
        clean: Clean = "inner",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, rho, ascent, clean, **common)
        self.alpha = alpha

    def displace(self, displacement: Tensor, clean: Tensor) -> Tensor:
        """eps - alpha g."""
        return displacement.sub_(clean, alpha=self.alpha)

    def join(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """(g + d_p) / 2."""
        return perturbed.add_(clean).mul_(0.5)
