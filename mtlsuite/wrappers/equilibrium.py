"""Gradient equilibrium: specific gradient parts, adjusted where they agree and weighed against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
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
        (K, P) refined gradients; ``rows`` are not changed.

    Raises:
        UsageError: rows that are no matrix, or another ``against``.
    """
    if rows.dim() != 2:
        raise UsageError(f"rows must be (K, P), found the shape {tuple(rows.shape)}")
    if against not in ("original", "adjusted"):
        raise UsageError(unknown_name("against", against, ("original", "adjusted")))
    n_sources = len(rows)
    identity = torch.eye(n_sources, dtype=torch.float64)
    center = identity - 1 / n_sources
    out = combinations(center, rows, out)  # the s_k, whose digits a Gramian of the rows would lose
    gramian = inner_products(out).to("cpu", torch.float64)
    mixing = _adjust(gramian, alpha, against)
    weights = _reweigh(mixing @ gramian @ mixing.T, steps)
    refine = identity - weights[:, None] * (mixing @ center)
    return combinations(refine, rows, out)


def _adjust(gramian: Tensor, alpha: float, against: Against) -> Tensor:
    """(K, K) coefficients of the adjusted s_i in terms of the original ones."""
    adjusted = torch.eye(len(gramian), dtype=gramian.dtype)
    original = adjusted.clone()
    for i in range(len(gramian)):
        for j in range(len(gramian)):
            other = original[j] if against == "original" else adjusted[j]
            inner = adjusted[i] @ gramian @ other
            square, own = other @ gramian @ other, adjusted[i] @ gramian @ adjusted[i]
            if i != j and inner > alpha * (square.clamp_min(0) * own.clamp_min(0)).sqrt() and square > 0:
                adjusted[i] -= inner / square * other
    return adjusted


def _reweigh(gramian: Tensor, steps: int) -> Tensor:
    """(K,) weights in [0, 1] that make the weighted sum short."""
    weights = torch.ones(len(gramian), dtype=gramian.dtype)
    largest = torch.linalg.eigvalsh(gramian)[-1]
    if largest > 0:
        for _ in range(steps):
            weights = (weights - gramian @ weights / largest).clamp(0, 1)
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
        mean = torch.mean(rows, dim=0, out=oracle.vector())
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
