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
from .objective import Graph, GraphMode, Objective, check_graph

Criterion = Callable[[Any, Any], Tensor]
Minibatch = tuple[Any, Any]
More = Callable[[int], Sequence[Minibatch]]


@dataclass(frozen=True)
class Score:
    """The loss of one source: of the predictions and targets of its minibatch.

    Attributes:
        criterion: (prediction, targets) -> scalar loss. One that offers ``present(targets) -> bool`` tells
            whether there is anything to predict.
        key: of the source's entry in predictions and targets that have one a task; None: they are its own.
    """

    criterion: Criterion
    key: Any = None

    def __call__(self, prediction: Any, targets: Any) -> Tensor:
        return self.criterion(self._own(prediction, "prediction"), self._own(targets, "target"))

    def is_absent(self, targets: Any) -> bool:
        """Whether there is no target: None, or nothing valid in it."""
        try:
            target = self._own(targets, "target")
        except UsageError:  # told when it is evaluated
            return False
        present = getattr(self.criterion, "present", None)
        return target is None or (present is not None and not bool(present(target)))

    def _own(self, values: Any, what: str) -> Any:
        return values if self.key is None else entry(values, self.key, what)


class OwnScore(Score):
    """A score whose minibatch has targets of its source alone; the predictions have one entry a task."""

    def __call__(self, prediction: Any, targets: Any) -> Tensor:
        return self.criterion(self._own(prediction, "prediction"), targets)

    def is_absent(self, targets: Any) -> bool:
        """Whether there is no target: None, or nothing valid in it."""
        return Score(self.criterion).is_absent(targets)


class MinibatchObjective(Objective):
    """Minibatches, each scored by some functions: so many sources, minibatch by minibatch.

    A source whose target is None, or not ``present`` by its criterion, is absent from the step. So are all
    sources of a minibatch that is None.
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
        separate = not _has_moving_batch_norm(model) if graph == "auto" else graph == "separate"
        # Not through the closures of Objective: a cycle would keep the batch alive until garbage collection.
        self._describe(shared, specific, names, [model], separate and len(self.minibatches) > 1)

    def _take(self, minibatches: Sequence[Minibatch | None]) -> None:
        self.minibatches = [(None, None) if batch is None else batch for batch in minibatches]
        columns = zip(self._scores, minibatches, strict=True)
        missing = [
            batch is None or score.is_absent(batch[1]) for scores, batch in columns for score in scores
        ]
        self.absent = frozenset(k for k, absent in enumerate(missing) if absent)

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

    def losses(self) -> list[Tensor]:
        """All losses from one forward of all minibatches; 0 for absent sources."""
        used = [d for d, sources in enumerate(self._ranges) if not self.absent.issuperset(sources)]
        predictions = dict(zip(used, self._predictions(used), strict=True))
        return [loss for d in range(len(self._scores)) for loss in self._scored(d, predictions.get(d))]

    def source(self, k: int) -> Tensor:
        """Scalar loss of source ``k`` alone, by a forward of its minibatch."""
        if k in self.absent:
            return self._zero()
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
        return [self._zero() if k in self.absent else score(prediction, targets) for k, score in columns]

    def _zero(self) -> Tensor:
        """The loss of an absent source: it has a gradient, zero."""
        return self.space.parameters[0].flatten()[:1].sum() * 0


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


def _has_moving_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(m, _BatchNorm) and m.training for m in model.modules())


def _length(inputs: Any) -> int:
    if isinstance(inputs, Tensor):
        return len(inputs)
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


def _split(prediction: Any, lengths: list[int]) -> list[Any]:
    if isinstance(prediction, Tensor):
        return list(torch.split(prediction, lengths))
    if isinstance(prediction, Mapping):
        parts = {key: _split(value, lengths) for key, value in prediction.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(len(lengths))]
    return [list(part) for part in zip(*(_split(value, lengths) for value in prediction), strict=True)]
