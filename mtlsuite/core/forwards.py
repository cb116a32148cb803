"""The forward passes at one point: which are done, and which graphs still wait for a backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import UsageError
from .graphs import reusable_graphs, scalars
from .objective import Graph, Objective
from .ranges import marked

JOINT = -1  # number of the joint graph, beside those of the sources


class Seen(NamedTuple):
    """Losses that were evaluated in a step.

    Attributes:
        first: number of the first of them.
        losses: of sources in a row, detached; this rank's part of them until all sources are evaluated.
        at_start: whether they were met where the step began.
    """

    first: int
    losses: Tensor
    at_start: bool


class Forwards:
    """Evaluates the graphs of an objective where its parameters stand, each at most once.

    Args:
        objective: the sources.
        expected: K as the solver knows it; another number of sources is refused.
        statistics: whether the first forward of each graph moves BatchNorm statistics.
        seen: gets the losses of every forward.
        at_start: whether this is where the step begins.
        joins: whether a joint graph of the objective may be used, which needs the memory of all.
    """

    def __init__(
        self,
        objective: Objective,
        expected: int | None,
        statistics: bool,
        seen: list[Seen],
        at_start: bool,
        joins: bool,
    ) -> None:
        self._objective = objective
        self._expected = expected
        self._moves_statistics = set(range(len(objective.graphs))) if statistics else set()
        self._seen, self._at_start, self._joins = seen, at_start, joins
        self._scalars: dict[int, Tensor] = {}
        self._live: dict[int, list[Tensor]] = {}
        self._here: list[Seen] = []
        self._losses: Tensor | None = None

    def losses(self, differentiable: bool) -> Tensor:
        """(K,) losses here, detached; ``differentiable``: new graphs are kept for a backward."""
        if self._losses is None and self._joint is not None and not self._scalars:
            losses = self._run(JOINT, self._joint, differentiable)
            if differentiable:
                self._live[JOINT] = losses
        elif self._losses is None:
            for index, graph in enumerate(self._objective.graphs):
                losses = self._run(index, graph, differentiable)
                if differentiable:
                    self._live[index] = losses
        assert self._losses is not None
        return self._losses

    def graphs(self) -> Iterator[tuple[int, list[Tensor]]]:
        """For each graph the number of its first source and its losses, for a last backward."""
        self._live = {index: losses for index, losses in self._live.items() if index != JOINT}
        for index, graph in enumerate(self._objective.graphs):
            losses = self._live.pop(index, None) or self._run(index, graph)
            yield (graph.sources or range(len(losses))).start, losses

    def for_a_sum(self) -> Iterator[tuple[int, list[Tensor]]]:
        """The same where only a weighted sum of all losses is run backwards: one joint graph if possible."""
        if self._joint is not None and self._live.keys() <= {JOINT}:
            yield 0, self._live.pop(JOINT) if JOINT in self._live else self._run(JOINT, self._joint)
        else:
            yield from self.graphs()

    def waiting(self) -> Iterator[tuple[int, list[Tensor]]]:
        """As ``graphs``, and they stay for a later backward."""
        for index, graph in enumerate(self._objective.graphs):
            if index not in self._live:
                self._live[index] = self._run(index, graph)
            losses = self._live[index]
            yield (graph.sources or range(len(losses))).start, losses

    def source(self, k: int) -> tuple[Tensor, Tensor]:
        """The loss of source ``k`` with its graph, and its value here, detached; only its graph is run."""
        for index, graph in enumerate(self._objective.graphs):
            if graph.sources is None or k in graph.sources:
                losses = self._live.pop(index, None) or self._run(index, graph)
                loss = losses[k - (graph.sources or range(1)).start]
                if self._losses is not None:
                    return loss, self._losses[k]
                seen = self._seen[-1]
                self._objective.ranks.sum_(seen.losses)
                return loss, seen.losses[k - seen.first]
        raise IndexError(f"there is no source number {k}")

    def drop_graphs(self) -> None:
        """Free the graphs that wait; what the losses are stays known."""
        self._live.clear()

    def leave(self) -> None:
        """Forget this point."""
        self._live.clear()
        self._scalars.clear()
        self._here.clear()
        self._losses = None

    @property
    def _joint(self) -> Graph | None:
        return self._objective.joint if self._joins else None

    def _run(self, index: int, graph: Graph, differentiable: bool = True) -> list[Tensor]:
        objective = self._objective
        moved = set(range(len(objective.graphs))) if index == JOINT else {index}
        first_of_step = self._moves_statistics >= moved
        self._moves_statistics -= moved
        statistics = nullcontext() if first_of_step else objective.frozen_statistics()
        what = "forward of " + (", ".join(objective.names[k] for k in graph.sources or ()) or "all sources")
        with marked(what), torch.set_grad_enabled(differentiable), statistics, reusable_graphs():
            losses = scalars(graph.evaluate(), (graph.sources or range(1)).start)
        sources = graph.sources or range(len(losses))
        self._check_count(len(losses), sources)
        for k, loss in zip(sources, losses, strict=True):
            if differentiable:
                check_differentiable(loss, objective.names[k])
            self._scalars[k] = loss.detach()
        self._seen.append(
            Seen(sources.start, torch.stack([loss.detach() for loss in losses]), self._at_start)
        )
        self._here.append(self._seen[-1])
        if self._losses is None and len(self._scalars) == objective.n_sources:
            self._losses = self._summed_up(torch.promote_types(losses[0].dtype, objective.space.dtype))
        return losses

    def _summed_up(self, dtype: torch.dtype) -> Tensor:
        """(K,) losses, those of all ranks together."""
        losses = torch.stack([self._scalars[k].to(dtype) for k in range(len(self._scalars))])
        self._objective.ranks.sum_(losses)
        for seen in self._here:
            seen.losses.copy_(losses[seen.first : seen.first + len(seen.losses)])
        return losses

    def _check_count(self, found: int, sources: range) -> None:
        objective = self._objective
        if found == 0:
            raise UsageError("an objective needs at least one loss, found none")
        if objective.n_sources is None:
            objective.n_sources = found
        if found != len(sources):
            raise UsageError(f"the objective gave {found} losses, it has {len(sources)} sources")
        if self._expected not in (None, objective.n_total):
            raise UsageError(
                f"the solver was built for {self._expected} sources, "
                f"the objective has {objective.n_total} ({', '.join(objective.names)})"
            )


def check_differentiable(loss: Tensor, name: str) -> None:
    """Raise a UsageError where no gradient can come out of the loss of the source ``name``."""
    if not loss.requires_grad:
        raise UsageError(f"the loss of source {name!r} does not require grad: no parameter reaches it")
