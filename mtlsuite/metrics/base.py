"""What every task's metric offers, and the checks that they share."""

from __future__ import annotations

import abc
from collections.abc import Iterable, MutableMapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from torchmetrics import Metric

from ..core.errors import UsageError

Averaging = Literal["batch", "pixel"]

# Labels are looked at once a step, not in every forward: reading their range waits for the device.
_looked_at: MutableMapping[Tensor, tuple[int, int, int]] = WeakTensorKeyDictionary()


class TaskMetric(Metric, abc.ABC):
    """Quality of one task's predictions over an evaluation, and the task's training criterion.

    Registered as kind ``metric`` under the name of the task. States are sums (or concatenations), so they
    synchronise across ranks as torchmetrics does it. Fractions are in [0, 1], angles in degrees; a quantity
    that nothing was measured for is NaN.
    """

    name: ClassVar[str]
    higher_is_better_by: ClassVar[dict[str, bool]]
    """Each quantity that :meth:`compute` returns -> whether more of it is better."""
    depends_on_averaging: ClassVar[bool] = False
    """Whether the option ``averaging`` changes what :meth:`compute` returns; tables then name it."""

    full_state_update = False
    is_differentiable = False

    @abc.abstractmethod
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""

    @abc.abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """The quantities, float64 scalars, over all batches since the last reset."""

    @staticmethod
    @abc.abstractmethod
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        """The task's training criterion, a scalar; where nothing is valid, a zero that has a graph."""

    @staticmethod
    def count(target: Tensor) -> Tensor | int:
        """How many elements of a batch of targets the criterion's mean runs over; 0: none is valid."""
        return len(target)

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        """A state of the given shape that starts at zero and is summed over the ranks."""
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")


def check_shape(task: str, what: str, found: Tensor, allowed: tuple[int | str, ...]) -> None:
    """Refuse a tensor whose shape is not ``allowed``, where a name stands for any size.

    Raises:
        UsageError: with the found and the allowed shape.
    """
    fits = found.ndim == len(allowed) and all(
        isinstance(size, str) or size == actual for size, actual in zip(allowed, found.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, allowed))
        raise UsageError(f"{task}: the {what} has the shape {tuple(found.shape)}, allowed is ({expected})")


def check_labels(task: str, labels: Tensor, lowest: int, n_classes: int) -> Tensor:
    """The labels as int64, all of them known to lie in ``lowest .. n_classes - 1``.

    Raises:
        UsageError: a label outside, or not a whole number; the range found and the one allowed.
    """
    state = None if labels.is_inference() else (labels._version, lowest, n_classes)
    if labels.numel() == 0 or (state and _looked_at.get(labels) == state):
        return labels.long()
    least, most = (bound.item() for bound in labels.aminmax())
    if not (lowest <= least and most < n_classes):
        raise UsageError(f"{task}: labels from {least} to {most}, allowed are {lowest} to {n_classes - 1}")
    whole = labels.long()
    if labels.is_floating_point() and not torch.equal(whole.to(labels.dtype), labels):
        raise UsageError(f"{task}: labels that are no whole numbers, allowed are {lowest} to {n_classes - 1}")
    if state:
        _looked_at[labels] = state
    return whole


def batch_or_pixel(averaging: Averaging, sums: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """What a batch adds to (total, weight), of whose quotient a mean over the evaluation is made.

    Args:
        averaging: ``pixel`` gives every valid pixel the same weight; ``batch`` every batch that has one.
        sums: (..., ) sums over the valid pixels of the batch.
        count: number of valid pixels of the batch.
    """
    if averaging == "pixel":
        return sums, count
    return sums / count.clamp(min=1), (count > 0).to(count.dtype)


def named(names: dict[str, bool], values: Iterable[Tensor]) -> dict[str, Tensor]:
    """The quantities by name, in the order in which the metric declares them."""
    return dict(zip(names, values, strict=True))
