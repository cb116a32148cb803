"""Losses and their graphs: what is checked of them, and gradients out of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .errors import UsageError
from .objective import Losses
from .ranges import marked

COMPILER = "torch._dynamo"  # imported where something is to be compiled


@contextmanager
def reusable_graphs() -> Iterator[None]:
    """Graphs of compiled models made inside can be run backwards more than once."""
    if COMPILER not in sys.modules:
        yield
        return
    config: Any = importlib.import_module("torch._functorch.config")
    before, config.donated_buffer = config.donated_buffer, False
    try:
        yield
    finally:
        config.donated_buffer = before


def _reused(loss: Tensor) -> AbstractContextManager[Any]:
    """Torch refuses a second backward of a compiled graph even where the first has consumed nothing."""
    if COMPILER not in sys.modules:
        return nullcontext()
    compiled = [node._forward_cls for node in _nodes(loss) if hasattr(node, "_forward_cls")]
    metadata = [cls.metadata for cls in compiled if hasattr(cls, "metadata")]
    consumed = any(getattr(each, "bw_donated_idxs", None) for each in metadata)
    return reusable_graphs() if metadata and not consumed else nullcontext()


def refuse_reentrant_checkpoints(loss: Tensor) -> None:
    """Raise where a part of the loss's graph is hidden in a reentrant activation checkpoint.

    ``torch.autograd.grad`` takes the parameters inside for unreachable, so they would never be trained.

    Raises:
        UsageError: saying what to do instead.
    """
    if any(node.name() == "CheckpointFunctionBackward" for node in _nodes(loss)):
        raise UsageError(
            "the model uses torch.utils.checkpoint with use_reentrant=True, which hides its parameters "
            "from torch.autograd.grad; use_reentrant=False is needed"
        )


def _nodes(loss: Tensor) -> Iterator[Any]:
    """The functions in a loss's graph."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [below for below, _ in node.next_functions]


def gradients(
    loss: Tensor, parameters: Sequence[Tensor], keep_graph: bool, unreached: bool = False
) -> Sequence[Tensor | None]:
    """Gradients of a scalar loss, ``None`` where it does not reach a parameter.

    Raises:
        UsageError: it reaches none of them, and ``unreached`` does not allow that.
    """
    with marked("backward"), _reused(loss) if keep_graph else nullcontext():
        found = torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)
    if not unreached and all(gradient is None for gradient in found):
        raise UsageError("a loss reaches none of the parameters that the objective lists")
    return found


def scalars(losses: Losses, first: int) -> list[Tensor]:
    """The losses that an objective gave as 0-dim tensors; the first of them is source ``first``.

    Raises:
        UsageError: they are not K scalars or a (K,) tensor.
    """
    if isinstance(losses, Tensor) and losses.dim() != 1:
        raise UsageError(
            f"losses are K scalars or a (K,) tensor, found a tensor of shape {tuple(losses.shape)}"
        )
    if not isinstance(losses, Tensor | list | tuple):
        raise UsageError(f"losses are K scalars or a (K,) tensor, found {type(losses).__name__} ({losses!r})")
    scalars = list(losses)
    for k, loss in enumerate(scalars, start=first):
        if not isinstance(loss, Tensor):
            raise UsageError(f"loss {k} is not a tensor but {type(loss).__name__} ({loss!r})")
        if loss.numel() != 1:
            raise UsageError(f"loss {k} is not a scalar but has shape {tuple(loss.shape)}")
    return [loss.reshape(()) for loss in scalars]
