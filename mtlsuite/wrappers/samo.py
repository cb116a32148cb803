"""SAMO: sharpness-aware multi-task optimization."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.jacobian import Jacobian
from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import Fraction, NonNegative, Positive
from .ascent import TINY, normalized


@register("wrapper", "samo")
class SAMO(Wrapper):
    """Shows the solver inside each source's loss and gradient at a displaced point of the source's own.

    Ban et al., SAMO: A Lightweight Sharpness-Aware Approach for Multi-Task Optimization with Joint
    Global-Local Perturbation, ICCV 2025: g^(k) = (1 - beta) g + beta e_k, with g the mean gradient and e_k
    an estimate of source k's gradient from its losses at theta +- zo_eps z, z standard normal, rescaled
    tensor by tensor to ||g||. Source k is looked at where the shared parameters have moved by
    rho g^(k) / ||g^(k)|| and its private ones by rho along their own gradient.

    Cost: 3 forwards and 1 backward, then K of each, before the solver inside combines the rows.
    Known: one z serves all sources, so their estimates differ in sign only. The modules are in evaluation
    mode for the two forwards at theta +- zo_eps z.

    Args:
        inner: the solver asked there.
        rho: length of the displacements; 0: none.
        beta: share of the estimate; with 0 and no private parameters this is SAM.
        zo_eps: size of the steps that the estimate is taken from.
    """

    needs_rows = True

    def __init__(
        self,
        inner: Solver,
        rho: NonNegative = 1e-3,
        beta: Fraction = 0.5,
        zo_eps: Positive = 0.01,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, **common)
        self.rho = rho
        self.beta = beta
        self.zo_eps = zo_eps

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside on the rows and losses at the K displaced points."""
        if self.rho == 0:
            return self.inner.direction(oracle)
        z = oracle.vector().normal_(generator=self.generator) if self.beta else None
        return self.inner.direction(oracle.shown(partial(self._measure, z), measures_losses=True))

    def _measure(self, z: Tensor | None, oracle: Oracle) -> Jacobian:
        """Row k and loss k at theta + eps_k, wherever the oracle stands."""
        g, rows, losses = oracle.mean_gradient(), oracle.rows(), []
        estimate, signs = (g, torch.ones(len(rows))) if z is None else self._estimate(oracle, g, z)
        with oracle.path() as there:
            for k, sign in enumerate(signs.to(g)):
                there.place(self._displacement(oracle, k, g, estimate, sign))
                loss, gradient = there.row(k)
                rows[k].copy_(gradient)
                losses.append(loss)
        return Jacobian(rows, oracle.space.n_shared, torch.stack(losses))

    def _estimate(self, oracle: Oracle, g: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) z, tensor by tensor as long as g, and (K,) signs of the slopes along it; e_k is sign_k z."""
        move = torch.mul(z, self.zo_eps, out=oracle.vector())
        with oracle.path() as there, there.objective.evaluating():
            there.place(move)
            above = there.probe()
            there.place(move.neg_())
            signs = (above - there.probe()).sign()
        views = oracle.space.views(move.copy_(z))
        norms = [norm.clamp_min(TINY) for norm in torch._foreach_norm(views)]
        torch._foreach_mul_(views, torch._foreach_div(torch._foreach_norm(oracle.space.views(g)), norms))
        return move, signs

    def _displacement(self, oracle: Oracle, k: int, g: Tensor, estimate: Tensor, sign: Tensor) -> Tensor:
        """(P,) eps_k; the private parameters of other sources do not move."""
        space = oracle.space
        eps = torch.mul(estimate, self.beta * sign, out=oracle.vector()).add_(g, alpha=1 - self.beta)
        private = eps[space.n_shared :].zero_()
        for to, of in zip(space.own_views(eps, k), space.own_views(g, k), strict=True):
            to.copy_(of)
        normalized(eps[: space.n_shared], self.rho)
        normalized(private, self.rho)
        return eps
