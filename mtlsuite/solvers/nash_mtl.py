"""Nash-MTL: the Nash bargaining solution between the sources."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction, Metrics
from ..core.solver import Common, Solver
from ..core.types import Count, NonNegative
from ..linalg import bargaining_weights, bargaining_weights_on_device
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
        solve: the K x K problem on the ``host``, or on the ``device`` of the gradients, which then is not
            waited for while ``update_weights_every`` is 1; on a GPU that takes more time than it saves unless
            the host is far behind.
    """

    stateful = ("alpha", "solved", "steps", "kept")

    def __init__(
        self,
        n_sources: Count | None = None,
        update_weights_every: Count = 1,
        max_norm: NonNegative | None = 1.0,
        solve: Literal["host", "device"] = "host",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.solve = solve
        self.n_sources = n_sources
        self.update_weights_every = update_weights_every
        self.max_norm = max_norm
        self.alpha: Tensor | None = None
        self.solved: Tensor | None = None  # (K,) of which sources alpha was ever a solution
        self.steps = 0
        self.kept: int | Tensor = 0
        self._keeps: bool | Tensor = False

    def direction(self, oracle: Oracle) -> Direction:
        """The bargaining solution's combination of the gradients."""
        space = oracle.space
        place = "cpu" if self.solve == "host" else space.device
        if self.alpha is None or self.solved is None or len(self.alpha) != oracle.n_total:
            # the weights of other sources would mean nothing here
            self.alpha = torch.ones(oracle.n_total, dtype=space.dtype, device=space.device)
            self.solved = torch.zeros(oracle.n_total, dtype=torch.bool, device=place)
        # A state that was loaded may be of another device, or of a version that kept ``solved`` as a list.
        self.alpha, self.solved = self.alpha.to(space.device), torch.as_tensor(self.solved, device=place)
        due = self.steps % self.update_weights_every == 0 or not bool(oracle.of_present(self.solved).all())
        self._keeps = self._update(oracle, self.alpha, self.solved) if due else False
        weights = oracle.of_present(self.alpha)
        metrics: Metrics = {"nash_mtl/kept_weights": self.kept + self._keeps}
        direction = Direction(oracle.pullback(weights), weights, metrics)
        return limit_shared_norm(direction, oracle, self.max_norm)

    def _update(self, oracle: Oracle, alpha: Tensor, solved: Tensor) -> bool | Tensor:
        """Solve for the weights of the sources that are present; whether the last ones are kept."""
        gramian = oracle.gramian()
        places = oracle.of_present(torch.arange(len(alpha), device=alpha.device))
        if self.solve == "device":
            found, valid = bargaining_weights_on_device(gramian)
            found = torch.where(valid, found, alpha[places].to(found))
            self.alpha = alpha.to(found).index_copy(0, places, found)
            self.solved = solved.index_copy(0, places, solved[places] | valid)
            return ~valid
        weights = bargaining_weights(gramian)
        if weights is not None:
            self.alpha = alpha.to(weights).index_copy(0, places, weights)
            self.solved = solved.index_fill(0, torch.tensor(oracle.places), value=True)
        return weights is None

    def after_step(self, oracle: Oracle) -> None:  # noqa: ARG002
        """Count the step; a wrapper may have asked for several directions in it."""
        self.steps += 1
        self.kept = self.kept + self._keeps
