"""What is looked at before a step: whether its losses and gradients are finite, and if not, whose are not."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import NonFiniteError
from .oracle import Oracle


def all_finite(oracle: Oracle, vector: Tensor) -> bool:
    """Whether the losses seen in this step and a (P,) vector are finite; waits for the device once."""
    # The extremes tell of NaN, too, and cost a fraction of what isfinite() or the maximum norm cost on a CPU.
    extremes = torch.stack(torch.aminmax(vector.detach()))
    return bool(torch.cat([extremes, *(seen.losses for seen in oracle.start.seen)]).isfinite().all())


def check_losses(oracle: Oracle) -> None:
    """Raise where a loss seen in this step is not finite.

    Raises:
        NonFiniteError: naming the source.
    """
    start = oracle.start
    if not start.seen or bool(torch.cat([seen.losses for seen in start.seen]).isfinite().all()):
        return
    for first, losses, at_start in start.seen:
        for k in (~losses.isfinite()).nonzero().flatten().tolist():
            if not at_start:  # was it a gradient that led there?
                check_gradients(start)
            where = "" if at_start else ", away from theta, where a wrapper had moved it"
            raise NonFiniteError(
                f"the loss of source {oracle.names[first + k]!r} is not finite ({float(losses[k])}){where}"
            )


def check_gradients(oracle: Oracle) -> None:
    """Raise where a gradient at the oracle's point is not finite; costs K forwards and backwards.

    Raises:
        NonFiniteError: naming the source.
    """
    for k, name in enumerate(oracle.names):
        if not bool(oracle.row(k)[1].isfinite().all()):
            raise NonFiniteError(f"the gradient of source {name!r} is not finite (its loss is)")
