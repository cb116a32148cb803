"""Nash bargaining weights as the published code of Nash-MTL finds them: by a sequence of convex programs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

cp: Any = importlib.import_module("cvxpy")  # untyped in parts
Array = NDArray[np.float64]


class Bargaining:
    """Weights a > 0 with G a = 1 / a, after Navon et al., 2022, appendix C, starting from the last ones.

    With phi_i(a) = log a_i + log (G a)_i >= 0 as constraints, sum_i (G a)_i + the linearisation of
    sum_i phi_i is minimised again and again, each program by ECOS. The Gramian is first divided by its
    Frobenius norm.

    Args:
        n_sources: K.
        n_programs: convex programs a call at most.
    """

    def __init__(self, n_sources: int, n_programs: int = 20) -> None:
        ones = np.ones(n_sources)
        self.last: Array = ones
        self.n_programs = n_programs
        self.weights = cp.Variable(n_sources, nonneg=True)
        self.before = cp.Parameter(n_sources, value=ones)
        self.gramian = cp.Parameter((n_sources, n_sources), value=np.eye(n_sources))
        self.norm = cp.Parameter(1, value=np.ones(1))
        slopes = 1 / self.before + (1 / (self.gramian @ self.before)) @ self.gramian
        products = self.gramian @ self.weights
        target = cp.sum(products) + slopes @ (self.weights - self.before) / self.norm
        constraints = [
            -cp.log(weight * self.norm) - cp.log(product) <= 0
            for weight, product in zip(self.weights, products, strict=True)
        ]
        self.program = cp.Problem(cp.Minimize(target), constraints)

    def __call__(self, gramian: Array) -> Array:
        """(K,) weights for a (K, K) Gramian; where a program fails, those before it."""
        norm = float(np.linalg.norm(gramian))
        self.gramian.value, self.norm.value = gramian / norm, np.array([norm])
        alpha = self.last
        for _ in range(self.n_programs):
            self.weights.value = self.before.value = alpha
            try:
                self.program.solve(solver=cp.ECOS, warm_start=True, max_iters=100)
            except (cp.SolverError, ValueError):
                self.weights.value = alpha
            found = self.weights.value
            if found is None or self._settled(gramian / norm, found, alpha):
                break
            alpha = found
        self.last = alpha
        return alpha

    def _settled(self, gramian: Array, found: Array, alpha: Array) -> bool:
        solved = np.linalg.norm(gramian @ alpha - 1 / (alpha + 1e-10)) < 1e-3
        return bool(solved or np.linalg.norm(found - alpha) < 1e-6)
