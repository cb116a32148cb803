"""LibMTL's trainer with a solver in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.build import build_solver
from ..core.errors import UsageError
from ..core.report import StepReport
from ..core.solver import Solver
from ._libmtl_compat import library
from ._libmtl_objective import (
    REP_GRAD,
    GivenObjective,
    Spec,
    Weights,
    as_array,
    described,
    owned,
    partition,
    refuse_weight_args,
)

_AbsWeighting: Any = library.weighting.AbsWeighting
_LibMTLTrainer: Any = library.Trainer
_BY_NAME = hasattr(library.Trainer, "train_singlelevel")  # the git version


class Trainer(_LibMTLTrainer):  # type: ignore[misc]
    """LibMTL's trainer with any solver of the suite, on any device.

    LibMTL's own loop runs, with its meters, printed tables, schedulers and validation. In place of the
    weighting, the solver gets the batch as an objective, so it may look at other parameters and at the
    losses after the step. Re-evaluations leave LibMTL's meters and BatchNorm statistics alone. Without
    ``solver`` this is LibMTL's trainer on the device of your choice.

    Args:
        task_dict, weighting, architecture, ...: those of LibMTL's Trainer, in its order. ``weighting`` is
            not asked where a solver is given and may be left out; so may ``weight_args`` and ``arch_args``.
        solver: a spec as for :func:`mtlsuite.build_solver`, or a solver.
        device: where model and batches go; default: LibMTL's ``cuda:0``, or the CPU where there is no GPU.

    Attributes:
        solver: the solver, or None; its ``state_dict()`` is for checkpoints.
        report: of the last step, with losses, weights and metrics; None before the first.

    Raises:
        UsageError: neither weighting nor solver, a wrong spec, ``rep_grad=True`` or ``weight_args`` beside a
            solver, a device that is not there.
    """

    model: Any
    optimizer: Any

    def __init__(
        self,
        task_dict: Mapping[str, Any],
        weighting: Any = None,
        *args: Any,
        solver: Spec | Solver | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = {"weight_args": {}, "arch_args": {}, **kwargs}
        if weighting is None:
            if solver is None:
                raise UsageError("a weighting or a solver is needed: Trainer(..., solver='nash_mtl')")
            refuse_weight_args(kwargs["weight_args"])
            weighting = _Unasked.__name__ if _BY_NAME else _Unasked
        elif solver is not None:
            warnings.warn(f"a solver is given, so the weighting {weighting!r} is not asked", stacklevel=2)
        self._chosen_device = _device(device)
        self.report: StepReport | None = None
        self.solver: Solver | None = None
        self._batches: list[tuple[Any, Any]] | None = None
        self._losses: dict[str, Tensor] = {}
        self._statistics: dict[Tensor, Tensor] | None = None  # from before the forward pass
        self._private: list[int] | None = None  # whose owners are known
        self._owned: list[list[Tensor]] = []
        super().__init__(task_dict, weighting, *args, **kwargs)
        if solver is not None:
            self.solver = self._made(solver)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """LibMTL's training, see there."""
        if self.solver is None:
            return super().train(*args, **kwargs)
        with self._solving():
            return super().train(*args, **kwargs)

    def _made(self, solver: Spec | Solver) -> Solver:
        if self.rep_grad:
            raise UsageError(REP_GRAD)
        made = solver if isinstance(solver, Solver) else build_solver(solver, n_sources=self.task_num)
        if made.n_sources not in (None, self.task_num):
            raise UsageError(
                f"{described(made)} is for {made.n_sources} sources, there are {self.task_num} tasks: "
                f"{', '.join(self.task_name)}"
            )
        return made

    def _prepare_model(self, *args: Any, **kwargs: Any) -> None:
        self.device = self._chosen_device  # LibMTL has just written cuda:0 there
        super()._prepare_model(*args, **kwargs)

    @contextmanager
    def _solving(self) -> Iterator[None]:
        """Inside, what LibMTL's loop calls ``model.backward`` is the whole step, and it steps no more."""
        model, optimizer = self.model, self.optimizer
        own: dict[str, Any] = {"backward": self._step}
        if hasattr(model, "_entropy_reg_loss"):
            # DSelect-k runs a backward pass in its forward. LibMTL's loop wipes that gradient out unused, and
            # a forward without a graph cannot do it.
            own["_entropy_reg_loss"] = _nothing
        self._batches, self.optimizer = [], _Stepped(optimizer)
        model.__dict__.update(own)
        try:
            yield
        finally:
            for name in own:
                del model.__dict__[name]
            self._batches, self._losses, self._statistics, self.optimizer = None, {}, None, optimizer

    def _process_data(self, loader: Any) -> tuple[Any, Any]:
        batch: tuple[Any, Any] = super()._process_data(loader)
        if self._batches is not None and self.model.training:
            if not self._batches and self.solver is not None and self.solver.on_nonfinite == "skip":
                self._statistics = {buffer: buffer.clone() for buffer in self.model.buffers()}
            self._batches.append(batch)
        return batch

    def _compute_loss(self, preds: Any, gts: Any, task_name: str | None = None) -> Tensor:
        if self._batches is None or not self.model.training:
            return super()._compute_loss(preds, gts, task_name)  # type: ignore[no-any-return]
        # LibMTL joins the losses in one tensor, through which each backward visits all of their graphs; so
        # they are kept apart, too.
        if task_name is None:
            return torch.stack([self._compute_loss(preds[t], gts[t], t) for t in self.task_name])
        loss: Tensor = self.meter.losses[task_name]._update_loss(preds, gts)
        self._losses[task_name] = loss
        return loss

    def _step(self, losses: Tensor, **_weight_args: Any) -> Weights | None:
        """One step of the solver from the losses that LibMTL has computed."""
        assert self.solver is not None
        shared, private = partition(self.model)
        given = [self._losses.pop(task) for task in self.task_name]
        if self._private != [id(p) for p in private]:
            self._private, self._owned = [id(p) for p in private], owned(private, given)
        objective = GivenObjective(
            given,
            shared,
            self._owned,
            self.task_name,
            [self.model],
            self._again,
            separate=self.multi_input,
            statistics=self._statistics,
        )
        del given, losses
        self.report = self.solver.step(objective, self.optimizer.real)
        self._batches = []
        return as_array(self.report.weights)

    def _again(self, sources: Sequence[int]) -> list[Tensor]:
        assert self._batches is not None
        if self.multi_input:
            return [self._own_loss(self.task_name[k], *self._batches[k]) for k in sources]
        [(inputs, labels)] = self._batches
        predictions = self.process_preds(self.model(inputs))
        tasks = [self.task_name[k] for k in sources]
        return [self._measured(task, predictions[task], labels[task]) for task in tasks]

    def _own_loss(self, task: str, inputs: Any, labels: Any) -> Tensor:
        return self._measured(task, self.process_preds(self.model(inputs, task)[task], task), labels)

    def _measured(self, task: str, prediction: Any, labels: Any) -> Tensor:
        loss: Tensor = self.meter.losses[task].compute_loss(prediction, labels)  # recorded by no meter
        return loss


class _Unasked(_AbsWeighting):  # type: ignore[misc]
    """Stands where LibMTL wants a weighting while a solver decides."""

    backward = None


setattr(library.weighting, _Unasked.__name__, _Unasked)


class _Stepped:
    """The optimizer as LibMTL's loop sees it: the solver has done the step already."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.real = optimizer

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        pass

    def step(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _nothing(*args: Any) -> None:
    pass


def _device(wanted: str | torch.device | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError):
        raise UsageError(f"device: found {wanted!r}; allowed: cpu, cuda:0, ...") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device: found {wanted!r}, but this machine has no GPU that PyTorch can use")
    return device
