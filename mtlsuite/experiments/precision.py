"""How a model's forwards are computed: in which precision and which memory format."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Autocast = Literal["bfloat16"]


def with_precision(model: nn.Module, autocast: Autocast | None, channels_last: bool) -> nn.Module:
    """The model itself, its forwards computed as asked, in training and in evaluation.

    Args:
        model: changed in place; its parameters, the keys of its state and its class are as before.
        autocast: precision of its matrix products and convolutions, through ``torch.autocast``. Weights and
            their gradients keep theirs; predictions come back in float32, for losses and metrics.
        channels_last: whether its images and four-dimensional weights lie in memory channels last.
    """
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    if autocast or channels_last:
        # On the instance: hooks could not leave the context when the forward raises, a module around the
        # model would rename the keys of its state, and a function would not follow a copy of the model.
        model.forward = _Forward(model.forward, autocast, channels_last)
    return model


class _Forward:
    """A forward in that precision; copied with its model, it is the copy's."""

    def __init__(self, forward: Callable[..., Any], autocast: Autocast | None, channels_last: bool) -> None:
        # Weakly, for the model holds this: a cycle would keep it and its copies until garbage collection.
        self._forward = weakref.WeakMethod(forward) if inspect.ismethod(forward) else lambda: forward
        self.autocast, self.channels_last = autocast, channels_last

    def __reduce__(self) -> tuple[type[_Forward], tuple[Any, ...]]:
        return _Forward, (self._forward(), self.autocast, self.channels_last)

    def __call__(self, inputs: Tensor) -> Any:
        forward: Any = self._forward()
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if not self.autocast:
            return forward(inputs)
        # Entered anew each time, for its cast copies of the weights last as long, and the weights move.
        with torch.autocast(inputs.device.type, getattr(torch, self.autocast)):
            return _float32(forward(inputs))


def _float32(prediction: Any) -> Any:
    if isinstance(prediction, Mapping):
        return {key: _float32(value) for key, value in prediction.items()}
    if isinstance(prediction, list | tuple):
        return [_float32(value) for value in prediction]
    low = isinstance(prediction, Tensor) and prediction.dtype in (torch.bfloat16, torch.float16)
    return prediction.float() if low else prediction
