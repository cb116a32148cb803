"""Bargaining weights against closed forms, Gramians built around a known answer, and a general optimiser."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from mtlsuite.core.errors import UsageError
from mtlsuite.linalg import bargaining_weights


def known(n: int, low: float, high: float, seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """A Gramian and its exact weights: G = M / alpha / alpha^T with M 1 = 1, so G alpha = 1 / alpha.

    M has the eigenvalue 1 for the vector of ones and eigenvalues between ``low`` and ``high`` (both reached
    from n = 3 on) for the others.
    """
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(n), random.standard_normal((n, n - 1))]))
    eigenvalues = low + (high - low) * random.uniform(0, 1, n) ** 3
    eigenvalues[:3] = [1, high, low][:n]
    alpha = 10 ** random.uniform(-spread, spread, n)
    matrix = (basis * eigenvalues) @ basis.T
    return torch.from_numpy(matrix / alpha / alpha[:, None]), torch.from_numpy(alpha)


def random_gramian(n: int, seed: int) -> Tensor:
    rows = torch.randn(n, 2 * n + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows @ rows.T


def solve(gramian: Tensor) -> Tensor:
    weights = bargaining_weights(gramian)
    assert weights is not None
    return weights


def largest_error(weights: Tensor, expected: Tensor) -> float:
    return float((weights / expected - 1).abs().max())


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 100])
@pytest.mark.parametrize(
    ("low", "high", "tolerance"),
    [
        (1, 1, 1e-8),
        (0.01, 1, 1e-8),
        (0.1, 10, 1e-8),
        (1, 1e4, 1e-8),
        (1e-4, 1e4, 1e-5),
        (1e-8, 1, 1e-8),
        (1, 1e8, 1e-5),
    ],
)
def test_known_weights_are_found(n: int, low: float, high: float, tolerance: float) -> None:
    for seed in range(3):
        gramian, alpha = known(n, low, high, seed)
        assert largest_error(solve(gramian), alpha) <= tolerance


@given(
    n=st.integers(1, 30),
    decades=st.tuples(st.floats(-8, 0), st.floats(0, 8)).filter(lambda pair: pair[1] - pair[0] <= 8),
    spread=st.floats(0, 6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_known_weights_are_found_whatever_the_spectrum(
    n: int, decades: tuple[float, float], spread: float, seed: int
) -> None:
    gramian, alpha = known(n, 10 ** decades[0], 10 ** decades[1], seed, spread)
    assert largest_error(solve(gramian), alpha) <= 1e-5


@pytest.mark.parametrize("n", [2, 5, 12])
def test_agrees_with_a_general_optimiser(n: int) -> None:
    gramian = random_gramian(n, seed=n).numpy()

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.exp(logs)
        pulled = gramian @ weights
        return weights @ pulled / 2 - logs.sum(), weights * pulled - 1

    found = minimize(objective, np.zeros(n), jac=True, method="BFGS", options={"gtol": 1e-10})
    assert largest_error(solve(torch.from_numpy(gramian)), torch.from_numpy(np.exp(found.x))) < 1e-6


@pytest.mark.parametrize("cosine", [-0.9999, -0.3, 0.0, 0.8, 1.0])
@pytest.mark.parametrize("ratio", [1.0, 1e-3, 1e6])
def test_two_sources_closed_form(cosine: float, ratio: float) -> None:
    g11, g22 = 2.0, 2.0 * ratio**2
    g12 = cosine * math.sqrt(g11 * g22)
    first = 1 / math.sqrt(g11 + g12 * math.sqrt(g11 / g22))
    expected = torch.tensor([first, first * math.sqrt(g11 / g22)], dtype=torch.float64)
    gramian = torch.tensor([[g11, g12], [g12, g22]], dtype=torch.float64)
    assert largest_error(solve(gramian), expected) < 1e-10


def test_one_source_and_diagonal() -> None:
    diagonal = torch.tensor([4.0, 1e-12, 9e20, 1.0], dtype=torch.float64)
    assert torch.allclose(solve(diagonal.diag()), diagonal.rsqrt(), rtol=1e-14)
    assert torch.allclose(solve(diagonal[:1, None]), torch.tensor([0.5], dtype=torch.float64), rtol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_exact_facts(n: int) -> None:
    gramian = random_gramian(n, seed=n)
    alpha = solve(gramian)
    assert torch.allclose(gramian @ alpha * alpha, torch.ones(n, dtype=torch.float64), rtol=1e-12)
    assert float(alpha @ gramian @ alpha) == pytest.approx(n, rel=1e-12)
    scale = torch.logspace(-5, 5, n, dtype=torch.float64)
    assert largest_error(solve(scale[:, None] * gramian * scale), alpha / scale) < 1e-11
    assert largest_error(solve(1e-9 * gramian), alpha / math.sqrt(1e-9)) < 1e-11
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    assert largest_error(solve(gramian[order][:, order]), alpha[order]) < 1e-12


@pytest.mark.parametrize("spokes", [5, 50, 300])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_one_source_that_agrees_with_many_orthogonal_ones(spokes: int, share: float) -> None:
    """Here a full Newton step overshoots to negative weights."""
    gramian = torch.eye(spokes + 1, dtype=torch.float64)
    gramian[0, 1:] = gramian[1:, 0] = share / math.sqrt(spokes)
    alpha = solve(gramian)
    assert bool((alpha > 0).all())
    assert torch.allclose(gramian @ alpha * alpha, torch.ones_like(alpha), rtol=1e-12)


def test_duplicate_gradients_have_a_solution() -> None:
    for dtype in (torch.float32, torch.float64):
        rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(1), dtype=dtype)
        rows = rows[[0, 0, 1, 2, 0]]
        gramian = rows @ rows.T
        alpha = solve(gramian)
        assert alpha.dtype == dtype
        assert torch.allclose(gramian @ alpha * alpha, torch.ones(5, dtype=dtype), rtol=1e-5)
        assert torch.allclose(alpha[0], alpha[[1, 4]], rtol=1e-4)
    assert torch.allclose(solve(torch.ones(4, 4)), torch.full((4,), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [7, 1000, 300_000])
def test_opposite_gradients_have_none(dtype: torch.dtype, size: int) -> None:
    for seed in range(10):
        row = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        for factor in (1.0, 0.3, 1e3):
            rows = torch.stack([row, -factor * row])
            assert bargaining_weights(rows @ rows.T) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 10, 50])
@pytest.mark.parametrize("size", [60, 20_000])
def test_pareto_stationary_rows_have_none(dtype: torch.dtype, n: int, size: int) -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n - 1, size, generator=generator, dtype=dtype)
        weights = 10 ** (2 * torch.rand(n - 1, generator=generator, dtype=dtype) - 1)
        rows = torch.cat([rows, -(weights @ rows)[None]])
        assert bargaining_weights(rows @ rows.T) is None


def test_a_stationary_subset_is_enough_for_none() -> None:
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows[4] = -rows[1] - 2 * rows[2]
    assert bargaining_weights(rows @ rows.T) is None
    rows[4] = rows[1] - 2 * rows[2]  # rank-deficient too, but with no w >= 0 in the null space
    gramian = rows @ rows.T
    alpha = solve(gramian)
    assert torch.allclose(gramian @ alpha * alpha, torch.ones(5, dtype=torch.float64), rtol=1e-10)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_bad_entries_give_none(bad: float) -> None:
    for position in [(1, 1), (0, 2)]:
        gramian = torch.eye(3)
        gramian[position] = bad
        if bad == 0 and position == (0, 2):
            continue
        if bad == -1 and position == (0, 2):
            gramian[2, 0] = bad
        assert bargaining_weights(gramian) is None
    assert bargaining_weights(torch.zeros(3, 3)) is None


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), decades=st.integers(0, 300))
@settings(max_examples=150, deadline=None)
def test_no_matrix_whatever_raises_or_gives_nonsense(seed: int, n: int, decades: int) -> None:
    random = np.random.default_rng(seed)
    matrix = torch.from_numpy(
        random.standard_normal((n, n)) * 10 ** random.uniform(-decades, decades, (n, n))
    )
    weights = bargaining_weights(matrix)
    if weights is not None:
        symmetric = matrix / 2 + matrix.T / 2
        assert bool((weights > 0).all())
        assert torch.allclose(symmetric @ weights * weights, torch.ones(n, dtype=torch.float64), atol=1e-2)


def test_untrustworthy_in_float32_is_found_in_float64() -> None:
    gramian = torch.tensor([[1.0, -1 + 1e-6], [-1 + 1e-6, 1.0]], dtype=torch.float64)
    assert bargaining_weights(gramian.float()) is None
    assert largest_error(solve(gramian), torch.full((2,), 1e3, dtype=torch.float64)) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype_and_the_input(dtype: torch.dtype) -> None:
    gramian = torch.diag(torch.tensor([4.0, 16.0])).to(dtype).requires_grad_()
    weights = solve(gramian)
    assert weights.dtype == dtype
    assert not weights.requires_grad
    assert weights.tolist() == [0.5, 0.25]
    assert gramian.detach().diagonal().tolist() == [4.0, 16.0]


@pytest.mark.parametrize(
    "bad", [torch.ones(3), torch.ones(2, 3), torch.ones(2, 2, 2), torch.ones(0, 0), torch.eye(2).long()]
)
def test_no_square_matrix_is_a_usage_error(bad: Tensor) -> None:
    with pytest.raises(UsageError, match="Gramian"):
        bargaining_weights(bad)


def test_three_sources_take_well_under_a_millisecond() -> None:
    gramian = random_gramian(3, seed=0)
    solve(gramian)
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        solve(gramian)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 1e-3
