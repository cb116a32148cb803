"""Nash bargaining weights: the positive solution of G alpha = 1 / alpha."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv
from torch import Tensor

from ..core.errors import UsageError

MAX_ITERATIONS = 200
TRUSTED = 1e-2  # largest relative error of alpha that is still worth returning


def bargaining_weights(gramian: Tensor) -> Tensor | None:
    """Weights alpha > 0 with G alpha = 1 / alpha (Navon et al., ICML 2022, section 3).

    They minimise 1/2 a^T G a - sum_k log a_k over a > 0, which is strictly convex. The problem is first
    scaled to unit diagonal, so neither the scale nor the spread of the gradients' norms matters, and then
    solved by damped Newton steps in float64 on the CPU.

    Args:
        gramian: (K, K) inner products of the K gradients, any floating dtype and device; only its symmetric
            part counts.

    Returns:
        (K,) weights in the dtype and on the device of ``gramian``, or None where no solution can be told: a
        non-zero w >= 0 has G w = 0 within the rounding errors of that dtype (a zero gradient, opposite
        gradients, any Pareto-stationary point), or an entry is not finite.

    Raises:
        UsageError: ``gramian`` is not a square, non-empty matrix of a floating dtype.
    """
    check_gramian(gramian)
    matrix = gramian.detach().to("cpu", torch.float64).numpy()
    squares = matrix.diagonal()
    if not np.isfinite(matrix).all() or squares.min() <= 0:
        return None
    norms = np.sqrt(squares)
    with np.errstate(over="ignore", invalid="ignore"):  # only a matrix that is no Gramian overflows
        cosines = matrix / norms / norms[:, None]
        weights = _solve((cosines + cosines.T) / 2, torch.finfo(gramian.dtype).eps)
    if weights is None:
        return None
    return torch.from_numpy(weights / norms).to(gramian.device, gramian.dtype)


def check_gramian(gramian: Tensor) -> None:
    """Raise a UsageError unless it is a square, non-empty matrix of a floating dtype."""
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or len(gramian) == 0:
        raise UsageError(f"a Gramian is a (K, K) matrix with K >= 1, found the shape {tuple(gramian.shape)}")
    if not gramian.is_floating_point():
        raise UsageError(f"a Gramian has a floating dtype, found {gramian.dtype}")


def _solve(cosines: NDArray[np.float64], eps: float) -> NDArray[np.float64] | None:
    """The same for a matrix C with unit diagonal whose entries are known to within ``eps``.

    With M = diag(a) C diag(a), the Newton step for the relative change u (a <- a * (1 + u)) solves
    (I + M) u = 1 - M 1; near the solution the eigenvalues of I + M lie in [1, K + 1] or so, however ill
    conditioned C is. Along u the second derivative at step t is at most that at 0 over (1 - t m)^2, with
    m = max(0, -min u); minimising the bound gives t = 1 / (1 + m): every step decreases the objective and
    stays positive, and since m -> 0 convergence is quadratic in the end.

    An error eps in the entries of C moves log a by at most eps * max_i sum_j |M_ij|.
    """
    identity = np.eye(len(cosines))
    weights = 1 / np.sqrt(np.abs(cosines).sum(axis=1))
    before = np.inf
    for _ in range(MAX_ITERATIONS):
        residual = 1 - weights * (cosines @ weights)
        if not eps * weights.max() ** 2 < 100 * TRUSTED:  # they run away along a w >= 0 with C w = 0
            return None
        if before < 1e-8:  # the last step was the last that float64 can resolve
            break
        hessian = identity + cosines * weights * weights[:, None]
        _, change, indefinite = dposv(hessian.T, residual, overwrite_a=True)
        if indefinite:  # then so is C, beyond rounding
            return None
        decrement = math.sqrt(residual @ change)
        if before < 0.25 and decrement >= before:  # rounding stops the quadratic convergence
            break
        before = decrement
        weights = weights * (1 + change / (1 + max(0.0, -change.min())))
    uncertainty = eps * (weights * (np.abs(cosines) @ weights)).max()
    return weights if max(uncertainty, np.abs(residual).max()) <= TRUSTED else None
