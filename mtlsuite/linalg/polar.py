"""Polar factors U V^T of matrices U S V^T, by Newton-Schulz iteration or by singular value decomposition."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
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
    compile: bool = False,
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
        compile: run ``newton_schulz`` through ``torch.compile``; the same to rounding. Compiling takes
            seconds, once a process; where it is not possible, one warning says so, and it runs as it is.

    Returns:
        (..., m, n) in the dtype of ``matrix``.

    Raises:
        UsageError: unknown method, ``steps`` below 1, ``compile`` with ``exact``, or not a matrix of a
            floating dtype.
    """
    return polar_factors([matrix], method, steps, dtype, compile)[0]


def polar_factors(
    matrices: Sequence[Tensor],
    method: Method = "newton_schulz",
    steps: int = 5,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> list[Tensor]:
    """:func:`polar_factor` of each matrix; those of equal shape up to transposition run as one batch.

    Args:
        matrices: each (..., m, n), of any mixture of shapes, dtypes and devices.
        method, steps, dtype, compile: as in :func:`polar_factor`.

    Returns:
        The factors, in the order, shapes and dtypes of ``matrices``.

    Raises:
        UsageError: as :func:`polar_factor`.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    wide = []
    for index, matrix in enumerate(matrices):
        _check(matrix, method, steps, dtype, compile)
        wide.append(matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix)
        groups[wide[-1].shape, matrix.dtype, matrix.device].append(index)
    factors = list(matrices)
    for members in groups.values():
        batch = torch.stack([wide[index] for index in members])
        found = _factors(batch.flatten(end_dim=-3), method, steps, dtype or batch.dtype, compile)
        for index, factor in zip(members, found.to(batch.dtype).view(batch.shape), strict=True):
            factors[index] = factor if factor.shape == matrices[index].shape else factor.mT
    return factors


def _factors(batch: Tensor, method: Method, steps: int, dtype: torch.dtype, compile: bool) -> Tensor:
    """Those of a batch (B, m, n), m <= n, which is overwritten."""
    with torch.autocast(batch.device.type, enabled=False):
        if method == "exact":
            return _exact(batch, dtype)
        iterate = _compiled(batch.device.type) if compile else _newton_schulz
        return iterate(_to_unit_(batch).to(dtype), steps)


def _check(matrix: Tensor, method: str, steps: int, dtype: torch.dtype | None, compile: bool) -> None:
    if method not in get_args(Method):
        raise UsageError(unknown_name("polar method", method, get_args(Method)))
    if steps < 1:
        raise UsageError(f"the polar factor takes at least 1 step, found steps={steps}")
    if compile and method != "newton_schulz":
        raise UsageError(f"compile=True is for the polar method 'newton_schulz', found {method!r}")
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise UsageError(
            "the polar factor is that of a floating (..., m, n) matrix, "
            f"found the shape {tuple(matrix.shape)} of {matrix.dtype}"
        )
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"the polar factor is computed in a floating dtype, found {dtype}")


def _to_unit_(batch: Tensor) -> Tensor:
    """Each matrix over its Frobenius norm, in place: another tensor of this size costs more than the sums.

    The largest entry goes first, since squares of small float32 entries underflow; and each row is summed
    before the rows, since millions of squares in one float32 sum lose four digits.
    """
    if batch.numel() == 0:
        return batch
    batch = _divided_(batch, torch.maximum(batch.amax(dim=(1, 2)), -batch.amin(dim=(1, 2))))
    rows = torch.linalg.vector_norm(batch, dim=-1, dtype=torch.promote_types(batch.dtype, torch.float32))
    return _divided_(batch, torch.linalg.vector_norm(rows, dim=-1))


def _divided_(batch: Tensor, lengths: Tensor) -> Tensor:
    divisors = torch.where(lengths > 0, lengths, 1).to(batch.dtype)[:, None, None]
    return batch / divisors if batch.requires_grad else batch.div_(divisors)


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


@functools.cache
def _compiled(device: str) -> Callable[[Tensor, int], Tensor]:
    """:func:`_newton_schulz` compiled for any shape on that type of device, or itself, with a warning."""
    try:
        compiled = torch.compile(_newton_schulz, dynamic=True)
        compiled(torch.zeros(2, 2, 4, device=device), 5)
    except Exception as error:  # of a compiler that lacks something: torch has no common class for these
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        warnings.warn(
            f"torch.compile does not work here on {device} ({reason}): polar factors are computed without",
            stacklevel=2,
        )
        return _newton_schulz
    return compiled


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
