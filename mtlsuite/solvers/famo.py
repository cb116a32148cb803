"""FAMO: fast adaptive multitask optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.errors import UsageError
from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver
from ..core.types import Count, Finite, NonNegative, Positive
from .clip import limit_shared_norm

OFFSET = 1e-8  # of the losses over their minima; the constant of the reference code


@register("solver", "famo")
class FAMO(Solver):
    """Equal relative progress of all losses, by weights that learn from it.

    Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, Algorithm 1: with logits xi,
    z = softmax(xi), D_k = L_k - min_losses_k + 1e-8 and c = 1 / sum_k(z_k / D_k), the direction is
    d = sum_k (c z_k / D_k) g_k. After the optimizer's step the losses are evaluated again on the same batch
    and xi takes one Adam step along delta_k = log D_k(before) - log D_k(after), pulled back through
    the softmax.

    Cost: 2 forwards, the second without a graph, and 1 backward.
    Known: Published code limits the norm before the backward pass in some places, where that does nothing;
    here d itself is limited.

    Args:
        n_sources: K; default: as many as the objective has.
        w_lr: learning rate of the logits.
        gamma: weight decay of the logits (literature: 1e-3 for NYUv2, 1e-2 for Cityscapes).
        max_norm: limit of the norm of d over the SHARED parameters; None or 0: no limit.
        min_losses: K lower bounds of the losses; default 0.
        before: inside a wrapper that moves the parameters, the losses that delta starts from: those where
            the step began (``start``) or those where FAMO was asked (``here``, as the SAGE code does).

    Raises:
        UsageError: a loss is at or below its entry in ``min_losses``, before the step or after it.
    """

    stateful = ("logits", "optimizer")

    def __init__(
        self,
        n_sources: Count | None = None,
        w_lr: Positive = 0.025,
        gamma: NonNegative = 1e-3,
        max_norm: NonNegative | None = 1.0,
        min_losses: list[Finite] | None = None,
        before: Literal["start", "here"] = "start",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if min_losses is not None and n_sources not in (None, len(min_losses)):
            raise UsageError(f"famo: {len(min_losses)} entries for {n_sources} sources", ("min_losses",))
        self.n_sources = n_sources if min_losses is None else len(min_losses)
        self.w_lr = w_lr
        self.gamma = gamma
        self.max_norm = max_norm
        self.min_losses = min_losses
        self.before = before
        self._before: Tensor | None = None
        self._set_logits(torch.zeros(self.n_sources or 0, dtype=torch.float64))

    def direction(self, oracle: Oracle) -> Direction:
        """The gradient of sum_k z_k log D_k, scaled by c."""
        if self.n_sources is None:
            self._set_logits(torch.zeros(oracle.n_total, dtype=torch.float64))
            self.n_sources = oracle.n_total
        excess = self._excess(oracle.losses(), oracle)
        self._before = excess if self.before == "here" else self._excess(oracle.start_losses(), oracle)
        ratios = oracle.of_present(self.logits.detach()).to(excess.device).softmax(0) / excess
        weights = ratios / ratios.sum()
        metrics = {f"famo/logit_{k}": logit for k, logit in enumerate(self.logits.detach().clone())}
        direction = Direction(oracle.pullback(weights), weights, dict(metrics))
        return limit_shared_norm(direction, oracle, self.max_norm)

    def after_step(self, oracle: Oracle) -> None:
        """One Adam step of the logits."""
        if self._before is None:
            return
        delta = self._before.log() - self._excess(oracle.probe(), oracle).log()
        z = oracle.of_present(self.logits.detach()).softmax(0)
        delta = delta.to(z)
        if bool(delta.isfinite().all()):  # else the next step finds and tells what is not
            before, absent = self.logits.detach().clone(), [True] * len(self.logits)
            self.logits.grad = torch.zeros_like(self.logits)
            self.logits.grad[oracle.places] = z * (delta - (z * delta).sum())
            self.optimizer.step()
            for k in oracle.places:
                absent[k] = False
            self.logits.data[absent] = before[absent]  # neither momentum nor decay moves an absent source
        self._before = None

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        found = len(state["attributes"]["logits"])  # 0 before the first step
        if found and self.n_sources not in (None, found):
            raise UsageError(f"the state is of FAMO for {found} sources, this one is for {self.n_sources}")

    def _load_state(self, state: Mapping[str, Any]) -> None:
        if len(state["attributes"]["logits"]):
            self._set_logits(state["attributes"]["logits"])
            self.n_sources = len(self.logits)
        super()._load_state(state)

    def _set_logits(self, logits: Tensor) -> None:
        self.logits = logits.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.logits], lr=self.w_lr, weight_decay=self.gamma)

    def _excess(self, losses: Tensor, oracle: Oracle) -> Tensor:
        losses = losses.double()
        minima = torch.zeros_like(losses)
        if self.min_losses is not None:
            minima = oracle.of_present(losses.new_tensor(self.min_losses))
        low = losses <= minima
        if bool(low.any()):
            k = int(low.nonzero()[0])
            raise UsageError(
                f"famo: the loss of source {oracle.names[k]!r} is {float(losses[k]):g}, at or below its "
                f"entry {float(minima[k]):g} in min_losses; give a lower bound of that loss"
            )
        return losses - minima + OFFSET
