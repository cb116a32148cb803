"""Polar factors U V^T of matrices U S V^T, by Newton-Schulz iteration or by singular value decomposition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..core.errors import UsageError, unknown_name

Method = Literal["newton_schulz", "exact"]

# Quintic sigma -> a sigma + b sigma^3 + c sigma^5 with the steepest slope at 0 that keeps (0, 1] within
# about [0.7, 1.2] (K. Jordan et al., "Muon", 2024; the constants of torch.optim.Muon too).
QUINTIC = (3.4445, -4.7750, 2.0315)


def polar_factor(
    matrix: Tensor,
    method: Method = "newton_schulz",
    steps: int = 5,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The polar factor U V^T of a matrix U S V^T, exact or approximate.

    ``newton_schulz`` divides by the Frobenius norm and applies ``steps`` quintic steps
    X <- a X + b (X X^T) X + c (X X^T)^2 X. It does not converge: after five steps the singular values lie in
    [0.68, 1.20], save those that were below about 0.0015 of the Frobenius norm, which stay smaller; a single
    row or column has the norm 0.6964. ``exact`` drops the singular values that are zero to rounding, so that
    a rank-deficient matrix has one well-defined result (the partial isometry onto its range). A zero matrix
    gives zeros either way.

    Args:
        matrix: (..., m, n), one matrix or a batch of them.
        method: ``newton_schulz`` or ``exact``.
        steps: number of quintic steps, at least 1.
        dtype: dtype to compute in; None: that of the matrix. ``exact`` needs float32 at least and takes it.

    Returns:
        (..., m, n) in the dtype of ``matrix``.

    Raises:
        UsageError: unknown method, ``steps`` below 1, or not a matrix of a floating dtype.
    """
    _check(matrix, method, steps, dtype)
    tall = matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if tall else matrix
    batch = wide.flatten(end_dim=-3) if wide.ndim > 2 else wide[None]
    with torch.autocast(matrix.device.type, enabled=False):
        if method == "exact":
            factor = _exact(batch, dtype or matrix.dtype)
        else:
            factor = _newton_schulz(_unit(batch).to(dtype or matrix.dtype), steps)
    factor = factor.to(matrix.dtype).reshape(wide.shape)
    return factor.mT if tall else factor


def polar_factors(
    matrices: Sequence[Tensor],
    method: Method = "newton_schulz",
    steps: int = 5,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """:func:`polar_factor` of each matrix; those of equal shape up to transposition run as one batch.

    Args:
        matrices: each (..., m, n), of any mixture of shapes, dtypes and devices.
        method, steps, dtype: as in :func:`polar_factor`.

    Returns:
        The factors, in the order, shapes and dtypes of ``matrices``.

    Raises:
        UsageError: as :func:`polar_factor`.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    wide = []
    for index, matrix in enumerate(matrices):
        _check(matrix, method, steps, dtype)
        wide.append(matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix)
        groups[wide[-1].shape, matrix.dtype, matrix.device].append(index)
    factors = list(matrices)
    for members in groups.values():
        batch = polar_factor(torch.stack([wide[index] for index in members]), method, steps, dtype)
        for index, factor in zip(members, batch, strict=True):
            factors[index] = factor if factor.shape == matrices[index].shape else factor.mT
    return factors


def _check(matrix: Tensor, method: str, steps: int, dtype: torch.dtype | None) -> None:
    if method not in get_args(Method):
        raise UsageError(unknown_name("polar method", method, get_args(Method)))
    if steps < 1:
        raise UsageError(f"the polar factor takes at least 1 step, found steps={steps}")
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise UsageError(
            "the polar factor is that of a floating (..., m, n) matrix, "
            f"found the shape {tuple(matrix.shape)} of {matrix.dtype}"
        )
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"the polar factor is computed in a floating dtype, found {dtype}")


def _unit(batch: Tensor) -> Tensor:
    """Each matrix over its Frobenius norm (summed in float64: squares of small float32 entries underflow)."""
    norm = torch.linalg.vector_norm(batch, dim=(-2, -1), keepdim=True, dtype=torch.float64)
    return batch / torch.where(norm > 0, norm, 1).to(batch.dtype)


def _exact(batch: Tensor, dtype: torch.dtype) -> Tensor:
    dtype = torch.promote_types(dtype, torch.float32)
    left, values, right = torch.linalg.svd(batch.to(dtype), full_matrices=False)
    floor = values[:, :1] * max(batch.shape[-2:]) * torch.finfo(dtype).eps
    factor: Tensor = (left * (values > floor).to(dtype)[:, None, :]) @ right
    return factor


def _newton_schulz(wide: Tensor, steps: int) -> Tensor:
    """``steps`` quintic steps on a batch (B, m, n), m <= n, of unit Frobenius norm.

    A step on the matrix costs 4 m^2 n + 2 m^3 flops. The same map on the Gram side, Q <- M Q, A <- M A M
    with M = a I + b A + c A^2, costs 4 m^2 n + (8 steps - 6) m^3 for all steps together: less as soon as
    n > 1.5 m, for any number of steps.
    """
    rows, columns = wide.shape[-2:]
    if columns > 1.5 * rows and _gram_side_is_stable(wide, steps):
        return _gram_side(wide, steps)
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide


def _gram_side(wide: Tensor, steps: int) -> Tensor:
    a, b, c = QUINTIC
    gram = wide @ wide.mT
    product: Tensor | None = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ wide


def _gram_side_is_stable(wide: Tensor, steps: int) -> bool:
    """Whether the rounding of A = X X^T stays harmless.

    Rounding can make a vanishing eigenvalue of A negative, about -eps; each step but the last multiplies it
    by a^2, and a large negative one diverges, which a squared singular value cannot.
    """
    eps = torch.finfo(wide.dtype).eps
    if wide.is_cuda and wide.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        eps = 2.0**-10  # TF32 products
    return bool(eps * QUINTIC[0] ** (2 * (steps - 1)) < 1e-2)
