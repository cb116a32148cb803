"""GSAM: surrogate gap guided sharpness-aware minimization."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.registry import register
from ..core.solver import Common, Solver
from ..core.types import Finite, NonNegative
from .ascent import TINY, AscentSpec, Clean, TwoPoints


@register("wrapper", "gsam")
class GSAM(TwoPoints):
    """SAM without part of what the gradient at theta has across the gradient at theta + epsilon.

    Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR 2022: with g the
    gradient at theta, d_p the direction of the solver inside at theta + eps, and g_o the part of g that is
    orthogonal to d_p, d = d_p - alpha g_o. That lowers the loss at theta + eps and the gap to the loss at
    theta together.

    Cost: 1 forward and backward and another direction of the solver inside more; around ``equal`` with
    ``ascent: sam`` that is SAM's.
    Known: a solver inside that keeps a state over time is asked twice a step with ``clean: inner``.

    Args:
        inner: the solver asked there.
        rho: radius of the ascent.
        alpha: weight of the orthogonal part; 0: plain SAM.
        ascent: what gives eps: ``sam``, ``disam`` or ``sage``, or a mapping with that name and its options.
        clean: g is the direction of the solver inside at theta (``inner``) or the mean gradient (``mean``).
    """

    def __init__(
        self,
        inner: Solver,
        rho: NonNegative = 0.05,
        alpha: Finite = 0.1,
        ascent: AscentSpec = "sam",
        clean: Clean = "inner",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, rho, ascent, clean, **common)
        self.alpha = alpha

    def join(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """d_p - alpha (g - (g . d_p) / ||d_p||^2 d_p)."""
        share = torch.dot(clean, perturbed) / torch.linalg.vector_norm(perturbed).square().clamp_min(TINY**2)
        return perturbed.mul_(1 + self.alpha * share).sub_(clean, alpha=self.alpha)
