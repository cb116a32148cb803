"""Oracle: losses and gradients of the K sources at a point, evaluated lazily and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .blockwise import blockwise_gramian
from .economy import Economy
from .errors import UsageError
from .forwards import Forwards, Seen, check_differentiable
from .graphs import gradients, refuse_reentrant_checkpoints, reusable_graphs, scalars
from .jacobian import Jacobian
from .objective import Objective
from .parameters import ParameterSpace
from .pool import Pool
from .products import cosines, mean_of_pairs
from .ranks import Ranks


class Oracle:
    """First-order oracle of an objective at the point where its parameters stand.

    Costs, in passes over all sources: ``losses`` one forward; ``jacobian`` one forward and K backwards (K
    small graphs where the sources have graphs of their own); ``pullback`` one forward and ONE backward, or
    none when the Jacobian is there already. Whatever is asked first pays the forward; but where the objective
    has a ``joint`` graph beside those of the sources, a Jacobian after ``losses`` pays another.

    Args:
        objective: the sources.
        pool: where large tensors come from.
        expected: K as the solver knows it; another number of sources is refused.
        statistics: whether the first forward moves BatchNorm statistics.
        parent: the oracle from whose point this one set out; none where the step begins.
        economy: how gradients are kept; default: as the parent has it.
    """

    def __init__(
        self,
        objective: Objective,
        pool: Pool | None = None,
        expected: int | None = None,
        statistics: bool = True,
        parent: Oracle | None = None,
        economy: Economy | None = None,
    ) -> None:
        self.objective = objective
        self.pool = pool or Pool()
        self.expected = expected
        self.economy: Economy = economy or (parent.economy if parent is not None else Economy())
        self.inspect_graphs = False  # where the step begins: whether graphs are looked into
        self.keep_mean = False  # whether a second mean_gradient at the same point shall cost nothing
        self.seen: list[Seen] = []  # where the step begins: the losses of every forward of the step
        self._home: tuple[Tensor, Tensor] | None = None  # there, too: losses and theta before a relocation
        self._parent = parent
        joins = self.economy.memory == "fast"
        self._forwards = Forwards(objective, expected, statistics, self.start.seen, parent is None, joins)
        self._jacobian: Jacobian | None = None
        self._mean: Tensor | None = None

    @property
    def space(self) -> ParameterSpace:
        """The parameters, shared ones first."""
        return self.objective.space

    @property
    def n_sources(self) -> int:
        """K."""
        return self.objective.n_sources or len(self.losses())

    @property
    def n_total(self) -> int:
        """K with the sources that are absent from this batch."""
        return self.objective.n_total or self.n_sources

    @property
    def places(self) -> list[int]:
        """The number of each source among all of them: 0 .. K-1 where none is absent."""
        return list(self.objective.places)

    def of_present(self, values: Tensor) -> Tensor:
        """Those of (n_total,) values that belong to the K sources here."""
        return values if self.n_sources == self.n_total else values[self.places]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the K sources."""
        return self.objective.names

    @property
    def start(self) -> Oracle:
        """The oracle of the point where the step began."""
        # Not stored on itself: a cycle would keep the large tensors alive until the garbage collector comes.
        return self if self._parent is None else self._parent.start

    @property
    def _ranks(self) -> Ranks:
        return self.objective.ranks

    def losses(self) -> Tensor:
        """(K,) losses here, detached; the graphs are kept for a pullback (or, ``separate``, any gradient)."""
        return self._forwards.losses(differentiable=True)

    def probe(self) -> Tensor:
        """(K,) losses here without any graph: cheaper than ``losses`` where no gradient will be asked for."""
        return self._forwards.losses(differentiable=False)

    def start_losses(self) -> Tensor:
        """(K,) losses where the step began, whoever has moved the parameters since."""
        start = self.start
        return start.losses() if start._home is None else start._home[0]

    def seen_losses(self) -> Tensor:
        """(K,) losses where the step began, as far as they have been evaluated, else NaN."""
        losses = torch.full((self.n_sources,), torch.nan, dtype=self.space.dtype, device=self.space.device)
        for first, values, at_start in reversed(self.start.seen):
            if at_start:
                losses[first : first + len(values)] = values.to(losses)
        return losses

    def jacobian(self) -> Jacobian:
        """Gradients of all sources here, (K, P).

        Raises:
            UsageError: memory is ``low``.
        """
        if self._jacobian is None:
            space, rows = self.space, self.rows()
            for first, losses in self._forwards.graphs():
                for j, loss in enumerate(losses):
                    space.write(rows[first + j], self._gradient(loss, last=j == len(losses) - 1))
            self._jacobian = Jacobian(self._ranks.sum_(rows), space.n_shared)
        return self._jacobian

    def gramian(self) -> Tensor:
        """(K, K) inner products of the gradients here over the SHARED parameters.

        It costs a Jacobian. Where memory is ``low`` there never is one: blocks of its columns are made one
        after the other, from graphs that all stay for a pullback.
        """
        if self._jacobian is not None or self.economy.memory == "fast":
            return self.jacobian().gramian()
        return self._blockwise_gramian(self.space.n_shared)

    def cosine(self) -> Tensor:
        """(K, K) cosine similarities of the gradients here over ALL parameters; costs as ``gramian``."""
        if self._jacobian is not None or self.economy.memory == "fast":
            return self.jacobian().cosine()
        return cosines(self._blockwise_gramian(self.space.n_entries))

    def mean_cosine(self) -> Tensor:
        """Scalar mean of the cosines of all pairs of sources; 1 when K = 1."""
        return mean_of_pairs(self.cosine())

    def _blockwise_gramian(self, length: int) -> Tensor:
        self.losses()
        return blockwise_gramian(self._forwards, self.space, length, self.n_sources, self.pool, self._ranks)

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
        for first, losses in self._forwards.for_a_sum():
            share = weights[first : first + len(losses)]
            mixed = sum(w.to(loss.dtype) * loss for w, loss in zip(share, losses, strict=True))
            operation(total, self._gradient(mixed, last=True))
            operation = self.space.add
        return self._ranks.sum_(total)

    def mean_gradient(self) -> Tensor:
        """(P,) gradient of the mean loss here, the caller's to change."""
        if self._jacobian is not None:
            return self._jacobian.mean(out=self.vector())
        if self._mean is not None:
            return self.vector().copy_(self._mean)
        space, n_sources = self.space, self.n_sources
        equal = torch.full((n_sources,), 1 / n_sources, dtype=space.dtype, device=space.device)
        mean = self.pullback(equal)
        if self.keep_mean:
            self._mean = self.vector().copy_(mean)
        return mean

    def row(self, k: int) -> tuple[Tensor, Tensor]:
        """() loss and (P,) gradient of source ``k`` here, by the forward of its graph and one backward."""
        loss, value = self._forwards.source(k)
        return value.to(torch.promote_types(loss.dtype, self.space.dtype)), self._flat_gradient(loss)

    def source_gradient(self, k: int) -> Tensor:
        """(P,) gradient of source ``k`` alone here: one forward of that source, one backward."""
        with torch.enable_grad(), self.objective.frozen_statistics(), reusable_graphs():
            [loss] = scalars([self.objective.source(k)], k)
        check_differentiable(loss, self.names[k])
        self.start.seen.append(Seen(k, self._ranks.sum_(loss.detach().clone()[None]), at_start=False))
        return self._flat_gradient(loss)

    def vector(self) -> Tensor:
        """An uninitialised (P,) vector from the pool."""
        return self.space.vector(self.pool)

    def rows(self) -> Tensor:
        """An uninitialised (K, P) matrix from the pool, of the dtype of a Jacobian.

        Raises:
            UsageError: memory is ``low``.
        """
        if self.economy.memory == "low":
            raise UsageError(
                "memory 'low' is for solvers that need the Gramian of the sources' gradients alone; "
                "this one asks for the gradients of all sources at once (memory 'fast')"
            )
        space = self.space
        dtype = self.economy.dtype(space.dtype)
        return self.pool.take(self.n_sources, space.n_entries, dtype=dtype, device=space.device)

    @contextmanager
    def path(self) -> Iterator[Oracle]:
        """An oracle that can be walked away from here (``advance``, ``place``), and theta back in the end.

        Theta comes back bit for bit, also after an exception. This oracle lets go of its graphs and its
        Jacobian (whoever holds the latter keeps it), so that one (K, P) buffer serves all points.
        """
        if self.start._home is None:
            self.start.probe()
        self._forget()
        with self.space.restored(self.pool):
            yield Oracle(self.objective, self.pool, self.expected, statistics=False, parent=self)

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
        self._leave()
        self.space.move(displacement)

    def place(self, displacement: Tensor) -> None:
        """Move to a (P,) displacement from where the innermost :meth:`path` began."""
        self._leave()
        self.space.set(self.space.anchors[-1])
        self.space.move(displacement)

    def relocate(self, displacement: Tensor) -> None:
        """Move theta itself by (P,), for good: the paths being walked will lead back to it there.

        ``start_losses`` stay those of the theta where the step began; a step that fails goes back to it.
        """
        start = self.start
        if start._home is None:
            theta = self.space.anchors[0] if self.space.anchors else self.space.copy(self.pool)
            start._home = (start.probe(), self.vector().copy_(theta))
        self.space.shift(displacement)
        oracle: Oracle | None = self
        while oracle is not None:
            oracle._leave()
            oracle = oracle._parent

    def go_home(self) -> None:
        """Undo every :meth:`relocate` of this step."""
        if self.start._home is not None:
            self.space.set(self.start._home[1])

    def redrawn(self, draw: int) -> Oracle:
        """The oracle here of the same sources on further minibatches, number ``draw`` >= 1 of this step.

        Raises:
            UsageError: the objective cannot supply any.
        """
        return Oracle(self.objective.redrawn(draw), self.pool, self.expected, statistics=False, parent=self)

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

    def shown(self, measure: Callable[[Oracle], Jacobian], measures_losses: bool = False) -> Oracle:
        """The oracle whose Jacobian, at whatever point, is what ``measure`` makes of the oracle there.

        Args:
            measure: makes the Jacobian.
            measures_losses: whether the Jacobian brings its own ``losses``, which are then shown as well.
        """
        from .shown import (
            ShownOracle,  # an oracle itself, so it cannot be imported before this class is there
        )

        return ShownOracle(self, measure, measures_losses)

    def _forget(self) -> None:
        self._forwards.drop_graphs()
        self._jacobian = self._mean = None

    def _leave(self) -> None:
        self._forget()
        self._forwards.leave()

    def _check_weights(self, weights: Tensor, n_sources: int) -> None:
        if weights.shape != (n_sources,):
            raise UsageError(
                f"{n_sources} weights are needed, found a tensor of shape {tuple(weights.shape)}"
            )

    def _flat_gradient(self, loss: Tensor) -> Tensor:
        gradient = self.vector()
        self.space.write(gradient, self._gradient(loss, last=True))
        return self._ranks.sum_(gradient)

    def _gradient(self, loss: Tensor, last: bool) -> Sequence[Tensor | None]:
        if self.start.inspect_graphs:
            refuse_reentrant_checkpoints(loss)
        return gradients(loss, self.space.parameters, keep_graph=not last)
