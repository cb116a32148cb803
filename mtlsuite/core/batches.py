"""Objectives of minibatches: tasks, domains, augmented views, and domains x tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import UsageError, unknown_name
from .objective import Graph, GraphMode, Objective, check_graph

Criterion = Callable[[Any, Any], Tensor]
Criteria = Mapping[str, Criterion] | Sequence[Criterion]
Minibatch = tuple[Any, Any]
More = Callable[[int], Sequence[Minibatch]]


class MinibatchObjective(Objective):
    """D minibatches scored by T functions each: D T sources, minibatch by minibatch."""

    def __init__(
        self,
        model: nn.Module,
        minibatches: Sequence[Minibatch],
        scores: Sequence[Criterion],
        names: Sequence[str],
        graph: GraphMode,
        shared: Iterable[Tensor],
        specific: Sequence[Iterable[Tensor]] | None,
        more: More | None,
    ) -> None:
        if isinstance(minibatches, Mapping):
            raise UsageError("minibatches: a sequence is needed (its names go to names=...), found a mapping")
        self.model = model
        self.minibatches = list(minibatches)
        self._scores = list(scores)
        self._more = more
        check_graph(graph)
        separate = not _has_moving_batch_norm(model) if graph == "auto" else graph == "separate"
        # Not through the closures of Objective: a cycle would keep the batch alive until garbage collection.
        self._describe(shared, specific, names, [model], separate and len(self.minibatches) > 1)

    @property
    def graphs(self) -> list[Graph]:
        """One forward a minibatch, or one for all."""
        n_tasks = len(self._scores)
        if not self.separate:
            return [Graph(range(len(self.minibatches) * n_tasks), self.losses)]
        return [
            Graph(range(d * n_tasks, (d + 1) * n_tasks), partial(self._domain, d))
            for d in range(len(self.minibatches))
        ]

    def _domain(self, d: int) -> list[Tensor]:
        inputs, targets = self.minibatches[d]
        prediction = self.model(inputs)
        return [score(prediction, targets) for score in self._scores]

    def redrawn(self, draw: int) -> Objective:
        """The same sources on the minibatches ``more(draw)``."""
        if self._more is None:
            return super().redrawn(draw)
        other = copy.copy(self)
        other.minibatches = list(self._more(draw))
        found, wanted = len(other.minibatches), len(self.minibatches)
        if found != wanted:
            raise UsageError(f"more({draw}) gave {found} minibatches, the step has {wanted}")
        return other

    def source(self, k: int) -> Tensor:
        """Scalar loss of task k mod T on minibatch k div T."""
        d, t = divmod(k, len(self._scores))
        inputs, targets = self.minibatches[d]
        return self._scores[t](self.model(inputs), targets)

    def losses(self) -> list[Tensor]:
        """All losses from one forward of all minibatches."""
        if len(self.minibatches) == 1:
            return self._domain(0)
        inputs = [batch[0] for batch in self.minibatches]
        predictions = _split(self.model(_concatenate(inputs)), [_length(batch) for batch in inputs])
        return [
            score(prediction, targets)
            for prediction, (_, targets) in zip(predictions, self.minibatches, strict=True)
            for score in self._scores
        ]


class ProductObjective(MinibatchObjective):
    """D minibatches (domains) x T tasks: a grid of K = D T sources, domain by domain.

    Source ``d T + t`` is task t on minibatch d, named ``domain/task``. The specific parameters of task t
    belong to all its sources.

    Args:
        model: maps a batch of inputs to one prediction a task, as a mapping or a sequence. Its
            ``shared_parameters()`` and ``specific_parameters()`` (one list a task) are used where it has
            them; else all its parameters are shared.
        minibatches: D pairs (inputs, targets), the targets a mapping or sequence with one entry a task.
        criteria: T functions (prediction, target) -> scalar loss, as a mapping or a sequence.
        names: D names of the domains; default "0", "1", ...
        more: draw 1, 2, ... -> further minibatches of the same form, for wrappers that take several steps
            on a source; default: there are none.
        graph: ``separate``: one forward a minibatch, freed at once; ``joint``: one forward of all
            minibatches concatenated; ``auto``: ``joint`` where the model has BatchNorm in training mode (so
            that batch statistics are those of the whole batch), else ``separate``.

    Raises:
        UsageError: no minibatch, doubled names, predictions or targets without the entry of a task.
    """

    def __init__(
        self,
        model: nn.Module,
        minibatches: Sequence[Minibatch],
        criteria: Criteria,
        names: Sequence[str] | None = None,
        graph: GraphMode = "auto",
        more: More | None = None,
    ) -> None:
        tasks = _keys(criteria)
        shared, specific = _partition(model, len(tasks))
        domains = _count_names(names, len(minibatches), "minibatches")
        super().__init__(
            model,
            minibatches,
            scores=[partial(_score, key=key, criterion=criteria[key]) for key in tasks],
            names=[f"{domain}/{task}" for domain in domains for task in tasks],
            graph=graph,
            shared=shared,
            specific=None if specific is None else specific * len(minibatches),
            more=more,
        )


class TaskObjective(MinibatchObjective):
    """One batch, K tasks, one graph.

    Args:
        model: maps the inputs to K predictions, a mapping by task or a sequence.
        inputs: one batch.
        targets: one entry a task, a mapping or a sequence.
        criteria: K functions (prediction, target) -> scalar loss; the keys are the names of the sources.
        more: draw -> a list of one further batch (inputs, targets), as for :class:`ProductObjective`.
    """

    def __init__(
        self, model: nn.Module, inputs: Any, targets: Any, criteria: Criteria, more: More | None = None
    ) -> None:
        tasks = _keys(criteria)
        shared, specific = _partition(model, len(tasks))
        super().__init__(
            model,
            [(inputs, targets)],
            scores=[partial(_score, key=key, criterion=criteria[key]) for key in tasks],
            names=[str(task) for task in tasks],
            graph="joint",
            shared=shared,
            specific=specific,
            more=more,
        )


class DomainObjective(MinibatchObjective):
    """K minibatches, one a domain, scored by one criterion; all parameters are shared.

    Args:
        model: maps a batch of inputs to one prediction.
        minibatches: K pairs (inputs, targets).
        criterion: (prediction, targets) -> scalar loss.
        names: K names of the domains; default "0", "1", ...
        graph, more: as for :class:`ProductObjective`.
    """

    def __init__(
        self,
        model: nn.Module,
        minibatches: Sequence[Minibatch],
        criterion: Criterion,
        names: Sequence[str] | None = None,
        graph: GraphMode = "auto",
        more: More | None = None,
    ) -> None:
        super().__init__(
            model,
            minibatches,
            scores=[criterion],
            names=_count_names(names, len(minibatches), "minibatches"),
            graph=graph,
            shared=model.parameters(),
            specific=None,
            more=more,
        )


class ViewObjective(DomainObjective):
    """One batch under K augmentations: each augmented view is a source.

    The views are drawn once, when the objective is made, so every forward of a step sees the same ones.

    Args:
        model: maps a batch of inputs to one prediction.
        inputs: one batch, (B, ...).
        targets: its targets, the same for all views.
        views: K functions from a batch of inputs to a batch of the same length.
        criterion: (prediction, targets) -> scalar loss.
        names: K names of the views; default "0", "1", ...
        graph, more: as for :class:`ProductObjective`.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Any,
        views: Sequence[Callable[[Tensor], Tensor]],
        criterion: Criterion,
        names: Sequence[str] | None = None,
        graph: GraphMode = "auto",
        more: More | None = None,
    ) -> None:
        if not views:
            raise UsageError("views: at least one augmentation is needed, found none")
        super().__init__(model, [(view(inputs), targets) for view in views], criterion, names, graph, more)


def _score(prediction: Any, targets: Any, key: str | int, criterion: Criterion) -> Tensor:
    return criterion(_entry(prediction, key, "prediction"), _entry(targets, key, "target"))


def _entry(values: Any, key: str | int, what: str) -> Any:
    if not isinstance(values, Mapping | Sequence):
        shown = "one tensor" if isinstance(values, Tensor) else repr(values)
        raise UsageError(f"one {what} a task is needed, as a mapping or a sequence; found {shown}")
    try:
        return values[key]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        there = list(values) if isinstance(values, Mapping) else range(len(values))
        raise UsageError(unknown_name(f"task (no {what} for it)", key, map(str, there))) from None


def _keys(criteria: Criteria) -> list[Any]:
    if not isinstance(criteria, Mapping | Sequence):
        raise UsageError(f"criteria: a mapping or a sequence of functions is needed, found {criteria!r}")
    keys = list(criteria) if isinstance(criteria, Mapping) else list(range(len(criteria)))
    if not keys:
        raise UsageError("criteria: at least one task is needed, found none")
    return keys


def _count_names(names: Sequence[str] | None, count: int, what: str) -> list[str]:
    if not count:
        raise UsageError(f"{what}: at least one is needed, found none")
    if names is not None and len(names) != count:
        raise UsageError(f"{len(names)} names for {count} {what}")
    return list(names) if names is not None else [str(k) for k in range(count)]


def _partition(model: nn.Module, n_tasks: int) -> tuple[Iterable[Tensor], list[list[Tensor]] | None]:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    if not hasattr(model, "specific_parameters"):
        return model.parameters(), None
    specific = [list(group) for group in model.specific_parameters()]  # type: ignore[operator]
    if len(specific) != n_tasks:
        raise UsageError(
            f"the model has specific parameters for {len(specific)} tasks, criteria for {n_tasks}"
        )
    return model.shared_parameters(), specific  # type: ignore[operator]


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
