"""Minibatches and the scores of their predictions as loss sources: what all objectives of batches share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import UsageError, unknown_name
from .objective import Graph, GraphMode, Objective, check_graph, zero_loss

Criterion = Callable[[Any, Any], Tensor]
Minibatch = tuple[Any, Any]
More = Callable[[int], Sequence[Minibatch]]


@dataclass(frozen=True)
class Score:
    """The loss of one source: of the predictions and targets of its minibatch.

    Attributes:
        criterion: (prediction, targets) -> scalar loss. One that offers ``count(targets)`` tells how many
            elements its mean runs over; 0: there is nothing to predict.
        key: of the source's entry in predictions and targets that have one a task; None: they are its own.
    """

    criterion: Criterion
    key: Any = None

    def __call__(self, prediction: Any, targets: Any) -> Tensor:
        return self.criterion(self._own(prediction, "prediction"), self._own(targets, "target"))

    def count(self, targets: Any, samples: float) -> Tensor | float:
        """How many elements the loss is a mean over: as the criterion says, else ``samples``; 0 for None."""
        try:
            target = self._own(targets, "target")
        except UsageError:  # told when it is evaluated
            return 1
        if target is None:
            return 0
        count = getattr(self.criterion, "count", None)
        return count(target) if callable(count) else samples

    def _own(self, values: Any, what: str) -> Any:
        return values if self.key is None else entry(values, self.key, what)


class OwnScore(Score):
    """A score whose minibatch has targets of its source alone; the predictions have one entry a task."""

    def __call__(self, prediction: Any, targets: Any) -> Tensor:
        return self.criterion(self._own(prediction, "prediction"), targets)

    def count(self, targets: Any, samples: float) -> Tensor | float:
        """How many elements the loss is a mean over."""
        return Score(self.criterion).count(targets, samples)


class MinibatchObjective(Objective):
    """Minibatches, each scored by some functions: so many sources, minibatch by minibatch.

    A source whose target is None, or which has none by the ``count`` of its criterion, is absent from the
    step. So are all sources of a minibatch that is None.
    """

    def __init__(
        self,
        model: nn.Module,
        minibatches: Sequence[Minibatch | None],
        scores: Sequence[Sequence[Score]],
        names: Sequence[str],
        graph: GraphMode,
        shared: Iterable[Tensor],
        specific: Sequence[Iterable[Tensor]] | None,
        more: More | None,
    ) -> None:
        if isinstance(minibatches, Mapping):
            raise UsageError("minibatches: a sequence is needed (its names go to names=...), found a mapping")
        self.model = model
        self._scores = [list(of_minibatch) for of_minibatch in scores]
        self._more = more
        self._redrawn: dict[int, MinibatchObjective] = {}
        self._take(minibatches)
        check_graph(graph)
        separate = not _uses_batch_statistics(model) if graph == "auto" else graph == "separate"
        self._may_join = graph == "auto"
        # Not through the closures of Objective: a cycle would keep the batch alive until garbage collection.
        self._describe(shared, specific, names, [model], separate and len(self.minibatches) > 1)

    def _take(self, minibatches: Sequence[Minibatch | None]) -> None:
        self.minibatches = [(None, None) if batch is None else batch for batch in minibatches]
        columns = zip(self._scores, self.minibatches, strict=True)
        self.counts = _numbers(
            [
                0 if inputs is None else score.count(targets, _samples(inputs))
                for scores, (inputs, targets) in columns
                for score in scores
            ]
        )
        self.absent = frozenset(k for k, count in enumerate(self.counts) if not count)

    @property
    def _ranges(self) -> list[range]:
        """The sources of each minibatch."""
        ends = list(accumulate(map(len, self._scores)))
        return [range(end - len(scores), end) for end, scores in zip(ends, self._scores, strict=True)]

    @property
    def graphs(self) -> list[Graph]:
        """One forward a minibatch, or one for all."""
        ranges = self._ranges
        if not self.separate:
            return [Graph(range(ranges[-1].stop), self.losses)]
        return [Graph(sources, partial(self._alone, d)) for d, sources in enumerate(ranges)]

    @property
    def joint(self) -> Graph | None:
        """One forward of the concatenated minibatches, unless ``separate`` was asked for."""
        if not (self._may_join and self.separate and _fit_together([x for x, _ in self.minibatches])):
            return None
        return Graph(range(self._ranges[-1].stop), self.losses)

    def losses(self) -> list[Tensor]:
        """All losses from one forward of all minibatches; 0 for absent sources."""
        used = [d for d, sources in enumerate(self._ranges) if not self.absent.issuperset(sources)]
        predictions = dict(zip(used, self._predictions(used), strict=True))
        return [loss for d in range(len(self._scores)) for loss in self._scored(d, predictions.get(d))]

    def source(self, k: int) -> Tensor:
        """Scalar loss of source ``k`` alone, by a forward of its minibatch."""
        if k in self.absent:
            return zero_loss(self.space.parameters[0])
        d = next(d for d, sources in enumerate(self._ranges) if k in sources)
        inputs, targets = self.minibatches[d]
        return self._scores[d][k - self._ranges[d].start](self.model(inputs), targets)

    def redrawn(self, draw: int) -> Objective:
        """The same sources on the minibatches ``more(draw)``."""
        if self._more is None:
            return super().redrawn(draw)
        if draw not in self._redrawn:
            other, minibatches = copy.copy(self), list(self._more(draw))
            if len(minibatches) != len(self.minibatches):
                raise UsageError(
                    f"more({draw}) gave {len(minibatches)} minibatches, the step has {len(self.minibatches)}"
                )
            other._redrawn = {}
            other._take(minibatches)
            self._redrawn[draw] = other
        return self._redrawn[draw]

    def _predictions(self, used: list[int]) -> list[Any]:
        """The predictions for some minibatches, by one forward."""
        inputs = [self.minibatches[d][0] for d in used]
        if len(inputs) < 2:
            return [self.model(each) for each in inputs]
        return _split(self.model(_concatenate(inputs)), list(map(_length, inputs)))

    def _alone(self, d: int) -> list[Tensor]:
        empty = self.absent.issuperset(self._ranges[d])  # possible in a minibatch that is drawn later
        return self._scored(d, None if empty else self.model(self.minibatches[d][0]))

    def _scored(self, d: int, prediction: Any) -> list[Tensor]:
        targets = self.minibatches[d][1]
        columns = zip(self._ranges[d], self._scores[d], strict=True)
        parameter = self.space.parameters[0]
        return [
            zero_loss(parameter) if k in self.absent else score(prediction, targets) for k, score in columns
        ]


def entry(values: Any, key: str | int, what: str) -> Any:
    """The entry of one task in a mapping or sequence with one ``what`` a task.

    Raises:
        UsageError: there is none.
    """
    if not isinstance(values, Mapping | Sequence):
        shown = "one tensor" if isinstance(values, Tensor) else repr(values)
        raise UsageError(f"one {what} a task is needed, as a mapping or a sequence; found {shown}")
    try:
        return values[key]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        there = list(values) if isinstance(values, Mapping) else range(len(values))
        raise UsageError(unknown_name(f"task (no {what} for it)", key, map(str, there))) from None


def _numbers(counts: Sequence[Tensor | float]) -> list[float]:
    """Counts as numbers; those on a device are read at one stroke."""
    tensors = [count.reshape(()).double() for count in counts if isinstance(count, Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(count, Tensor) else float(count) for count in counts]


def _samples(inputs: Any) -> int:
    try:
        return _length(inputs)
    except (TypeError, StopIteration):  # no batch of anything
        return 1


def _uses_batch_statistics(model: nn.Module) -> bool:
    norms = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


def _length(inputs: Any) -> int:
    if isinstance(inputs, Tensor):
        return len(inputs)
    if isinstance(inputs, str):  # whose first character is a text again
        raise TypeError("a text is no batch")
    return _length(next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs)))


def _concatenate(batches: Sequence[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Mapping):
        return {key: _concatenate([batch[key] for batch in batches]) for key in first}
    if not isinstance(first, Tensor):
        return [_concatenate(part) for part in zip(*batches, strict=True)]
    if len({batch.shape[1:] for batch in batches}) > 1:
        shapes = ", ".join(str(tuple(batch.shape)) for batch in batches)
        raise UsageError(f"minibatches of shapes {shapes} cannot be concatenated; use graph='separate'")
    return torch.cat(list(batches))


def _fit_together(batches: Sequence[Any]) -> bool:
    """Whether the batches that are there are alike but for their numbers of samples."""
    try:
        forms = [_form(batch, _length(batch)) for batch in batches if batch is not None]
    except (TypeError, StopIteration):
        return False
    return all(form == forms[0] for form in forms)


def _form(batch: Any, samples: int) -> Any:
    """What batches that can be concatenated have in common; a TypeError where others are in it."""
    if isinstance(batch, Mapping):
        return {key: _form(part, samples) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        return [_form(part, samples) for part in batch]
    if not isinstance(batch, Tensor) or len(batch) != samples:
        raise TypeError("not so many samples")
    return batch.shape[1:], batch.dtype


def _split(prediction: Any, lengths: list[int]) -> list[Any]:
    if isinstance(prediction, Tensor) and prediction.dim() and len(prediction) == sum(lengths):
        return list(torch.split(prediction, lengths))
    if isinstance(prediction, Mapping):
        parts = {key: _split(value, lengths) for key, value in prediction.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(len(lengths))]
    if isinstance(prediction, list | tuple):
        return [list(part) for part in zip(*(_split(value, lengths) for value in prediction), strict=True)]
    shape = f" of shape {tuple(prediction.shape)}" if isinstance(prediction, Tensor) else ""
    raise UsageError(
        f"one forward of {len(lengths)} minibatches must give a prediction for each of their {sum(lengths)} "
        "samples, as tensors, mappings or sequences of these; found a "
        f"{type(prediction).__name__}{shape}; use graph='separate'"
    )
