"""Problem: what a config says about data and sources, ready to be trained on and evaluated."""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.batches import DomainObjective, ProductObjective, TaskObjective
from ..core.errors import UsageError, unknown_name
from ..core.objective import Objective
from ..core.oracle import Oracle
from ..core.ranks import ALONE, Ranks
from ..core.registry import build
from ..core.sharded import sharded
from ..data.base import DataSet
from ..data.sampling import BatchStream, derived_seed, gather, pooled, to_device
from ..data.views import random_views
from .alike import unite_buffers
from .config import Config
from .criteria import Criterion, SumOfTasks
from .parts import ViewsConfig
from .precision import with_precision
from .shares import check_shares

Scores = dict[str, dict[str, float]]


class Problem:
    """Data set, source domains, tasks and loss sources of one run.

    Args:
        config: the resolved run.
        device: where batches go.
        ranks: who share the batches of each step and of each evaluation; this is one of them.

    Raises:
        UsageError: a task, domain or held-out domain that the data set does not have; no domain left;
            something that cannot be shared among so many ranks.
    """

    def __init__(self, config: Config, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.config = config
        self.device = device
        self.ranks = ranks
        try:
            self.dataset = _dataset(json.dumps(config.data))
        except UsageError as error:
            raise error.under("data") from None
        self.tasks = _chosen("task", "tasks", config.tasks, self.dataset.tasks)
        domains = _chosen("domain", "domains", config.domains, dict.fromkeys(self.dataset.domains))
        self.held_out = list(
            _chosen("domain", "held_out", config.held_out, dict.fromkeys(self.dataset.domains))
        )
        self.domains = [domain for domain in domains if domain not in self.held_out]
        if not self.domains:
            raise UsageError("every domain is held out, none is left to train on", ("held_out",))
        self.views = config.views or ViewsConfig()
        self._known_streams: dict[str, dict[str, BatchStream]] = {}
        if config.sources == "views" and "class" not in self.tasks:
            raise UsageError(f"views need the task 'class', found {', '.join(self.tasks)}", ("sources",))
        check_shares(self)

    @cached_property
    def criteria(self) -> dict[str, Criterion]:
        """Task -> training loss."""
        return {task: Criterion(build("metric", task, n_classes=n)) for task, n in self.tasks.items()}

    @property
    def source_names(self) -> list[str]:
        """The names of the K loss sources."""
        kind = self.config.sources
        if kind == "tasks":
            return list(self.tasks)
        if kind == "views":
            return [f"view {k}" for k in range(self.views.count)]
        if kind == "domains":
            return list(self.domains)
        return [f"{domain}/{task}" for domain in self.domains for task in self.tasks]

    @property
    def steps_per_epoch(self) -> int:
        """Steps that go once through the largest stream of training data."""
        return max(stream.steps_per_epoch for stream in self._streams("train").values())

    @property
    def smallest_batches(self) -> dict[str, int]:
        """Stream of training data -> images in its smallest batch."""
        return {name: stream.smallest for name, stream in self._streams("train").items()}

    @property
    def synchronised(self) -> bool:
        """Whether BatchNorm takes its statistics over the shares of all ranks."""
        return self.config.batch_norm == "synchronised" and self.ranks.size > 1

    def model(self) -> nn.Module:
        """The untrained model, its initialisation fixed by the run's seed."""
        torch.manual_seed(derived_seed(self.config.seed, "model"))
        model: nn.Module = build(
            "model", self.config.model, tasks=self.tasks, input_shape=self.dataset.input_shape
        )
        if self.synchronised:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return with_precision(model.to(self.device), self.config.autocast, self.config.channels_last)

    def objective(self, model: nn.Module, step: int, stream: str = "train") -> Objective:
        """The objective of a training step: its batch, that of all ranks, as K loss sources."""
        return sharded(self._share(model, step, stream), self.ranks)

    def _share(self, model: nn.Module, step: int, stream: str = "train") -> Objective:
        """The objective of this rank's share in the batch of a step."""
        batches = self._minibatches(stream, step)
        more = partial(self._minibatches, stream, step)
        kind, graph = self.config.sources, self.config.graph
        if kind == "tasks":
            inputs, targets = batches[0] or (None, None)
            return TaskObjective(model, inputs, targets, self.criteria, more)
        if kind == "domains x tasks":
            return ProductObjective(model, batches, self.criteria, self.domains, graph, more)
        return DomainObjective(model, batches, SumOfTasks(self.criteria), self.source_names, graph, more)

    def _minibatches(self, stream: str, step: int, draw: int = 0) -> list[Any]:
        """What the sources of a step share out: a batch a domain or view, or one; ``draw`` > 0: others."""
        streams = list(self._streams(f"{stream}/{draw}" if draw else stream).values())
        batches = [to_device(s.batch(step), self.device) for s in streams]
        if self.config.sources != "views":
            return batches
        if batches[0] is None:
            return [None] * self.views.count
        [(inputs, targets)] = batches
        key = (self.config.seed, stream, step, draw)
        views = random_views(self.views.count, self.views.ops, key, streams[0].positions(step))
        return [(view(inputs), targets) for view in views]

    def cosine(self, model: nn.Module) -> float | None:
        """Mean pairwise cosine of the sources' gradients on a fixed batch; None for one source."""
        if len(self.source_names) == 1:
            return None
        with self._draws_apart():
            oracle = Oracle(self.objective(model, 0, "cosine"), statistics=False)
            return float(oracle.mean_cosine())

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Scores:
        """Split -> "task/quantity" -> value: on the validation parts and on held-out domains as a whole."""
        scores: dict[int, dict[str, float]] = {}  # a split may have two names
        with _evaluating(model):
            for split in self._evaluation_splits.values():
                if id(split) not in scores:
                    scores[id(split)] = self._score(model, split)
        return {name: dict(scores[id(split)]) for name, split in self._evaluation_splits.items()}

    @torch.no_grad()
    def validation_loss(self, model: nn.Module) -> float:
        """Mean over the training domains of the criterion (tasks summed) on the domain's validation part.

        Over a part, batches of ``evaluation.batch_size`` are averaged, weighted by their images.

        Raises:
            UsageError: a domain has no validation images.
        """
        means: list[float] = []
        criterion, size = SumOfTasks(self.criteria), self.config.evaluation.batch_size
        with _evaluating(model):
            for domain, split in self._validation.items():
                if not len(split):
                    raise UsageError(f"no validation loss: the domain {domain!r} has no validation images")
                losses = [0.0] * math.ceil(len(split) / size)
                for number, inputs, targets in self._batches(split):
                    images = min(size, len(split) - number * size)
                    losses[number] = images * float(criterion(model(inputs), targets))
                # Each was measured by one rank, so that the sum is, to the last bit, that of one process.
                everyone = self.ranks.sum_(torch.tensor(losses, dtype=torch.float64, device=self.device))
                means.append(sum(everyone.tolist()) / len(split))
        return sum(means) / len(means)

    @torch.no_grad()
    def recompute_batch_norm(self, model: nn.Module, steps: int | None = None) -> None:
        """Replace the running statistics of BatchNorm by plain means over forwards as in training.

        Every forward counts alike. Layers that stay in evaluation mode when the model is trained keep theirs;
        random draws (dropout) leave the run's random state as it was.

        Args:
            model: changed in place.
            steps: the batches of the first ``steps`` training steps; default: one epoch.
        """
        layers = [m for m in model.train().modules() if isinstance(m, _BatchNorm)]
        layers = [layer for layer in layers if layer.training and layer.track_running_stats]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's word for a plain mean
        with self._draws_apart():
            for step in range((steps or self.steps_per_epoch) if layers else 0):
                for graph in self._share(model, step).graphs:
                    graph.evaluate()
        unite_buffers(model, self.ranks)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    def _draws_apart(self) -> AbstractContextManager[None]:
        """Inside, random draws do not count for the run."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    @cached_property
    def _validation(self) -> dict[str, Any]:
        return {domain: self.dataset.validation(domain) for domain in self.domains}

    @cached_property
    def _evaluation_splits(self) -> dict[str, Any]:
        validation = self._validation
        if self.config.sources in ("domains", "domains x tasks"):
            splits: dict[str, Any] = {f"val/{domain}": split for domain, split in validation.items()}
        else:
            splits = {"val": pooled(list(validation.values()))}
        if self.config.evaluation.both_splits:
            splits |= {f"in/{domain}": self.dataset.split(domain, "train") for domain in self.held_out}
            splits |= {f"out/{domain}": self.dataset.split(domain, "val") for domain in self.held_out}
            if "val" in splits:
                splits |= {f"out/{domain}": split for domain, split in validation.items()}
        return splits | {f"test/{domain}": self.dataset.test(domain) for domain in self.held_out}

    def _score(self, model: nn.Module, split: Any) -> dict[str, float]:
        averaging = self.config.evaluation.averaging
        metrics = {
            task: build("metric", task, n_classes=n, averaging=averaging).to(self.device)
            for task, n in self.tasks.items()
        }
        for metric in metrics.values():
            metric.distributed_available_fn = lambda: self.ranks.size > 1
        for _, inputs, targets in self._batches(split):
            predictions = model(inputs)
            for task, metric in metrics.items():
                metric.update(predictions[task], targets[task])
        with warnings.catch_warnings():
            if self.ranks.size > 1:  # one without a batch computes, too: torchmetrics adds up what all have
                warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            return {
                f"{task}/{quantity}": float(value)
                for task, metric in metrics.items()
                for quantity, value in metric.compute().items()
            }

    def _batches(self, split: Any) -> Iterator[tuple[int, Any, Any]]:
        """Number, inputs and targets of this rank's batches of an evaluation: b for b = rank modulo ranks."""
        size = self.config.evaluation.batch_size
        for number in range(self.ranks.rank, math.ceil(len(split) / size), self.ranks.size):
            indices = list(range(number * size, min((number + 1) * size, len(split))))
            inputs, targets = to_device(gather(split, indices), self.device)
            yield number, inputs, targets

    def _streams(self, stream: str) -> dict[str, BatchStream]:
        if stream not in self._known_streams:
            self._known_streams[stream] = self._new_streams(stream)
        return self._known_streams[stream]

    def _new_streams(self, stream: str) -> dict[str, BatchStream]:
        """One stream of batches a domain, or one of all domains; training images are augmented."""
        train, augment = self.config.train, stream != "cosine"
        splits = {domain: self.dataset.split(domain, "train") for domain in self.domains}
        if self.config.sources in ("tasks", "views"):
            splits = {"all": pooled(list(splits.values()))}
        return {
            name: BatchStream(
                split,
                train.batch_size,
                self.config.seed,
                f"{stream}/{name}",
                train.replacement,
                augment,
                self.ranks,
            )
            for name, split in splits.items()
        }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@functools.lru_cache(maxsize=4)
def _dataset(spec: str) -> DataSet:
    """A data set by its specification; the runs of a sweep share it."""
    dataset: DataSet = build("dataset", json.loads(spec))
    return dataset


def _chosen(what: str, key: str, wanted: Any, offered: dict[str, Any]) -> dict[str, Any]:
    if wanted is None:
        return dict(offered)
    for name in wanted:
        if name not in offered:
            raise UsageError(unknown_name(f"{what} of the data set", name, offered), (key,))
    return {name: offered[name] for name in wanted}
