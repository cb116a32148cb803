"""Ways to get Nash bargaining weights from K gradients: ours, TorchJD's, and cvxpy asked in two ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
import torch
from bargaining_cases import Array
from torch import Tensor
from torchjd.aggregation import NashMTL

from mtlsuite.linalg import bargaining_weights

cp: Any = cvxpy  # its types do not know what it computes
OUTER = 20  # convex programs in a row at most, as in the published code
OURS, TORCHJD, SEQUENCE = "ours", "TorchJD", "sequence, ECOS"
Way = Callable[[Tensor], Array | None]


def ours(matrix: Tensor) -> Array | None:
    """``bargaining_weights`` of the Gramian."""
    weights = bargaining_weights(matrix @ matrix.T)
    return None if weights is None else weights.double().numpy()


class TorchJD:
    """The weighting of TorchJD's ``NashMTL``, without its limit of the norm.

    It is the published code: up to 20 convex programs in a row, solved by ECOS. Numbers computed from cvxpy's
    parameters stand inside the problem, so cvxpy compiles it anew for every one of them.

    Args:
        k: number of gradients.
        warm: start each call from the weights of the last one, as in training; else from ones.
    """

    def __init__(self, k: int, warm: bool = False) -> None:
        self.weighting = NashMTL(n_tasks=k, max_norm=0.0, optim_niter=OUTER).weighting
        self.warm = warm

    def __call__(self, matrix: Tensor) -> Array | None:
        if not self.warm:
            self.weighting.prvs_alpha = np.ones(len(matrix), dtype=np.float32)
        weights: Array = self.weighting(matrix).double().numpy()
        return weights


class Sequence:
    """The paper's sequence of convex programs (Navon et al., ICML 2022, section 3.2), compiled once.

    With phi_i(a) = log a_i + log (G a)_i it minimises sum_i (G a)_i + the linearisation of sum_i phi_i around
    the last a, subject to phi_i(a) >= 0, until G a = 1 / a within 1e-3 or a stands still. G is first divided
    by its norm. What the linearisation needs is handed over as one parameter, so cvxpy compiles the problem
    at its first solution only. Where ECOS fails the last weights stay, as in the published code.
    """

    def __init__(self, k: int) -> None:
        self.weights = cp.Variable(k, nonneg=True)
        self.gramian = cp.Parameter((k, k))
        self.slope = cp.Parameter(k)
        products = self.gramian @ self.weights
        objective = cp.sum(products) + self.slope @ self.weights
        bargains = cp.log(self.weights) + cp.log(products) >= 0
        self.problem = cp.Problem(cp.Minimize(objective), [bargains])

    def __call__(self, matrix: Tensor) -> Array | None:
        gramian = (matrix @ matrix.T).double().numpy()
        norm = np.linalg.norm(gramian)
        gramian = gramian / norm
        self.gramian.value = gramian
        weights: Array = np.ones(len(gramian))
        for _ in range(OUTER):
            self.slope.value = 1 / weights + gramian @ (1 / (gramian @ weights))
            try:
                self.problem.solve(solver=cp.ECOS, max_iters=100)
            except cp.SolverError:
                break
            if self.weights.value is None:
                break
            before, weights = weights, self.weights.value
            stands = np.linalg.norm(weights - before) < 1e-6
            if stands or np.linalg.norm(gramian @ weights - 1 / weights) < 1e-3:
                break
        scaled: Array = weights / np.sqrt(norm)
        return scaled


class Direct:
    """The convex problem itself, min 1/2 a^T G a - sum log a, compiled once; one solution a call.

    The gradients are first divided by the root mean square of their norms.
    """

    def __init__(self, k: int, solver: str) -> None:
        self.solver = solver
        self.weights = cp.Variable(k)
        self.transposed = cp.Parameter((k, k))
        square = cp.sum_squares(self.transposed @ self.weights) / 2
        self.problem = cp.Problem(cp.Minimize(square - cp.sum(cp.log(self.weights))))

    def __call__(self, matrix: Tensor) -> Array | None:
        columns = matrix.T.double().numpy()
        scale = np.sqrt(np.square(columns).sum() / len(matrix))
        self.transposed.value = columns / scale
        self.problem.solve(solver=self.solver)
        weights: Array | None = self.weights.value
        return None if weights is None else weights / scale


def ways(k: int) -> dict[str, Way]:
    """Every way for K gradients, with the solvers that cvxpy finds installed; ours is the first."""
    installed = [solver for solver in ("ECOS", "CLARABEL", "SCS") if solver in cp.installed_solvers()]
    return {
        OURS: ours,
        TORCHJD: TorchJD(k),
        f"{TORCHJD}, warm": TorchJD(k, warm=True),
        SEQUENCE: Sequence(k),
        **{f"direct, {solver}": Direct(k, solver) for solver in installed},
    }


def answer(way: Way, matrix: Tensor) -> Array | str | None:
    """What the way says: weights, None where it says that there are none, or the name of its exception."""
    try:
        with torch.no_grad():
            return way(matrix)
    except (cp.SolverError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return type(error).__name__
