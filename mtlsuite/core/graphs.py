"""What torch does to graphs behind the back of someone who wants K gradients of one graph."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from .errors import UsageError


def reusable_graphs() -> AbstractContextManager[Any]:
    """Graphs of compiled models made inside can be run backwards more than once."""
    config = sys.modules.get("torch._functorch.config")
    return nullcontext() if config is None else config.patch(donated_buffer=False)


def refuse_reentrant_checkpoints(loss: Tensor) -> None:
    """Raise where a part of the loss's graph is hidden in a reentrant activation checkpoint.

    ``torch.autograd.grad`` takes the parameters inside for unreachable, so they would never be trained.

    Raises:
        UsageError: saying what to do instead.
    """
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            raise UsageError(
                "the model uses torch.utils.checkpoint with use_reentrant=True, which hides its parameters "
                "from torch.autograd.grad; use_reentrant=False is needed"
            )
        waiting += [below for below, _ in node.next_functions]
