"""The whole state of a torch module as plain values, also what it keeps beside its parameters and buffers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MACHINERY = frozenset(vars(nn.Module()))
State = dict[str, dict[str, Any]]


def capture(module: nn.Module) -> State:
    """What the parts of a module hold, by the name of the part: tensors, arrays, numbers, text, Adam.

    Left out are options (attributes named like a parameter of ``__init__``) and objects of another kind,
    which the module must be able to make again. Tensors are not copied.
    """
    parts = {name: dict(_held(part)) for name, part in module.named_modules()}
    return {name: held for name, held in parts.items() if held}


def restore(module: nn.Module, state: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
    """Set a module to copies of what :func:`capture` found, on its ``device``."""
    for name, held in state.items():
        part = module.get_submodule(name)
        for attribute, value in held.items():
            decoded = _decoded(value, part, device)
            if attribute in part._parameters:
                part.get_parameter(attribute).data = decoded
            else:
                setattr(part, attribute, decoded)


def _held(part: nn.Module) -> Iterator[tuple[str, Any]]:
    options = {name.strip("_") for name in inspect.signature(type(part)).parameters}
    for name, value in {**vars(part), **part._buffers, **part._parameters}.items():
        if name not in MACHINERY and name.strip("_") not in options:
            encoded = _encoded(value)
            if encoded is not NotImplemented:
                yield name, encoded


def _encoded(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        items = [_encoded(item) for item in value]
        return NotImplemented if any(item is NotImplemented for item in items) else type(value)(items)
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": "of the module"}
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, torch.optim.Adam):
        return {"adam": value.state_dict()}
    return NotImplemented


def _decoded(value: Any, part: nn.Module, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if type(value) in (list, tuple):
        return type(value)(_decoded(item, part, device) for item in value)
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "dtype":
        return getattr(torch, content)
    if kind == "device":
        return device
    if kind == "array":
        return content.cpu().numpy().copy()
    adam = torch.optim.Adam(part.parameters(recurse=False))
    adam.load_state_dict(copy.deepcopy(content))
    return adam
