"""Nash bargaining weights where the Gramian is, without a word to the host."""

from __future__ import annotations

import torch
from torch import Tensor

from .nash import TRUSTED, check_gramian

ITERATIONS = 30  # always all of them; 21 were enough for K = 100 and a condition number of 1e12


def bargaining_weights_on_device(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`bargaining_weights` by the same Newton steps, as tensor operations that never wait for a GPU.

    Args:
        gramian: (K, K) inner products of the K gradients, any floating dtype and device.

    Returns:
        (K,) weights in the dtype of ``gramian``, and a boolean scalar: whether they are a solution. If not,
        their values mean nothing.

    Raises:
        UsageError: as :func:`bargaining_weights`.
    """
    check_gramian(gramian)
    matrix = gramian.detach().double()
    squares = matrix.diagonal()
    usable = matrix.isfinite().all() & (squares > 0).all()
    norms = torch.where(usable, squares, 1).sqrt()
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    cosines = torch.where(usable, matrix / norms / norms[:, None], identity)
    weights, solved = _newton((cosines + cosines.T) / 2, identity, torch.finfo(gramian.dtype).eps)
    return (weights / norms).to(gramian.dtype), usable & solved


def _newton(cosines: Tensor, identity: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``nash._solve``; what has converged, or failed, stays as it is while the loop goes on."""
    weights = cosines.abs().sum(dim=1).rsqrt()
    before = torch.full_like(weights[0], torch.inf)
    open_, failed = torch.ones_like(before, dtype=torch.bool), torch.zeros_like(before, dtype=torch.bool)
    for _ in range(ITERATIONS):
        scaled = cosines * weights * weights[:, None]
        residual = 1 - scaled.sum(dim=1)
        change, info = torch.linalg.solve_ex(identity + scaled, residual)
        decrement = residual @ change
        runaway = ~(eps * scaled.abs().sum(dim=1).max() < 100 * TRUSTED)
        failed = failed | (open_ & (runaway | (info != 0) | (decrement < 0)))
        decrement = decrement.clamp_min(0).sqrt()
        done = (before < 1e-8) | ((before < 0.25) & (decrement >= before))
        open_ = open_ & ~failed & ~done
        weights = torch.where(open_, weights * (1 + change / (1 + (-change.min()).clamp_min(0))), weights)
        before = torch.where(open_, decrement, before)
    scaled = cosines * weights * weights[:, None]
    uncertainty = eps * scaled.abs().sum(dim=1).max()
    error = torch.maximum(uncertainty, (1 - scaled.sum(dim=1)).abs().max())
    return weights, ~failed & (error <= TRUSTED)
