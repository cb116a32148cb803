"""Weights that a backbone starts from: those of a name, or of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ..core.errors import UsageError, unknown_name

State: TypeAlias = dict[str, Tensor]
_T = TypeVar("_T")


def read_weights(weights: str, known: Any) -> State:
    """The state dict of that name or file.

    Args:
        known: torchvision's enumeration of the weights of a model, which are downloaded.

    Raises:
        UsageError: neither such a name nor such a file; it cannot be had.
    """
    if weights in known.__members__:
        state: State = attempt(
            weights, lambda: known[weights].get_state_dict(progress=False, check_hash=True)
        )
        return state
    if is_file(weights):
        return read_file(weights)
    raise no_such_weights("weights", weights, known.__members__)


def read_file(path: str) -> State:
    """The state dict in a file; nothing but tensors is unpickled.

    Raises:
        UsageError: the file holds something else.
    """
    file = Path(path).expanduser()
    state: object = attempt(path, lambda: torch.load(file, map_location="cpu", weights_only=True))
    if not isinstance(state, dict):
        raise UsageError(f"{path}: a state dict is needed, found a {type(state).__name__}", ("weights",))
    return state


def load_weights(network: nn.Module, state: State, weights: str, classifier: tuple[str, ...]) -> None:
    """Set a network without classifier to a state dict.

    Args:
        weights: name of the state dict.
        classifier: how the names of those of its entries begin that are left out.

    Raises:
        UsageError: the rest does not fit.
    """
    body = {key: value for key, value in state.items() if not str(key).startswith(classifier)}
    attempt(weights, lambda: network.load_state_dict(body))


def attempt(weights: str, function: Callable[[], _T]) -> _T:
    """What ``function`` returns; a UsageError that names the weights where it fails."""
    try:
        return function()
    except Exception as error:  # torch, torchvision and timm raise what the download, file or layout suggests
        raise UsageError(
            f"cannot load the weights {weights!r}: {type(error).__name__}: {error}", ("weights",)
        ) from error


def is_file(weights: str) -> bool:
    """Whether weights are given as a file that is there."""
    return Path(weights).expanduser().is_file()


def no_such_weights(what: str, weights: str, names: Any) -> UsageError:
    """The error for weights that are neither among the ``names`` nor a file."""
    return UsageError(f"{unknown_name(what, weights, names)}, and there is no such file", ("weights",))
