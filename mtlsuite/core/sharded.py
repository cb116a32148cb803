"""One batch shared out among several processes: each of them sees the objective of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import UsageError
from .objective import Graph, Losses, Objective, zero_loss
from .ranks import Ranks, current


def sharded(objective: Objective, ranks: Ranks | None = None) -> Objective:
    """The objective of the batch whose shards the ranks hold, one each; itself where there is one process.

    A solver that steps on it gives every rank the same direction, that of one process with the whole batch:
    gradients and losses are summed over the ranks before the solver sees them. All ranks must start from the
    same parameters and build the same solver with the same seed.

    Args:
        objective: of this rank's shard. A loss is taken for a mean over ``objective.counts`` elements.
        ranks: the processes; default: those of torch.distributed's default group.

    Raises:
        UsageError: the number of sources is not known (``names``).
    """
    ranks = current() if ranks is None else ranks
    return objective if ranks.size == 1 else ShardedObjective(objective, ranks)


class ShardedObjective(Objective):
    """K sources whose losses are sums over ranks of this rank's losses times its share in the source.

    Args:
        whole: the objective of this rank's shard.
        ranks: who holds the other shards.
    """

    def __init__(self, whole: Objective, ranks: Ranks) -> None:
        if whole.n_sources is None:
            raise UsageError("an objective whose batch is shared out needs names=... or specific=... for K")
        self.whole = whole
        self.ranks = ranks
        self.space = whole.space
        self.modules = whole.modules
        self.separate = whole.separate
        self.n_sources = whole.n_sources
        self._names = whole.names
        own = whole.counts or [float(k not in whole.absent) for k in range(whole.n_sources)]
        totals = ranks.sum_(torch.tensor(own, dtype=torch.float64, device=self.space.device)).tolist()
        self._shares = [n / total if total else 0.0 for n, total in zip(own, totals, strict=True)]
        self.absent = frozenset(k for k, total in enumerate(totals) if not total)

    @property
    def graphs(self) -> list[Graph]:
        """The graphs of this rank's shard, each loss times its share."""
        return [self._shared(graph) for graph in self.whole.graphs]

    @property
    def joint(self) -> Graph | None:
        """The joint graph of this rank's shard."""
        joint = self.whole.joint
        return None if joint is None else self._shared(joint)

    def _shared(self, graph: Graph) -> Graph:
        return Graph(graph.sources, _Shared(graph, self._shares, self.space.parameters[0]))

    def losses(self) -> Losses:
        """This rank's part of all losses, one graph."""
        return _Shared(Graph(None, self.whole.losses), self._shares, self.space.parameters[0])()

    def source(self, k: int) -> Tensor:
        """This rank's part of the loss of source ``k``."""
        share = self._shares[k]
        return share * self.whole.source(k) if share else zero_loss(self.space.parameters[0])

    def redrawn(self, draw: int) -> Objective:
        """The same sources on further minibatches."""
        return ShardedObjective(self.whole.redrawn(draw), self.ranks)


class _Shared:
    """The losses of a graph times their shares; no closure over an objective, which would be a cycle."""

    def __init__(self, graph: Graph, shares: Sequence[float], parameter: Tensor) -> None:
        self.graph, self.shares, self.parameter = graph, shares, parameter

    def __call__(self) -> Losses:
        losses, sources = self.graph.evaluate(), self.graph.sources or range(len(self.shares))
        shares = self.shares[sources.start : sources.stop]
        if len(losses) != len(shares):
            return losses  # which is refused as it is without ranks
        return [
            share * loss if share else zero_loss(self.parameter)
            for share, loss in zip(shares, losses, strict=True)
        ]
