"""Objectives of batches: tasks, domains, augmented views, and domains x tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .errors import UsageError
from .minibatches import Criterion, Minibatch, MinibatchObjective, More, OwnScore, Score, entry
from .objective import GraphMode

Criteria = Mapping[str, Criterion] | Sequence[Criterion]


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
            minibatches concatenated; ``auto``: ``joint`` where BatchNorm takes the statistics of the batch,
            so that they are those of the whole batch, else ``separate``, except where only losses or their
            sum are asked for, memory is ``fast`` and the inputs can be concatenated.

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
            scores=[[Score(criteria[key], key) for key in tasks]] * len(minibatches),
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
            scores=[[Score(criteria[key], key) for key in tasks]],
            names=[str(task) for task in tasks],
            graph="joint",
            shared=shared,
            specific=specific,
            more=more,
        )


class MultiInputObjective(MinibatchObjective):
    """K tasks, each with a batch of its own, scored by its criterion.

    Args:
        model: maps a batch of inputs to one prediction a task, as a mapping or a sequence; only that of the
            batch's own task is looked at.
        batches: one pair (inputs, targets) a task, a mapping by task or a sequence; None: no batch this time.
        criteria: K functions (prediction, targets) -> scalar loss; the keys are the names of the sources.
        graph: as for :class:`ProductObjective`.
        more: draw -> further batches, as for :class:`ProductObjective`, in the order of the criteria.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Mapping[Any, Minibatch | None] | Sequence[Minibatch | None],
        criteria: Criteria,
        graph: GraphMode = "auto",
        more: More | None = None,
    ) -> None:
        tasks = _keys(criteria)
        shared, specific = _partition(model, len(tasks))
        super().__init__(
            model,
            [entry(batches, task, "batch") for task in tasks],
            scores=[[OwnScore(criteria[task], task)] for task in tasks],
            names=[str(task) for task in tasks],
            graph=graph,
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
            scores=[[Score(criterion)]] * len(minibatches),
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
