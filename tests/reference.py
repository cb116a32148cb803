"""Plain reference implementations, from the papers, with torch.autograd.grad loops: slow and obvious."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

Evaluate = Callable[[], Sequence[Tensor]]


class Problem:
    """What a rule sees: losses, parameters (the first ``n_shared`` are shared), losses at the start."""

    def __init__(self, evaluate: Evaluate, parameters: list[Tensor], n_shared: int) -> None:
        self.evaluate = evaluate
        self.parameters = parameters
        self.n_shared = n_shared
        self.start = torch.stack([loss.detach() for loss in evaluate()])

    def gradients(self) -> list[list[Tensor]]:
        losses = self.evaluate()
        return [gradient(loss, self.parameters) for loss in losses]

    def mean_gradient(self) -> list[Tensor]:
        return combine([1 / len(self.start)] * len(self.start), self.gradients())


def gradient(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def combine(weights: Sequence[float], gradients: list[list[Tensor]]) -> list[Tensor]:
    return [
        sum(w * g for w, g in zip(weights, column, strict=True)) for column in zip(*gradients, strict=True)
    ]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def clip_shared(direction: list[Tensor], n_shared: int, max_norm: float | None) -> list[Tensor]:
    if not max_norm:
        return direction
    factor = min(1.0, max_norm / (float(flat(direction[:n_shared]).norm()) + 1e-6))
    return [d * factor if i < n_shared else d for i, d in enumerate(direction)]


def nash_weights(gramian: np.ndarray) -> np.ndarray:
    """G alpha = 1 / alpha by scipy's root finder in log alpha, polished by Newton steps."""
    start = -0.5 * np.log(np.diag(gramian))
    solution = scipy.optimize.root(
        lambda x: np.exp(x) * (gramian @ np.exp(x)) - 1, start, method="lm", tol=1e-14
    )
    x = solution.x
    for _ in range(5):
        scaled = np.exp(x)[:, None] * gramian * np.exp(x)
        x = x - np.linalg.solve(scaled + np.diag(scaled.sum(1)), scaled.sum(1) - 1)
    alpha = np.exp(x)
    assert np.abs(alpha * (gramian @ alpha) - 1).max() < 1e-9
    return alpha


class Equal:
    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights

    def direction(self, problem: Problem) -> list[Tensor]:
        return combine(self.weights, problem.gradients())

    def after(self, problem: Problem) -> None: ...


class Nash:
    def __init__(self, every: int = 1, max_norm: float | None = 1.0) -> None:
        self.every, self.max_norm, self.steps, self.alpha = every, max_norm, 0, None

    def direction(self, problem: Problem) -> list[Tensor]:
        gradients = problem.gradients()
        if self.steps % self.every == 0:
            rows = torch.stack([flat(g[: problem.n_shared]) for g in gradients])
            self.alpha = nash_weights((rows @ rows.T).numpy())
        self.steps += 1
        direction = combine(self.alpha.tolist(), gradients)
        return clip_shared(direction, problem.n_shared, self.max_norm)

    def after(self, problem: Problem) -> None: ...


class Famo:
    """The formulation of the reference code: one scalar (D.log() * z / c).sum(), Adam on the logits."""

    def __init__(
        self,
        n: int,
        w_lr=0.025,
        gamma=1e-3,
        max_norm=1.0,
        minima: Sequence[float] | None = None,
        before="start",
    ) -> None:
        self.logits = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=w_lr, weight_decay=gamma)
        self.minima = torch.tensor(minima if minima is not None else [0.0] * n, dtype=torch.float64)
        self.max_norm, self.before = max_norm, before

    def direction(self, problem: Problem) -> list[Tensor]:
        losses = torch.stack(list(problem.evaluate()))
        excess = losses - self.minima + 1e-8
        z = torch.softmax(self.logits, -1).detach()
        c = (z / excess).sum().detach()
        start = problem.start - self.minima + 1e-8
        self.earlier = start if self.before == "start" else excess.detach()
        direction = gradient((excess.log() * z / c).sum(), problem.parameters)
        return clip_shared(direction, problem.n_shared, self.max_norm)

    def after(self, problem: Problem) -> None:
        with torch.no_grad():
            later = torch.stack(list(problem.evaluate())) - self.minima + 1e-8
        delta = self.earlier.log() - later.log()
        (self.logits.grad,) = torch.autograd.grad(torch.softmax(self.logits, -1), self.logits, delta)
        self.optimizer.step()


class Moved:
    """A wrapper that asks ``inner`` at theta + epsilon."""

    def __init__(self, inner, rho: float) -> None:
        self.inner, self.rho = inner, rho

    def epsilon(self, problem: Problem) -> list[Tensor]:
        raise NotImplementedError

    def direction(self, problem: Problem) -> list[Tensor]:
        kept = [p.detach().clone() for p in problem.parameters]
        for p, e in zip(problem.parameters, self.epsilon(problem), strict=True):
            p.data = p.data + e
        direction = self.inner.direction(problem)
        for p, old in zip(problem.parameters, kept, strict=True):
            p.data = old
        return direction

    def after(self, problem: Problem) -> None:
        self.inner.after(problem)


class Sam(Moved):
    def epsilon(self, problem: Problem) -> list[Tensor]:
        mean = problem.mean_gradient()
        return [self.rho * g / flat(mean).norm() for g in mean]


class Sage(Moved):
    """Without noise."""

    def __init__(self, inner, rho: float, polar="exact", scale="weight_norm") -> None:
        super().__init__(inner, rho)
        self.polar, self.scale = polar, scale

    def epsilon(self, problem: Problem) -> list[Tensor]:
        return [
            self._one(p.detach(), g) for p, g in zip(problem.parameters, problem.mean_gradient(), strict=True)
        ]

    def _one(self, parameter: Tensor, g: Tensor) -> Tensor:
        if g.norm() < 1e-12:
            return torch.zeros_like(g)
        if g.dim() < 2:
            return self.rho * g / g.norm()
        matrix = g.reshape(g.shape[0], -1)
        factor = exact_polar(matrix) if self.polar == "exact" else newton_schulz(matrix)
        length = parameter.norm() if self.scale == "weight_norm" else 1.0
        return self.rho * length * factor.reshape(g.shape)


def exact_polar(matrix: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = (values > values[0] * 1e-12).to(values)
    return left @ torch.diag(kept) @ right


def newton_schulz(matrix: Tensor) -> Tensor:
    x = matrix / matrix.norm()
    if x.shape[0] > x.shape[1]:
        return newton_schulz(matrix.T).T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def train(rule, evaluate_batch, batches, parameters: list[Tensor], n_shared: int, optimizer) -> None:
    """One optimizer step a batch, along the reference rule's direction."""
    for batch in batches:
        problem = Problem(lambda batch=batch: evaluate_batch(batch), parameters, n_shared)
        for p, d in zip(parameters, rule.direction(problem), strict=True):
            p.grad = d
        optimizer.step()
        rule.after(problem)
