"""Nash-MTL: the Nash bargaining solution between the sources."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction, Metrics
from ..core.solver import Common, Solver
from ..core.types import Count, NonNegative
from ..linalg import bargaining_weights
from .clip import limit_shared_norm


@register("solver", "nash_mtl")
class NashMTL(Solver):
    """Weights by which every source improves alike: the Nash bargaining solution.

    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, section 3: d = sum_k alpha_k g_k with
    alpha > 0 and G alpha = 1/alpha, where G = J J^T over the SHARED parameters.

    Cost: 1 forward, K backwards; 1 backward in the steps between two updates of the weights.
    Known: Without a limit d has the norm sqrt(K) over the shared parameters, so ``max_norm`` 1 acts in every
    step with K >= 2. Where no solution exists (a sum of the gradients with weights >= 0, not all 0, vanishes)
    the last weights stay, which are all 1 at first; ``nash_mtl/kept_weights`` counts these steps.

    Args:
        n_sources: K; default: as many as the objective has.
        update_weights_every: steps from one solution to the next; between them one backward is spent.
        max_norm: limit of the norm of d over the SHARED parameters, after combining; None or 0: no limit.
    """

    stateful = ("alpha", "solved", "steps", "kept")

    def __init__(
        self,
        n_sources: Count | None = None,
        update_weights_every: Count = 1,
        max_norm: NonNegative | None = 1.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.n_sources = n_sources
        self.update_weights_every = update_weights_every
        self.max_norm = max_norm
        self.alpha: Tensor | None = None
        self.solved: list[bool] = []  # of which sources alpha was ever a solution
        self.steps = 0
        self.kept = 0
        self._keeps = False

    def direction(self, oracle: Oracle) -> Direction:
        """The bargaining solution's combination of the gradients."""
        if self.alpha is not None and len(self.alpha) != oracle.n_total:
            self.alpha = None  # the weights of another set of sources mean nothing here
        if self.alpha is None:
            self.alpha, self.solved = oracle.losses().new_ones(oracle.n_total), [False] * oracle.n_total
        due = self.steps % self.update_weights_every == 0 or not all(self.solved[k] for k in oracle.places)
        alpha = bargaining_weights(oracle.jacobian().gramian()) if due else None
        self._keeps = due and alpha is None
        if alpha is not None:  # of the sources that are absent from the batch, the last weights stay
            self.alpha = self.alpha.to(alpha).index_copy(
                0, torch.tensor(oracle.places, device=alpha.device), alpha
            )
            for k in oracle.places:
                self.solved[k] = True
        weights = oracle.of_present(self.alpha)
        metrics: Metrics = {"nash_mtl/kept_weights": self.kept + self._keeps}
        direction = Direction(oracle.pullback(weights), weights, metrics)
        return limit_shared_norm(direction, oracle, self.max_norm)

    def after_step(self, oracle: Oracle) -> None:  # noqa: ARG002
        """Count the step; a wrapper may have asked for several directions in it."""
        self.steps += 1
        self.kept += self._keeps
