"""Jacobian against numpy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

import mtlsuite as mtl


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_gramian_is_over_the_shared_part(rows: torch.Tensor) -> None:
    shared = rows[:, :5].numpy()
    np.testing.assert_allclose(mtl.Jacobian(rows, 5).gramian().numpy(), shared @ shared.T)


def test_cosine_is_over_all_parameters(rows: torch.Tensor) -> None:
    r = rows.numpy()
    expected = [
        r[i] @ r[j] / np.linalg.norm(r[i]) / np.linalg.norm(r[j]) for i, j in combinations(range(4), 2)
    ]
    jacobian = mtl.Jacobian(rows, 2)
    np.testing.assert_allclose([jacobian.cosine()[i, j] for i, j in combinations(range(4), 2)], expected)
    assert float(jacobian.mean_cosine()) == pytest.approx(np.mean(expected))
    assert jacobian.cosine().diagonal().tolist() == [1.0] * 4


def test_a_zero_row_has_cosine_zero(rows: torch.Tensor) -> None:
    rows[1] = 0
    cosine = mtl.Jacobian(rows, 9).cosine()
    assert cosine[1].tolist() == [0, 1, 0, 0]
    others = mtl.Jacobian(rows[[0, 2, 3]], 9).mean_cosine()
    assert float(mtl.Jacobian(rows, 9).mean_cosine()) == pytest.approx(float(others) * 3 / 6)


@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1e12, 1e15])
def test_cosine_does_not_depend_on_the_scale(rows: torch.Tensor, scale: float) -> None:
    """float32 squares of such gradients under- or overflow when multiplied."""
    low = (rows * scale).float()
    expected = mtl.Jacobian(rows, 9).cosine().float()
    torch.testing.assert_close(mtl.Jacobian(low, 9).cosine(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", [[0.0, 0.0], [3.0, 4.0]])
def test_one_source(row: list[float]) -> None:
    assert mtl.Jacobian(torch.tensor([row]), 2).mean_cosine() == 1


def test_combine_mean_map(rows: torch.Tensor) -> None:
    jacobian = mtl.Jacobian(rows, 5)
    weights = torch.tensor([0.1, 0.2, 0.3, -0.4])
    np.testing.assert_allclose(jacobian.combine(weights).numpy(), weights.double().numpy() @ rows.numpy())
    np.testing.assert_allclose(jacobian.mean().numpy(), rows.numpy().mean(0))
    out = torch.empty(9, dtype=torch.float64)
    assert jacobian.mean(out=out) is out
    assert torch.equal(out, jacobian.mean())
    mapped = jacobian.map(lambda r: 2 * r)
    assert mapped.n_shared == 5
    assert torch.equal(mapped.shared, 2 * rows[:, :5])
