"""Gradient equilibrium: specific gradient parts, adjusted where they agree and weighed against each other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from ..core.errors import UsageError, unknown_name
from ..core.oracle import Oracle
from ..core.products import combinations, inner_products
from ..core.registry import register
from ..core.report import Direction
from ..core.solver import Common, Solver, Wrapper

Against = Literal["original", "adjusted"]
Matrix = NDArray[np.float64]


def equilibrate(
    rows: Tensor,
    alpha: float = 0.5,
    steps: int = 20,
    against: Against = "original",
    out: Tensor | None = None,
) -> Tensor:
    """The refined gradients g_k - w_k s_k of Zhang et al., ACM MM 2024, sections 3.1-3.3.

    With g_inv the mean of the g_k and s_k = g_k - g_inv: 1. for each i and each j != i, where
    cos(s_i, s_j) > alpha, s_i loses its component along s_j; row i is updated in place while j runs. 2. w in
    [0, 1]^K minimises the squared norm of sum_k w_k s_k by projected gradient descent from w = 1, step size
    1 / (2 * largest eigenvalue). Both happen on K x K matrices; the (K, P) rows are multiplied once.

    Args:
        rows: (K, P) gradients g_k.
        alpha: cosine above which two specific parts are adjusted.
        steps: of projected gradient descent.
        against: whether s_j is the ``original`` or the already ``adjusted`` specific gradient.
        out: (K, P) memory of the result, not that of ``rows``; default: new.

    Returns:
        (K, P) refined gradients; NaN where one of ``rows``, which are not changed, is not finite.

    Raises:
        UsageError: rows that are no matrix, or another ``against``.
    """
    if rows.dim() != 2:
        raise UsageError(f"rows must be (K, P), found the shape {tuple(rows.shape)}")
    if against not in ("original", "adjusted"):
        raise UsageError(unknown_name("against", against, ("original", "adjusted")))
    identity = np.eye(len(rows))
    center = identity - 1 / len(rows)
    out = combinations(torch.from_numpy(center), rows, out)  # the s_k: a Gramian of the rows loses digits
    gramian = inner_products(out).to("cpu", torch.float64).numpy()
    if not np.isfinite(gramian).all():
        return out.fill_(torch.nan)
    mixing = _adjust(gramian, alpha, against)
    weights = _reweigh(mixing @ gramian @ mixing.T, steps)
    refine = identity - weights[:, None] * (mixing @ center)
    return combinations(torch.from_numpy(refine), rows, out)


def _adjust(gramian: Matrix, alpha: float, against: Against) -> Matrix:
    """(K, K) coefficients of the adjusted s_i in terms of the original ones."""
    original = np.eye(len(gramian))
    adjusted: Matrix = original.copy()
    for i, own in enumerate(adjusted):
        for j, other in enumerate(original if against == "original" else adjusted):
            products = gramian @ other
            inner, square = own @ products, other @ products
            length = max(own @ gramian @ own, 0.0)
            if i != j and square > 0 and inner > alpha * math.sqrt(square * length):
                own -= inner / square * other
    return adjusted


def _reweigh(gramian: Matrix, steps: int) -> Matrix:
    """(K,) weights in [0, 1] that make the weighted sum short."""
    weights: Matrix = np.ones(len(gramian))
    largest = np.linalg.eigvalsh(gramian)[-1]
    if largest > 0:
        for _ in range(steps):
            weights = np.clip(weights - gramian @ weights / largest, 0, 1)
    return weights


@register("wrapper", "gradient_equilibrium")
class GradientEquilibrium(Wrapper):
    """Refined gradients g_k - w_k s_k, relieved of what sets the sources apart.

    Zhang et al., Domain Gradient Equilibrium, ACM MM 2024, sections 3.1-3.3: s_k = g_k - mean g; where
    cos(s_i, s_j) > alpha, s_i loses its component along s_j; then w in [0, 1]^K minimises the norm of
    sum_k w_k s_k. See :func:`equilibrate`.

    Cost: K backwards wherever the solver inside asks for a gradient, in place of its own.
    Known: Once w has converged, the mean of the refined rows IS the mean gradient, so around ``equal`` and
    with ``combined`` this is exactly ERM; it differs by sequential steps under momentum or Adam, by a
    solver inside that is not linear, and by stopping early.

    Args:
        inner: the solver that combines the refined rows.
        alpha: cosine above which two specific parts are adjusted.
        steps: of projected gradient descent on the weights w.
        against: whether parts are adjusted against the ``original`` or the already ``adjusted`` ones.
        apply: ``combined``: one optimizer step with the direction of the solver inside; ``sequential``, the
            paper's text: one optimizer step a source, in random order, each with K times its weight times
            its row, all rows taken at the same point. Sequential steps must be outermost and directly around
            a base solver (or ``gga``), whose weights alone they take: a norm limit there does not act.
    """

    needs_rows = True

    def __init__(
        self,
        inner: Solver,
        alpha: Annotated[float, Field(ge=-1, le=1)] = 0.5,
        steps: Annotated[int, Field(ge=0)] = 20,
        against: Against = "original",
        apply: Literal["combined", "sequential"] = "combined",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(inner, **common)
        self.alpha = alpha
        self.steps = steps
        self.against: Against = against
        self.sequential = apply == "sequential"
        if self.sequential:
            _check_inside(inner)

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside on the refined rows, or one direction a source."""

        def refine(rows: Tensor) -> Tensor:
            return equilibrate(rows, self.alpha, self.steps, self.against, out=oracle.rows())

        refined = oracle.mapped(refine)
        inner = self.inner.direction(refined)
        if not self.sequential:
            return inner
        if inner.weights is None:
            raise UsageError(
                "gradient_equilibrium: apply 'sequential' needs a base solver with weights, "
                f"{self.inner.name} gave none"
            )
        order = torch.randperm(len(inner.weights), generator=self.generator, device=self.generator.device)
        rows = refined.jacobian().rows
        rows.mul_(len(rows) * inner.weights.to(rows)[:, None])  # nobody else looks at the refined rows
        mean = refined.mean_gradient()
        return replace(inner, vector=mean, sequence=[rows[k] for k in order.tolist()])


def _check_inside(inner: Solver) -> None:
    """Refuse what sequential steps, which take rows at theta and the weights of what is inside, cannot do."""
    if not inner.weighted:
        raise UsageError(
            f"gradient_equilibrium: sequential steps need a solver with weights, {inner.name} has none",
            ("apply",),
        )
    while isinstance(inner, Wrapper):
        if not inner.keeps_rows:
            raise UsageError(
                "gradient_equilibrium: sequential steps take the rows at theta, and only the weights of what "
                f"is inside, so {inner.name} would do nothing there",
                ("apply",),
            )
        inner = inner.inner
