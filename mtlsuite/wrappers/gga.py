"""GGA: gradient-guided annealing."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from ..core.errors import UsageError
from ..core.oracle import Oracle
from ..core.registry import register
from ..core.report import Direction, Metrics
from ..core.solver import Common, Solver, Wrapper
from ..core.types import Count, NonNegative, Positive


@register("wrapper", "gga")
class GGA(Wrapper):
    """Early in training, first moves theta to a nearby point where the sources agree more.

    Ballas and Diou, Gradient-Guided Annealing for Domain Generalization, CVPR 2025: of ``n_search``
    candidates theta + U(-r, r), one is accepted when the MINIMUM pairwise cosine of the gradients exceeds
    that of the best point so far and the mean loss is less than ``loss_tolerance`` above that point's. The
    step starts from the best.

    Cost: n_search + 1 forwards and Jacobians more, in the steps that search.
    Known: the published code does not undo rejected moves (``candidates="walk"``). Within a wrapper that
    displaces theta, the theta that it comes back to moves along. One source has nothing to search for.

    Args:
        inner: the solver asked at the best point.
        start_step: first step with a search, counted from 0.
        end_step: last step with a search.
        n_search: candidates a step.
        radius: r (1e-6 on VLCS).
        loss_tolerance: allowed rise of the mean loss.
        candidates: ``independent``: each is drawn around the best so far; ``walk``, the reference code: each
            move is added to the present point, rejected or not, and an acceptance sends that to the start.
        parameters: ``all``, or a list of those that move: patterns of names such as ``featurizer.*`` (the
            reference moves the featurizer only), or in Python the tensors.
    """

    stateful = ("steps",)
    keeps_rows = True

    def __init__(
        self,
        inner: Solver,
        start_step: Annotated[int, Field(ge=0)] = 100,
        end_step: Annotated[int, Field(ge=0)] = 200,
        n_search: Count = 250,
        radius: Positive = 1e-5,
        loss_tolerance: NonNegative = 0.1,
        candidates: Literal["independent", "walk"] = "independent",
        parameters: Literal["all"] | Annotated[list[str | Tensor], Field(min_length=1)] = "all",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, **common)
        if end_step < start_step:
            raise UsageError(f"gga: end_step {end_step} comes before start_step {start_step}", ("end_step",))
        self.start_step, self.end_step = start_step, end_step
        self.n_search = n_search
        self.radius = radius
        self.loss_tolerance = loss_tolerance
        self.candidates = candidates
        self.parameters = parameters if parameters == "all" else _References(parameters)
        self.steps = 0

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside at the best point, to which theta has moved."""
        fixed = [] if self.parameters == "all" else oracle.objective.all_but(self.parameters)
        if not self.start_step <= self.steps <= self.end_step or oracle.n_sources == 1:
            return self.inner.direction(oracle)
        displacement, metrics = self._search(oracle, fixed)
        oracle.relocate(displacement)
        inner = self.inner.direction(oracle)
        return replace(inner, metrics={**inner.metrics, **metrics})

    def after_step(self, oracle: Oracle) -> None:
        """Count the step."""
        self.steps += 1
        super().after_step(oracle)

    def _search(self, oracle: Oracle, fixed: list[int]) -> tuple[Tensor, Metrics]:
        """(P,) displacement to the best point; the parameters numbered in ``fixed`` do not move."""
        here, best, accepted = oracle.vector().zero_(), oracle.vector().zero_(), 0
        cosine, loss = _quality(oracle)
        with oracle.path() as there:
            for _ in range(self.n_search):
                noise = oracle.vector().uniform_(-self.radius, self.radius, generator=self.generator)
                views = oracle.space.views(noise)
                for index in fixed:
                    views[index].zero_()
                before = len(oracle.start.seen)
                there.place(here.add_(noise))
                found_cosine, found_loss = _quality(there)
                if found_cosine > cosine and found_loss < loss + self.loss_tolerance:
                    cosine, loss, accepted = found_cosine, found_loss, accepted + 1
                    best.copy_(here)
                    here.zero_()
                else:
                    del oracle.start.seen[before:]  # nothing depends on what was seen there
                if self.candidates == "independent":
                    here.copy_(best)
        return best, {"gga/cosine": cosine, "gga/accepted": accepted}


class _References(list[Any]):
    """Parameters that are named, not owned: a copy of the solver names the same ones."""

    def __deepcopy__(self, memo: object) -> _References:
        return self


def _quality(oracle: Oracle) -> tuple[float, float]:
    """Minimum pairwise cosine and mean loss."""
    cosine = oracle.cosine()
    rows, columns = torch.triu_indices(len(cosine), len(cosine), offset=1)
    return float(cosine[rows, columns].min()), float(oracle.losses().mean())
