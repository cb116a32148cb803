"""Gradients whose Gramians the bargaining benchmark asks for, and the exact weights to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

Array = NDArray[np.float64]
Extended = NDArray[np.longdouble]
Family = Callable[[np.random.Generator, int], Array]


@dataclass(frozen=True)
class Case:
    """K gradients.

    Attributes:
        family: what kind of gradients.
        matrix: (K, K) factor J with the Gramian J J^T of the K gradients.
        condition: of the Gramian, where it was made to measure.
        solvable: whether positive weights with G alpha = 1 / alpha exist.
    """

    family: str
    matrix: Tensor
    condition: float | None = None
    solvable: bool = True

    @property
    def k(self) -> int:
        """How many gradients."""
        return len(self.matrix)

    @property
    def gramian(self) -> Array:
        """The Gramian as the dtype of the gradients rounds it, as float64."""
        gramian: Array = (self.matrix @ self.matrix.T).double().numpy()
        return gramian


def conditioned(k: int, condition: float, seed: int) -> Case:
    """Random orthogonal eigenvectors; eigenvalues from 1 down to 1 / condition, evenly spaced in log."""
    basis = np.linalg.qr(np.random.default_rng([seed, k]).standard_normal((k, k)))[0]
    spectrum = np.logspace(0, -np.log10(condition), k)
    return Case("conditioned", torch.from_numpy(basis * np.sqrt(spectrum)), condition)


def hard(sizes: Sequence[int], seed: int) -> Iterator[Case]:
    """Every hard family at these K, and once the Gramians that have one K only."""
    for name, make in HARD.items():
        for k in sizes:
            yield Case(name, torch.from_numpy(square(make(np.random.default_rng([seed, k]), k))))
    for condition in (1e2, 1e4):
        for k in sizes:
            single = conditioned(k, condition, seed).matrix.float()
            yield Case(f"float32, condition {condition:.0e}", single, condition)
    yield Case("5 dimensions", torch.from_numpy(square(_low_rank(np.random.default_rng(seed)))))
    yield Case("network", network_gradients(seed))


def unsolvable(k: int, seed: int) -> Iterator[Case]:
    """Gradients of which a sum with weights >= 0 vanishes, exactly: no weights solve the system."""
    for name in ("opposite", "zero", "one is minus the sum"):
        integers = np.random.default_rng([seed, k]).integers(-9, 10, (k, 4 * k)).astype(float)
        if name == "opposite":
            integers[0] = -integers[1]
        elif name == "zero":
            integers[0] = 0
        else:
            integers[0] = -integers[1:].sum(axis=0)
        yield Case(name, torch.from_numpy(square(integers)), solvable=False)


def square(rows: Array) -> Array:
    """(K, P) rows -> (K, K) rows with the same inner products up to rounding."""
    k, p = rows.shape
    if p < k:
        rows = np.pad(rows, ((0, 0), (0, k - p)))
    triangle: Array = np.asarray(np.linalg.qr(rows.T, mode="r")).T
    return triangle


def _parallel(rng: np.random.Generator, k: int) -> Array:
    return _around(rng, k, np.ones(k), 1e-4)


def _opposed(rng: np.random.Generator, k: int) -> Array:
    return _around(rng, k, (-1.0) ** np.arange(k), 1e-3)


def _around(rng: np.random.Generator, k: int, signs: NDArray[Any], distance: float) -> Array:
    """Unit rows +-g plus noise of relative size ``distance``."""
    common = rng.standard_normal(4 * k)
    noise = rng.standard_normal((k, 4 * k))
    rows: Array = (signs[:, None] * common + distance * noise) / np.linalg.norm(common)
    return rows


def _spread(rng: np.random.Generator, k: int) -> Array:
    rows: Array = rng.standard_normal((k, 4 * k)) * np.logspace(-6, 6, k)[:, None]
    return rows


def _small(rng: np.random.Generator, k: int) -> Array:
    return 1e-6 * rng.standard_normal((k, 4 * k))


def _large(rng: np.random.Generator, k: int) -> Array:
    return 1e4 * rng.standard_normal((k, 4 * k))


def _low_rank(rng: np.random.Generator) -> Array:
    """Nine gradients in five dimensions, all with a positive part along the first."""
    rows = rng.standard_normal((9, 5))
    rows[:, 0] = np.abs(rows[:, 0]) + 0.5
    return rows


HARD: dict[str, Family] = {
    "nearly parallel": _parallel,
    "nearly opposite": _opposed,
    "norms 1e-6 to 1e6": _spread,
    "norms of 1e-6": _small,
    "norms of 1e4": _large,
}


def network_gradients(seed: int) -> Tensor:
    """Float32 gradients of a small MLP, one a digit class of scikit-learn's digits, halfway trained."""
    data = load_digits()
    pixels = torch.from_numpy(data.data / 16.0).float()
    labels = torch.from_numpy(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    rows = []
    for digit in range(10):
        loss = nn.functional.cross_entropy(network(pixels[labels == digit]), labels[labels == digit])
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.from_numpy(square(torch.stack(rows).double().numpy())).float()


def reference(gramian: Array, iterations: int = 2_000) -> Extended | None:
    """The weights to full double precision, by a route of its own: extended precision, other steps.

    f(a) = 1/2 a^T G a - sum log a is standard self-concordant. Newton steps of length 1 / (1 + lambda), with
    lambda the Newton decrement, therefore stay positive and converge (Nesterov and Nemirovskii, 1994), and
    the relative error of every weight is at most lambda / (1 - lambda).

    Returns:
        (K,) weights where the decrement, below 1e-9, no longer falls; None where the steps do not get there:
        no minimum, or a Gramian with no positive weights that extended precision can tell.
    """
    matrix: Extended = gramian.astype(np.longdouble)
    if not matrix.diagonal().min() > 0:
        return None
    weights: Extended = np.asarray(1 / np.sqrt(matrix.diagonal()), np.longdouble)
    before: Any = np.inf
    for _ in range(iterations):
        slope = matrix @ weights - 1 / weights
        change = _solve(matrix + np.diag(1 / weights**2), -slope)
        squared = -slope @ change
        if not 0 <= squared < np.inf:  # indefinite by rounding
            return None
        decrement = np.sqrt(squared)
        if before < 1e-9 and decrement >= before:
            return weights
        before = decrement
        weights = weights + change / (1 + decrement)
    return None


def _solve(matrix: Extended, right: Extended) -> Extended:
    """Elimination without pivots, as a positive definite matrix allows; NumPy's is float64 at most."""
    rows = np.column_stack([matrix, right])
    k = len(matrix)
    for i in range(k):
        rows[i + 1 :, i:] -= np.outer(rows[i + 1 :, i] / rows[i, i], rows[i, i:])
    solution: Extended = rows[:, k].copy()
    for i in reversed(range(k)):
        solution[i] = (solution[i] - rows[i, i + 1 : k] @ solution[i + 1 :]) / rows[i, i]
    return solution
