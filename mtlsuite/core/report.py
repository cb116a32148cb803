"""What a solver hands back, and what a step tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from .objective import Objective
from .present import spread

Metrics = dict[str, "Tensor | float"]


@dataclass(frozen=True, eq=False)
class Direction:
    """What a solver hands back: a descent direction and how it came about.

    Attributes:
        vector: (P,) direction; the optimizer subtracts it. It belongs to the receiver.
        weights: (K,) weights of the base solver, or None where it has none.
        metrics: scalars to log, keyed ``<solver>/<quantity>``.
        sequence: (P,) directions for one optimizer step each, in this order, instead of ``vector``.
    """

    vector: Tensor
    weights: Tensor | None = None
    metrics: Metrics = field(default_factory=dict)
    sequence: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False)
class StepReport:
    """What happened in one step.

    Attributes:
        losses: (K,) detached losses at theta, before the step.
        weights: (K,) weights of the base solver, or None.
        absent: names of the sources without a target in this batch; their losses and weights are 0.
    """

    losses: Tensor
    weights: Tensor | None
    _metrics: Metrics
    absent: tuple[str, ...] = ()

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Logged scalars; read from the device when first looked at."""
        return {name: float(value) for name, value in self._metrics.items()}


def report_of(losses: Tensor, weights: Tensor | None, metrics: Metrics, objective: Objective) -> StepReport:
    """A report of its own values: what the solver holds may change in the next step."""
    own: Metrics = {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in metrics.items()
    }
    return StepReport(
        spread(losses, objective),
        None if weights is None else spread(weights.detach().clone(), objective),
        own,
        objective.absent_names,
    )
