"""An oracle that shows the solver inside other gradients than those of the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from .jacobian import Jacobian
from .oracle import Oracle


class ShownOracle(Oracle):
    """What ``measure`` makes of ``origin`` wherever it stands, as Jacobian and, where it has them, losses.

    Args:
        origin: the oracle that is measured.
        measure: makes the Jacobian.
        measures_losses: whether the Jacobian brings losses of its own; else those of ``origin`` are shown.
    """

    def __init__(
        self, origin: Oracle, measure: Callable[[Oracle], Jacobian], measures_losses: bool = False
    ) -> None:
        super().__init__(origin.objective, origin.pool, origin.expected, statistics=False, parent=origin)
        self._origin = origin
        self._measure = measure
        self._measures_losses = measures_losses

    def losses(self) -> Tensor:
        jacobian = self.jacobian()  # which will be asked for, and its forward gives the losses, too
        if not self._measures_losses:
            return self._origin.probe()
        losses = jacobian.losses
        assert losses is not None
        return losses

    def probe(self) -> Tensor:
        return self.losses() if self._measures_losses else self._origin.probe()

    def jacobian(self) -> Jacobian:
        if self._jacobian is None:
            self._jacobian = self._measure(self._origin)
        return self._jacobian

    def gramian(self) -> Tensor:
        return self.jacobian().gramian()

    def cosine(self) -> Tensor:
        return self.jacobian().cosine()

    def pullback(self, weights: Tensor | Sequence[float]) -> Tensor:
        self.jacobian()
        return super().pullback(weights)

    def mean_gradient(self) -> Tensor:
        self.jacobian()
        return super().mean_gradient()

    def row(self, k: int) -> tuple[Tensor, Tensor]:
        return self.losses()[k], self.source_gradient(k)

    def source_gradient(self, k: int) -> Tensor:
        return self.vector().copy_(self.jacobian().rows[k])

    def redrawn(self, draw: int) -> Oracle:
        return self._like(self._origin.redrawn(draw))

    @contextmanager
    def path(self) -> Iterator[Oracle]:
        self._forget()
        with self._origin.path() as there:
            yield self._like(there)

    def advance(self, displacement: Tensor) -> None:
        self._forget()
        self._origin.advance(displacement)

    def place(self, displacement: Tensor) -> None:
        self._forget()
        self._origin.place(displacement)

    def _like(self, origin: Oracle) -> Oracle:
        return ShownOracle(origin, self._measure, self._measures_losses)
