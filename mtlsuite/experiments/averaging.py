"""Weight averaging: beside the weights that are trained, a mean of the weights that training went through.

Parameters are averaged; buffers are those of the last weights averaged (the statistics of BatchNorm may be
recomputed afterwards, see :meth:`~.problem.Problem.recompute_batch_norm`). Training is not touched.
"""

from __future__ import annotations

import abc
import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.errors import UsageError
from .loss_valley import LossValley
from .parts import AveragingConfig, EmaConfig, SwaConfig, SwadConfig

Loss = Callable[[nn.Module], float]


class Averaging(abc.ABC):
    """An average of the weights of ``model``, followed through its training.

    Args:
        model: the model that is trained.

    Raises:
        UsageError: its weights are in a precision too low for means of many.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, tensor in model.named_parameters():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise UsageError(
                    f"weights are averaged in float32 or float64; the parameter {name!r} is {tensor.dtype}"
                )
        self._trained = model

    @abc.abstractmethod
    def update(self, step: int) -> None:
        """Take in the weights as they are after ``step`` steps, counted from 1."""

    @abc.abstractmethod
    def evaluate(self, loss: Loss) -> dict[str, Any] | None:
        """Called at each evaluation: what to record of the average; None while there is none.

        Args:
            loss: validation loss of a model, which is the callee's to change.
        """

    @abc.abstractmethod
    def model(self) -> nn.Module | None:
        """The averaged model, a copy that is the caller's; None while there is none."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything, for an exact resume from right after an evaluation."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""


class RunningAverage(Averaging):
    """EMA or SWA: the weights after the steps ``after + every``, ``after + 2 every``, ... are averaged.

    The plain mean of SWA: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", UAI 2018. The exponential one starts as the first of these weights, then goes
    w <- decay w + (1 - decay) w_step.

    Args:
        model: the model that is trained.
        after: steps before the first weights may count.
        every: steps from one to the next.
        decay: of the exponential moving average; None for the plain mean.
    """

    def __init__(self, model: nn.Module, after: int = 0, every: int = 1, decay: float | None = None) -> None:
        super().__init__(model)
        mean = None if decay is None else get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(model, multi_avg_fn=mean)
        self._after, self._every = after, every

    def update(self, step: int) -> None:
        if step > self._after and (step - self._after) % self._every == 0:
            self._average.update_parameters(self._trained)

    def evaluate(self, loss: Loss) -> dict[str, Any] | None:  # noqa: ARG002
        count = int(self._average.n_averaged)
        return {"weights": count} if count else None

    def model(self) -> nn.Module | None:
        return copy.deepcopy(self._average.module) if self._average.n_averaged else None

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)


class Swad(Averaging):
    """SWAD: the weights after every step between two evaluations make a segment, the valley picks segments.

    Args:
        model: the model that is trained.
        valley: decides by the validation loss of each segment's mean.
    """

    def __init__(self, model: nn.Module, valley: LossValley) -> None:
        super().__init__(model)
        self._segment = AveragedModel(model)
        self._valley = valley

    def update(self, step: int) -> None:  # noqa: ARG002
        if not self._valley.closed:
            self._segment.update_parameters(self._trained)

    def evaluate(self, loss: Loss) -> dict[str, Any] | None:
        valley, measured = self._valley, None
        if steps := int(self._segment.n_averaged):
            mean = self._segment.module
            measured = loss(copy.deepcopy(mean))
            valley.add(measured, steps, dict(mean.named_parameters()), dict(mean.named_buffers()))
            self._segment.n_averaged.zero_()
        if not valley.segments:
            return None
        return {
            "validation_loss": measured,
            "threshold": valley.threshold,
            "converged": valley.converged,
            "closed": valley.closed,
            "first_segment": valley.first or valley.segments,
            "last_segment": valley.last or valley.segments,
            "weights": valley.steps,
        }

    def model(self) -> nn.Module | None:
        average = self._valley.average()
        if average is None:
            return None
        model = copy.deepcopy(self._segment.module)
        weights, buffers = average
        with torch.no_grad():
            for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
                tensor.copy_(weights[name] if name in weights else buffers[name])
        return model

    def state_dict(self) -> dict[str, Any]:
        return self._valley.state_dict()  # right after an evaluation the next segment is empty

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._valley.load_state_dict(state)


def make_averaging(config: AveragingConfig, model: nn.Module, steps: int) -> Averaging:
    """The averaging that a config asks for.

    Args:
        config: the section ``averaging``.
        model: the model that is trained.
        steps: length of the training.

    Raises:
        UsageError: the weights of no step would be averaged, or as :class:`Averaging`.
    """
    if isinstance(config, SwadConfig):
        return Swad(model, LossValley(config.n_converge, config.n_tolerance, config.tolerance_ratio))
    assert isinstance(config, EmaConfig | SwaConfig)
    after = int(round(config.start * steps, 6))  # 0.29 of 100 steps is 29, not 28.999...
    if after + config.every > steps:
        raise UsageError(
            f"found {config.every}; allowed: at most {steps - after}, the steps that start: {config.start} "
            f"leaves of {steps}",
            ("every",),
        )
    decay = config.decay if isinstance(config, EmaConfig) else None
    return RunningAverage(model, after, config.every, decay)
