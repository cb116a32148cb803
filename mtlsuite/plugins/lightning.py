"""Lightning: a mixin that makes a LightningModule train with any solver.

Works with both names of the package, ``lightning.pytorch`` and ``pytorch_lightning``; install one of them, or
``mtlsuite[lightning]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..core.build import build_solver
from ..core.errors import UsageError
from ..core.objective import Graph, Losses, Objective
from ..core.report import StepReport
from ..core.solver import Solver, refuse_closures

if not (find_spec("lightning") or find_spec("pytorch_lightning")):
    raise UsageError("mtlsuite.plugins.lightning needs Lightning: pip install 'mtlsuite[lightning]'")

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
else:
    LightningModule = object  # the user's class brings it, under either name of the package

CHECKPOINT_KEY = "mtlsuite_solver"
_R = TypeVar("_R")


class SolverMixin(LightningModule):
    """Trains a LightningModule with a solver: ``class Net(SolverMixin, LightningModule)``, in this order.

    The class defines :meth:`objective` and ``configure_optimizers`` (one optimizer) and says which solver by
    ``solver_spec`` or :meth:`configure_solver`. Optimization is manual, in :meth:`training_step`; schedulers
    of the learning rate are stepped as in automatic optimization; checkpoints hold the solver's state, and
    ``Trainer(precision="bf16-mixed")`` applies to the objective. A class that overrides
    ``on_train_epoch_end``, ``on_save_checkpoint`` or ``on_load_checkpoint`` calls ``super()`` there.

    Attributes:
        solver_spec: as for :func:`mtlsuite.build_solver`. Where it gives no ``seed``, the generator of the
            solver is seeded as torch is, which is what ``seed_everything`` sets.
        n_sources: K, where the solver must know it before the first batch.
        monitor: the logged metric that a ``ReduceLROnPlateau`` waits for.
    """

    solver_spec: str | Mapping[str, Any] = "equal"
    n_sources: int | None = None
    monitor: str = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def objective(self, batch: Any) -> Objective:  # noqa: ARG002
        """The K loss sources of a batch; called once a step, its losses perhaps more often."""
        raise UsageError(f"{type(self).__name__} must define objective(batch), which returns an Objective")

    def configure_solver(self) -> Solver:
        """The solver, made when training begins."""
        return build_solver(self.solver_spec, self.n_sources, seed=torch.initial_seed())

    @cached_property
    def solver(self) -> Solver:
        """What :meth:`configure_solver` gave."""
        return self.configure_solver()

    def on_fit_start(self) -> None:
        """Raise what the first step would raise, before anything is run."""
        super().on_fit_start()
        _ = self.solver
        self._optimizer()

    def training_step(self, batch: Any, batch_idx: int, *_: Any) -> Tensor:
        """One step of the solver.

        Returns:
            () mean loss of the sources, for callbacks.

        Raises:
            UsageError: what the Trainer was told cannot work with a solver.
        """
        optimizer = self._optimizer()
        objective = InContext(self.objective(batch), self.trainer.precision_plugin.forward_context)
        # Lightning's autocast is around the whole step; the solver's own arithmetic shall not be rounded.
        with torch.autocast(self.device.type, enabled=False):
            report = self.solver.step(objective, optimizer)
        self.log_report(report, objective)
        self._step_schedulers("step", batch_idx + 1, on_plateau=False)
        self._step_schedulers("step", batch_idx + 1, on_plateau=True)
        if self.trainer.is_last_batch:  # before the validation, whose checkpoints shall hold the new rates
            self._step_schedulers("epoch", self.current_epoch + 1, on_plateau=False)
        return report.losses.mean()

    def log_report(self, report: StepReport, objective: Objective) -> None:
        """Log ``loss`` (the mean), ``loss/<source>``, ``weight/<source>`` and the solver's metrics."""
        self.log("loss", report.losses.mean(), prog_bar=True)
        values: dict[str, Any] = dict(_named("loss", objective, report.losses))
        if report.weights is not None:
            values |= _named("weight", objective, report.weights)
        self.log_dict(values | report.metrics)

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that wait for a metric of the epoch."""
        super().on_train_epoch_end()
        self._step_schedulers("epoch", self.current_epoch + 1, on_plateau=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the solver's state."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] = self.solver.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the solver's state where training goes on (not where a model is loaded or tested).

        Raises:
            UsageError: the checkpoint has no solver's state, or that of another solver.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None or self.trainer.state.fn != "fit":
            return
        if CHECKPOINT_KEY not in checkpoint:
            raise UsageError(
                "this checkpoint holds no solver's state, so training cannot go on from it; to begin anew "
                "from its weights, load_state_dict(checkpoint['state_dict']) and fit without ckpt_path"
            )
        self.solver.load_state_dict(checkpoint[CHECKPOINT_KEY])

    def _optimizer(self) -> Optimizer:
        """Lightning's wrapper of the one optimizer, by which hooks fire and steps are counted."""
        optimizer: Any = self.optimizers()
        if isinstance(optimizer, list):
            raise UsageError(
                f"a solver steps one optimizer, configure_optimizers gave {len(optimizer)}; "
                "use parameter groups of one"
            )
        refuse_closures(optimizer.optimizer)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UsageError(
                "precision '16-mixed' scales one loss by a GradScaler, a solver needs the gradients of K; "
                "use 'bf16-mixed' or '32-true'"
            )
        if self.trainer.world_size > 1:
            raise UsageError(
                f"{self.trainer.world_size} processes would each take a direction of their own: gradients "
                "are taken per source, which no strategy of Lightning averages; use devices=1"
            )
        if self._compiler_ctx is not None:
            raise UsageError(
                "the LightningModule is compiled as a whole, its training step with it; "
                "compile the network inside: self.net = torch.compile(net)"
            )
        return optimizer  # type: ignore[no-any-return]

    def _step_schedulers(self, interval: str, count: int, on_plateau: bool) -> None:
        """Step those of an interval (``step`` or ``epoch``) whose frequency divides the count."""
        for config in self.trainer.lr_scheduler_configs:
            waits = isinstance(config.scheduler, ReduceLROnPlateau)
            if (config.interval, waits) == (interval, on_plateau) and count % config.frequency == 0:
                self.lr_scheduler_step(config.scheduler, self._monitored() if waits else None)

    def _monitored(self) -> Tensor:
        metrics = self.trainer.callback_metrics
        if self.monitor not in metrics:
            raise UsageError(
                f"monitor = {self.monitor!r}: ReduceLROnPlateau needs the name of a logged metric here "
                f"(Lightning drops the key 'monitor' beside a scheduler); logged: {', '.join(metrics)}"
            )
        return metrics[self.monitor]


class InContext(Objective):
    """Another objective, each forward of which runs in a context of its own.

    Args:
        whole: the other objective.
        context: makes the context, e.g. of autocast.
    """

    def __init__(self, whole: Objective, context: Callable[[], AbstractContextManager[Any]]) -> None:
        if not isinstance(whole, Objective):
            raise UsageError(f"objective(batch) must return an Objective, found {type(whole).__name__}")
        self.whole = whole
        self._context = context
        self.space, self.modules = whole.space, whole.modules
        self.n_sources, self.separate, self.absent = whole.n_sources, whole.separate, whole.absent
        self.counts, self.ranks = whole.counts, whole.ranks
        self._names = whole._names

    @property
    def graphs(self) -> list[Graph]:
        """Those of the other objective."""
        return list(map(self._graph, self.whole.graphs))

    @property
    def joint(self) -> Graph | None:
        """That of the other objective."""
        return None if self.whole.joint is None else self._graph(self.whole.joint)

    def losses(self) -> Losses:
        """All K losses, one graph."""
        return self._inside(self.whole.losses)

    def source(self, k: int) -> Tensor:
        """Scalar loss of source ``k`` alone."""
        return self._inside(self.whole.source, k)

    def redrawn(self, draw: int) -> Objective:
        """The same sources on further minibatches."""
        return InContext(self.whole.redrawn(draw), self._context)

    def _graph(self, graph: Graph) -> Graph:
        return Graph(graph.sources, partial(self._inside, graph.evaluate))

    def _inside(self, function: Callable[..., _R], *args: Any) -> _R:
        with self._context():
            return function(*args)


def _named(what: str, objective: Objective, values: Tensor) -> dict[str, Tensor]:
    return {f"{what}/{name}": value for name, value in zip(objective.names, values, strict=True)}
