"""What is minimised in a run: the training criteria of its tasks, alone or added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Criterion:
    """The training criterion of a metric; says how much there is to be learned in a batch."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def __call__(self, prediction: Any, target: Any) -> Tensor:
        loss: Tensor = self._metric.loss(prediction, target)
        return loss

    def count(self, target: Any) -> Tensor | int:
        """How many elements the loss is a mean over; 0: nothing in the targets is valid."""
        found: Tensor | int = getattr(self._metric, "count", len)(target)
        return found


class SumOfTasks:
    """The criteria of several tasks, added: that of a domain or view.

    With several tasks the ``count`` tells no more than whether there is anything to be learned.
    """

    def __init__(self, criteria: Mapping[str, Criterion]) -> None:
        self._criteria = criteria

    def __call__(self, prediction: Any, target: Any) -> Tensor:
        losses = [loss(prediction[task], target[task]) for task, loss in self._criteria.items()]
        return torch.stack(losses).sum()

    def count(self, target: Any) -> Tensor | int:
        """Over how many elements the means are taken, all tasks together."""
        return sum(criterion.count(target[task]) for task, criterion in self._criteria.items())
