"""An oracle that shows the solver inside other gradients than those of the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from .jacobian import Jacobian
from .oracle import Oracle


class ShownOracle(Oracle):
    """The losses of ``origin``, and as Jacobian what ``measure`` makes of ``origin`` wherever it stands."""

    def __init__(self, origin: Oracle, measure: Callable[[Oracle], Jacobian]) -> None:
        super().__init__(origin.objective, origin.pool, origin._expected, statistics=False)
        self._elsewhere_of = origin._start
        self._origin = origin
        self._measure = measure

    def losses(self) -> Tensor:
        return self._origin.losses()

    def probe(self) -> Tensor:
        return self._origin.probe()

    def jacobian(self) -> Jacobian:
        if self._jacobian is None:
            self._jacobian = self._measure(self._origin)
        return self._jacobian

    def pullback(self, weights: Tensor | Sequence[float]) -> Tensor:
        self.jacobian()
        return super().pullback(weights)

    def mean_gradient(self) -> Tensor:
        self.jacobian()
        return super().mean_gradient()

    def source_gradient(self, k: int) -> Tensor:
        return self.vector().copy_(self.jacobian().rows[k])

    @contextmanager
    def path(self) -> Iterator[Oracle]:
        self._forget()
        with self._origin.path() as there:
            yield there.shown(self._measure)

    def advance(self, displacement: Tensor) -> None:
        self._forget()
        self._origin.advance(displacement)
