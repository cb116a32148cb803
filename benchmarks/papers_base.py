"""The base solvers in the manner of their published code, and what all of ``papers_way`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from step_cases import Problem
from torch import Tensor, nn
from torch.nn import functional as F

Inner = Callable[[Problem, torch.optim.Optimizer], "Step"]


class Step:
    """A training step; a subclass leaves its direction in the parameters' ``grad``, which are None before.

    Args:
        problem: the model and its batch.
        optimizer: of all its parameters.
    """

    def __init__(self, problem: Problem, optimizer: torch.optim.Optimizer) -> None:
        self.problem = problem
        self.optimizer = optimizer
        self.parameters = problem.parameters
        device = self.parameters[0].device
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self) -> None:
        self.direction()
        self.optimizer.step()
        self.after_step()
        self.optimizer.zero_grad()

    def direction(self) -> None:
        """The gradient of the mean loss."""
        torch.stack(self.problem.joint()).mean().backward()  # type: ignore[no-untyped-call]

    def after_step(self) -> None:
        """Learn from the step."""


class NashMTL(Step):
    """Navon et al., 2022: weights by successive convex programs, then a (K + 1)-th backward."""

    def __init__(self, problem: Problem, optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> None:
        from papers_bargaining import Bargaining

        super().__init__(problem, optimizer)
        self.max_norm = max_norm
        self.bargaining = Bargaining(problem.n_sources)

    def direction(self) -> None:
        losses = self.problem.joint()
        rows = torch.stack(source_gradients(losses, self.problem.shared))
        alpha = self.bargaining((rows @ rows.T).cpu().double().numpy())
        sum(a * loss for a, loss in zip(alpha.tolist(), losses, strict=True)).backward()
        nn.utils.clip_grad_norm_(self.problem.shared, self.max_norm)


class FAMO(Step):
    """Liu et al., 2023, which evaluates the losses once more after the step."""

    def __init__(
        self,
        problem: Problem,
        optimizer: torch.optim.Optimizer,
        lr: float = 0.025,
        gamma: float = 1e-3,
        max_norm: float = 1.0,
    ) -> None:
        super().__init__(problem, optimizer)
        like = self.parameters[0]
        self.w = torch.zeros(problem.n_sources, dtype=like.dtype, device=like.device, requires_grad=True)
        self.w_optimizer = torch.optim.Adam([self.w], lr=lr, weight_decay=gamma)
        self.max_norm = max_norm

    def direction(self) -> None:
        losses = torch.stack(self.problem.joint())
        z = F.softmax(self.w, -1).detach()
        distance = losses + 1e-8
        c = (z / distance).sum().detach()
        (distance.log() * z / c).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.problem.shared, self.max_norm)
        self.before = losses.detach()

    def after_step(self) -> None:
        with torch.no_grad():
            losses = torch.stack(self.problem.joint())
            delta = (self.before + 1e-8).log() - (losses + 1e-8).log()
        (slope,) = torch.autograd.grad(F.softmax(self.w, -1), self.w, grad_outputs=delta)
        self.w.grad = slope
        self.w_optimizer.step()


class PCGrad(Step):
    """Yu et al., 2020: every gradient loses what conflicts with the others', which come in random order.

    Over the shared parameters; private ones get the gradients of their own sources, unweighted.
    """

    def direction(self) -> None:
        losses, shared = self.problem.joint(), self.problem.shared
        rows = source_gradients(losses, shared)
        projected = [row.clone() for row in rows]
        for i, row in enumerate(projected):
            for j in torch.randperm(len(rows), generator=self.generator, device=row.device).tolist():
                product = row @ rows[j]
                if i != j and product < 0:
                    row -= product / (rows[j] @ rows[j]) * rows[j]
        own = [p for group in self.problem.specific for p in group]
        if own:
            torch.stack(losses).sum().backward(inputs=own)  # type: ignore[no-untyped-call]
        set_gradients(shared, sum(projected))  # type: ignore[arg-type]


def gradient(parameter: Tensor) -> Tensor:
    """Its ``grad``, zeros where the loss did not reach it."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def source_gradients(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The flat gradient of every loss, one backward after the other; the graph stays."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pieces = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        rows.append(torch.cat([piece.flatten() for piece in pieces]))
    return rows


def set_gradients(parameters: Sequence[Tensor], flat: Tensor) -> None:
    """The flat vector, piece by piece, as the parameters' ``grad``."""
    for p, piece in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        p.grad = piece.view_as(p).clone()
