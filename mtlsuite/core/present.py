"""The sources that have something to say in a batch: the others are left out of the step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .objective import Graph, Losses, Objective


def present(objective: Objective) -> Objective:
    """The objective itself, or where some sources are absent, that of the others."""
    return PresentObjective(objective, _places(objective)) if objective.absent else objective


class PresentObjective(Objective):
    """Some sources of another objective, on the same parameters.

    Args:
        whole: the other objective.
        places: numbers of the sources there, in order.
    """

    def __init__(self, whole: Objective, places: Sequence[int]) -> None:
        self.whole = whole
        self.ranks = whole.ranks
        self._places = tuple(places)
        self.space = whole.space.of_sources(self._places)
        self.modules = whole.modules
        self.separate = whole.separate
        self.n_sources = len(self._places)
        self._names = tuple(whole.names[k] for k in self._places)

    @property
    def places(self) -> tuple[int, ...]:
        """The number of each source among all of them."""
        return self._places

    @property
    def n_total(self) -> int | None:
        """How many sources there are with the absent ones."""
        return self.whole.n_sources

    @property
    def absent_names(self) -> tuple[str, ...]:
        """The names of those that are left out."""
        return self.whole.absent_names

    @property
    def graphs(self) -> list[Graph]:
        """The graphs in which a source is present."""
        return self._those_present(self.whole.graphs)

    @property
    def joint(self) -> Graph | None:
        """The joint graph of the other objective."""
        joint = self.whole.joint
        return None if joint is None else self._those_present([joint])[0]

    def _those_present(self, graphs: Sequence[Graph]) -> list[Graph]:
        kept, first = [], 0
        for graph in graphs:
            sources = graph.sources or range(self.whole.n_sources or 0)
            chosen = [k - sources.start for k in self._places if k in sources]
            if chosen:
                kept.append(Graph(range(first, first + len(chosen)), _Chosen(graph, chosen)))
                first += len(chosen)
        return kept

    def losses(self) -> Losses:
        """The losses of the present sources, one graph."""
        losses = self.whole.losses()
        return [losses[k] for k in self._places]

    def source(self, k: int) -> Tensor:
        """Scalar loss of the present source ``k`` alone."""
        return self.whole.source(self._places[k])

    def redrawn(self, draw: int) -> Objective:
        """The same sources on further minibatches."""
        return PresentObjective(self.whole.redrawn(draw), self._places)


def spread(values: Tensor, objective: Objective) -> Tensor:
    """(K,) values of all sources from those of the present ones; 0 for the absent."""
    if len(objective.places) == objective.n_total:
        return values
    everywhere = values.new_zeros(objective.n_total or 0)
    everywhere[list(objective.places)] = values
    return everywhere


def _places(objective: Objective) -> list[int]:
    return [k for k in range(objective.n_sources or 0) if k not in objective.absent]


class _Chosen:
    """Some of the losses of a graph; no closure over an objective, which would be a cycle."""

    def __init__(self, graph: Graph, chosen: list[int]) -> None:
        self.graph, self.chosen = graph, chosen

    def __call__(self) -> Losses:
        losses = self.graph.evaluate()
        return [losses[j] for j in self.chosen]
