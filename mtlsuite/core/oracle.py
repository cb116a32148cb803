"""Oracle: losses and gradients of the K sources at a point, evaluated lazily and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from .errors import NonFiniteError, UsageError
from .graphs import gradients, refuse_reentrant_checkpoints, reusable_graphs, scalars
from .jacobian import Jacobian
from .objective import Graph, Objective
from .parameters import ParameterSpace
from .pool import Pool


class Oracle:
    """First-order oracle of an objective at the point where its parameters stand.

    Costs, in passes over all sources: ``losses`` one forward; ``jacobian`` one forward and K backwards (K
    small graphs where the sources have graphs of their own); ``pullback`` one forward and ONE backward, or
    none when the Jacobian is there already. Whatever is asked first pays the forward.

    Args:
        objective: the sources.
        pool: where large tensors come from.
        expected: K as the solver knows it; another number of sources is refused.
        statistics: whether the first forward moves BatchNorm statistics.
    """

    def __init__(
        self,
        objective: Objective,
        pool: Pool | None = None,
        expected: int | None = None,
        statistics: bool = True,
    ) -> None:
        self.objective = objective
        self.pool = pool or Pool()
        self._expected = expected
        self._elsewhere_of: Oracle | None = None
        self._moves_statistics: set[int] = set(range(len(objective.graphs))) if statistics else set()
        self.inspect_graphs = False  # look for what the gradient functions of torch would leave out silently
        self._seen: list[Tensor] = []  # the losses of every point of the step, for the final check
        self._scalars: dict[int, Tensor] = {}
        self._live: dict[int, list[Tensor]] = {}  # losses whose graph still waits for a backward
        self._losses: Tensor | None = None
        self._jacobian: Jacobian | None = None

    @property
    def space(self) -> ParameterSpace:
        """The parameters, shared ones first."""
        return self.objective.space

    @property
    def n_sources(self) -> int:
        """K."""
        return self.objective.n_sources or len(self.losses())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the K sources."""
        return self.objective.names

    def losses(self) -> Tensor:
        """(K,) losses here, detached; the graphs are kept for a later gradient."""
        if self._losses is None:
            for index, graph in enumerate(self.objective.graphs):
                self._live[index] = self._forward(index, graph)
        return self._known_losses()

    def probe(self) -> Tensor:
        """(K,) losses here without any graph: cheaper than ``losses`` where no gradient will be asked for."""
        if self._losses is None:
            for index, graph in enumerate(self.objective.graphs):
                self._forward(index, graph, differentiable=False)
        return self._known_losses()

    def start_losses(self) -> Tensor:
        """(K,) losses where the step began, whoever has moved the parameters since."""
        return self._start.losses()

    def jacobian(self) -> Jacobian:
        """Gradients of all sources here, (K, P)."""
        if self._jacobian is None:
            space, rows = self.space, self.rows()
            for first, losses in self._graphs():
                for j, loss in enumerate(losses):
                    space.write(rows[first + j], self._gradient(loss, last=j == len(losses) - 1))
            self._jacobian = Jacobian(rows, space.n_shared)
        return self._jacobian

    def pullback(self, weights: Tensor | Sequence[float]) -> Tensor:
        """(P,) sum_k w_k g_k here. The vector is the caller's, who may change it in place.

        Args:
            weights: (K,) w.
        """
        weights = torch.as_tensor(weights, dtype=self.space.dtype, device=self.space.device).detach()
        if self._jacobian is not None:
            self._check_weights(weights, len(self._jacobian.rows))
            return self._jacobian.combine(weights, out=self.vector())
        self._check_weights(weights, self.n_sources)
        total = self.vector()
        operation = self.space.write
        for first, losses in self._graphs():
            share = weights[first : first + len(losses)]
            mixed = sum(w.to(loss.dtype) * loss for w, loss in zip(share, losses, strict=True))
            operation(total, self._gradient(mixed, last=True))
            operation = self.space.add
        return total

    def mean_gradient(self) -> Tensor:
        """(P,) gradient of the mean loss here, the caller's to change."""
        if self._jacobian is not None:
            return self._jacobian.mean(out=self.vector())
        n_sources = self.n_sources
        return self.pullback([1 / n_sources] * n_sources)

    def vector(self) -> Tensor:
        """An uninitialised (P,) vector from the pool."""
        return self.space.vector(self.pool)

    def rows(self) -> Tensor:
        """An uninitialised (K, P) matrix from the pool."""
        space = self.space
        return self.pool.take(self.n_sources, space.n_entries, dtype=space.dtype, device=space.device)

    @contextmanager
    def path(self) -> Iterator[Oracle]:
        """An oracle that can be walked away from here by :meth:`advance`, and theta back in the end.

        Theta comes back bit for bit, also after an exception. This oracle lets go of its graphs and its
        Jacobian (whoever holds the latter keeps it), so that one (K, P) buffer serves all points.
        """
        self._start.probe()
        self._forget()
        there = Oracle(self.objective, self.pool, self._expected, statistics=False)
        there._elsewhere_of = self._start
        there.inspect_graphs = self.inspect_graphs
        with self.space.restored(self.pool):
            yield there

    @contextmanager
    def moved(self, displacement: Tensor) -> Iterator[Oracle]:
        """The oracle at theta + displacement, a :meth:`path` of one step.

        Args:
            displacement: (P,), e.g. the epsilon of a sharpness-aware ascent.
        """
        with self.path() as there:
            there.advance(displacement)
            yield there

    def advance(self, displacement: Tensor) -> None:
        """Move on by a (P,) displacement; only on a :meth:`path`."""
        self._forget()
        self._losses = None
        self._scalars.clear()
        self.space.move(displacement)

    def source_gradient(self, k: int) -> Tensor:
        """(P,) gradient of source ``k`` alone here: one forward of that source, one backward."""
        with torch.enable_grad(), self.objective.frozen_statistics(), reusable_graphs():
            [loss] = scalars([self.objective.source(k)], k)
        self._check_differentiable(loss, k)
        gradient = self.vector()
        self.space.write(gradient, self._gradient(loss, last=True))
        return gradient

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Oracle:
        """The oracle whose Jacobian here is ``function(rows)``, (K, P) -> (K, P); the losses stay.

        The function must not write into the rows it is given.
        """

        def measure(origin: Oracle) -> Jacobian:
            jacobian = origin.jacobian().map(function)
            wanted, found = (origin.n_sources, origin.space.n_entries), getattr(jacobian.rows, "shape", None)
            if found != wanted:
                raise UsageError(f"mapped rows must have the shape {wanted}, the function gave {found}")
            return jacobian

        return self.shown(measure)

    def shown(self, measure: Callable[[Oracle], Jacobian]) -> Oracle:
        """The oracle whose Jacobian, at whatever point, is what ``measure`` makes of the oracle there."""
        from .shown import (
            ShownOracle,  # an oracle itself, so it cannot be imported before this class is there
        )

        return ShownOracle(self, measure)

    @property
    def _start(self) -> Oracle:
        # Not stored on itself: a cycle would keep the large tensors alive until the garbage collector comes.
        return self._elsewhere_of or self

    def check(self) -> None:
        """Raise where a loss seen in this step is not finite.

        Raises:
            NonFiniteError: naming the source.
        """
        start = self._start
        if not start._seen or bool(torch.stack(start._seen).isfinite().all()):
            return
        for losses in start._seen:
            for k in (~losses.isfinite()).nonzero().flatten().tolist():
                if losses is not start._seen[0]:  # was it a gradient that led there?
                    start.check_gradients()
                raise NonFiniteError(
                    f"the loss of source {self.names[k]!r} is not finite ({float(losses[k])})"
                )

    def check_gradients(self) -> None:
        """Raise where a gradient here is not finite; costs a Jacobian.

        Raises:
            NonFiniteError: naming the source.
        """
        finite = self.jacobian().rows.isfinite().all(dim=1)
        for name, fine in zip(self.names, finite.tolist(), strict=True):
            if not fine:
                raise NonFiniteError(f"the gradient of source {name!r} is not finite (its loss is)")

    def _graphs(self) -> Iterator[tuple[int, list[Tensor]]]:
        for index, graph in enumerate(self.objective.graphs):
            losses = self._live.pop(index, None) or self._forward(index, graph)
            yield (graph.sources or range(len(losses))).start, losses

    def _forward(self, index: int, graph: Graph, differentiable: bool = True) -> list[Tensor]:
        first_of_step = index in self._moves_statistics
        self._moves_statistics.discard(index)
        statistics = nullcontext() if first_of_step else self.objective.frozen_statistics()
        with torch.set_grad_enabled(differentiable), statistics, reusable_graphs():
            losses = scalars(graph.evaluate(), (graph.sources or range(1)).start)
        sources = graph.sources or range(len(losses))
        self._check_count(len(losses), sources)
        for k, loss in zip(sources, losses, strict=True):
            if differentiable:
                self._check_differentiable(loss, k)
            self._scalars[k] = loss.detach()
        if self._losses is None and len(self._scalars) == self.objective.n_sources:
            wide = torch.promote_types(losses[0].dtype, self.space.dtype)
            self._losses = torch.stack([self._scalars[k].to(wide) for k in range(len(self._scalars))])
            self._start._seen.append(self._losses)
        return losses

    def _check_count(self, found: int, sources: range) -> None:
        if found == 0:
            raise UsageError("an objective needs at least one loss, found none")
        if self.objective.n_sources is None:
            self.objective.n_sources = found
        if found != len(sources):
            raise UsageError(f"the objective gave {found} losses, it has {len(sources)} sources")
        if self._expected not in (None, self.objective.n_sources):
            raise UsageError(
                f"the solver was built for {self._expected} sources, "
                f"the objective has {self.objective.n_sources} ({', '.join(self.names)})"
            )

    def _forget(self) -> None:
        self._live.clear()
        self._jacobian = None

    def _check_differentiable(self, loss: Tensor, k: int) -> None:
        if not loss.requires_grad:
            raise UsageError(
                f"the loss of source {self.names[k]!r} does not require grad: no parameter reaches it"
            )

    def _check_weights(self, weights: Tensor, n_sources: int) -> None:
        if weights.shape != (n_sources,):
            raise UsageError(
                f"{n_sources} weights are needed, found a tensor of shape {tuple(weights.shape)}"
            )

    def _gradient(self, loss: Tensor, last: bool) -> Sequence[Tensor | None]:
        if self.inspect_graphs:
            refuse_reentrant_checkpoints(loss)
        return gradients(loss, self.space.parameters, keep_graph=not last)

    def _known_losses(self) -> Tensor:
        assert self._losses is not None
        return self._losses
