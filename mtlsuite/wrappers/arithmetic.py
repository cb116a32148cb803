"""First-order meta-learning: rows measured along an inner SGD (arithmetic meta-learning and Fish)."""

from __future__ import annotations

import abc
from functools import partial
from typing import Literal

import torch
from typing_extensions import Unpack

from ..core.jacobian import Jacobian
from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper
from ..core.types import Count, Positive


class InnerLoop(Wrapper):
    """Shows the solver inside the gradients met on a walk of plain SGD from source to source.

    Args:
        inner: the solver that combines the rows; ``equal`` (mean) gives the paper's outer update.
        inner_lr: step size of the walk. 5e-5 is the reference value; set it for other scales.
        inner_steps: steps on each source.
        order: ``random``: a new order of the sources at each step; ``fixed``: as they stand.
        total: what the outer weights a_i sum to.
        minibatches: ``same``: every step on a source uses its minibatch of the outer step; ``fresh``: every
            further one draws another, from an objective that can supply them.
    """

    needs_rows = True

    def __init__(
        self,
        inner: Solver,
        inner_lr: Positive = 5e-5,
        inner_steps: Count = 1,
        order: Literal["random", "fixed"] = "random",
        total: Positive = 1.0,
        minibatches: Literal["same", "fresh"] = "same",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, **common)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.order = order
        self.total = total
        self.minibatches = minibatches

    @abc.abstractmethod
    def outer_weight(self, position: int, n_sources: int) -> float:
        """a_i, the weight of the source at ``position`` 1..K of the walk; they sum to 1."""

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside on the rows of a walk."""
        order = list(range(oracle.n_sources))
        if self.order == "random":
            draw = torch.randperm(len(order), generator=self.generator, device=self.generator.device)
            order = draw.tolist()
        return self.inner.direction(oracle.shown(partial(self._walk, order)))

    def _walk(self, order: list[int], oracle: Oracle) -> Jacobian:
        """Row k is (theta before - theta after) / inner_lr of source k's part of the walk, times K a_i."""
        rows = oracle.rows().zero_()
        with oracle.path() as there:
            for position, k in enumerate(order, start=1):
                for draw in range(self.inner_steps):
                    fresh = draw > 0 and self.minibatches == "fresh"
                    gradient = (there.redrawn(draw) if fresh else there).source_gradient(k)
                    rows[k].add_(gradient)
                    there.advance(gradient.mul_(-self.inner_lr))
                rows[k].mul_(len(order) * self.total * self.outer_weight(position, len(order)))
        return Jacobian(rows, oracle.space.n_shared)


@register("wrapper", "arithmetic")
class Arithmetic(InnerLoop):
    """A walk of inner SGD from source to source, on which early sources count more.

    Wang et al., Balanced Direction from Multifarious Choices: Arithmetic Meta-Learning for Domain
    Generalization, CVPR 2025: the row of the i-th source of the walk is (theta_i - theta_(i+1)) / inner_lr
    times K a_i, with a_i = (K + 1 - i) / (K (K + 1) / 2), so for K = 3: 1/2, 1/3, 1/6. With ``equal`` inside,
    d = sum_i a_i row_i. The outer optimizer, Adam in the paper, is simply the optimizer.

    Cost: In place of what the solver inside spends on gradients: 1 forward, then ``inner_steps`` forwards and
    backwards of each source alone.
    Known: The centroid formula's weights a_i sum to (K + 1) / 2, the reference code's to K / inner_lr, ours
    to ``total``; SGD sees the difference, Adam hardly does.
    """

    def outer_weight(self, position: int, n_sources: int) -> float:
        """(K + 1 - i) / (K (K + 1) / 2)."""
        return (n_sources + 1 - position) / (n_sources * (n_sources + 1) / 2)


@register("wrapper", "fish")
class Fish(InnerLoop):
    """A walk of inner SGD from source to source, on which all sources count the same.

    Shi et al., Gradient Matching for Domain Generalization, ICLR 2022, Algorithm 1: as ``arithmetic`` with
    a_i = 1 / K. On average this raises the inner products of the sources' gradients.

    Cost: In place of what the solver inside spends on gradients: 1 forward, then ``inner_steps`` forwards and
    backwards of each source alone.
    Known: With ``equal`` inside and plain SGD outside it is a step of lr / (K inner_lr), the paper's epsilon,
    towards the end of the walk. DomainBed's version walks with Adam instead of SGD.
    """

    def outer_weight(self, position: int, n_sources: int) -> float:  # noqa: ARG002
        """1 / K."""
        return 1 / n_sources
