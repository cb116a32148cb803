"""The attributes of a solver on their way into a checkpoint and back."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from .errors import UsageError


def saved(owner: Any, name: str) -> Any:
    """A copy of an attribute in a form that torch loads with ``weights_only=True``.

    Raises:
        UsageError: it is no tensor, number, text, list or dict of these, and has no ``state_dict`` of these.
    """
    value = getattr(owner, name)
    if isinstance(value, Tensor):
        return value.detach().clone()
    state = value.state_dict() if hasattr(value, "state_dict") else value
    if not _is_plain(state):
        raise UsageError(
            f"{owner.name}: the state {name!r} must be a tensor, a number, a text, a list or dict of these, "
            f"or have a state_dict() of these; found {type(value).__name__}"
        )
    return copy.deepcopy(state)


def restore(owner: Any, name: str, state: Any) -> None:
    """Set an attribute to what :func:`saved` gave; tensors of the same shape are filled in place."""
    current = getattr(owner, name)
    if hasattr(current, "load_state_dict"):
        current.load_state_dict(copy.deepcopy(state))
    elif isinstance(current, Tensor) and isinstance(state, Tensor) and current.shape == state.shape:
        current.data.copy_(state)
    else:
        setattr(owner, name, copy.deepcopy(state))


def _is_plain(value: Any) -> bool:
    """Whether torch loads it back with ``weights_only=True``."""
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str)
