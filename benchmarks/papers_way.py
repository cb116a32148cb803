"""Training steps in the manner of the methods' published code, to compare ours with.

One forward of the whole batch, ``torch.autograd.grad`` source by source with the graph retained, gradients
flattened by ``torch.cat``, one more backward for the weighted loss, Python loops over pairs of sources and
over parameters, copies of all parameters where they move. Written anew after the papers and what is public of
their code; the directions are those of our solvers with the same options, which the tests check.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from papers_base import FAMO, Inner, NashMTL, PCGrad, Step, gradient, set_gradients, source_gradients
from step_cases import Problem
from torch import Tensor
from torch.nn import functional as F


class SAM(Step):
    """Foret et al., 2021 (adaptive: Kwon et al., 2021), parameter by parameter; ``inner`` asked there."""

    def __init__(
        self,
        problem: Problem,
        optimizer: torch.optim.Optimizer,
        inner: Inner = Step,
        rho: float = 0.05,
        adaptive: bool = False,
    ) -> None:
        super().__init__(problem, optimizer)
        self.inner = inner(problem, optimizer)
        self.rho = rho
        self.adaptive = adaptive

    def direction(self) -> None:
        with torch.no_grad():
            moves = [move.clone() for move in self.ascent()]
            before = [p.data.clone() for p in self.parameters]
            for p, move in zip(self.parameters, moves, strict=True):
                p.add_(move)
        self.optimizer.zero_grad()
        self.inner.direction()
        for p, value in zip(self.parameters, before, strict=True):
            p.data = value

    def ascent(self) -> list[Tensor]:
        """The displacement of every parameter."""
        with torch.enable_grad():
            self.ascent_loss(self.problem.joint()).backward()  # type: ignore[no-untyped-call]
        weights = [p.abs() if self.adaptive else 1.0 for p in self.parameters]
        norms = [(w * gradient(p)).norm(p=2) for w, p in zip(weights, self.parameters, strict=True)]
        scale = self.rho / torch.norm(torch.stack(norms), p=2)
        return [w * w * gradient(p) * scale for w, p in zip(weights, self.parameters, strict=True)]

    def ascent_loss(self, losses: Sequence[Tensor]) -> Tensor:
        """The loss that the displacement raises."""
        return torch.stack(list(losses)).mean()

    def after_step(self) -> None:
        self.inner.after_step()


class DISAM(SAM):
    """Zhang et al., 2024: the displacement raises the mean less a share of the variance."""

    lambda_ = 0.1

    def ascent_loss(self, losses: Sequence[Tensor]) -> Tensor:
        values = torch.stack(list(losses))
        return values.mean() - self.lambda_ * ((values - values.mean()) ** 2).mean()


class SAGE(SAM):
    """Ballas and Diou, 2026: polar factors layer by layer, cosines pair by pair, noise."""

    gamma = 1e-4

    def direction(self) -> None:
        super().direction()
        add_noise(self.parameters, self.gamma * (1 - self.cosine), self.generator)

    def ascent(self) -> list[Tensor]:
        with torch.enable_grad():
            rows = source_gradients(self.problem.joint(), self.parameters)
        self.cosine = mean_cosine(rows)
        mean = sum(rows) / len(rows)
        moves = []
        sizes = [p.numel() for p in self.parameters]
        for p, piece in zip(self.parameters, torch.split(mean, sizes), strict=True):  # type: ignore[arg-type]
            g = piece.view_as(p)
            if g.norm() < 1e-12:
                moves.append(torch.zeros_like(g))
            elif g.dim() >= 2:
                factor = newton_schulz(g.flatten(1)).view_as(g)
                moves.append(self.rho * p.norm() * factor)
            else:
                moves.append(self.rho * g / g.norm())
        return moves


class GGAL(Step):
    """Ballas and Diou, 2025, the variant with noise alone."""

    gamma = 1e-3

    def direction(self) -> None:
        losses = self.problem.joint()
        cosine = mean_cosine(source_gradients(losses, self.parameters))
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        add_noise(self.parameters, self.gamma * (1 - cosine), self.generator)


class GGA(Step):
    """Ballas and Diou, 2025: a search around the parameters, then the step from the best point."""

    def __init__(
        self,
        problem: Problem,
        optimizer: torch.optim.Optimizer,
        n_search: int = 5,
        radius: float = 1e-5,
        tolerance: float = 0.1,
    ) -> None:
        super().__init__(problem, optimizer)
        self.n_search, self.radius, self.tolerance = n_search, radius, tolerance

    def direction(self) -> None:
        cosine, loss = self.quality()
        best = [p.detach().clone() for p in self.parameters]
        for _ in range(self.n_search):
            with torch.no_grad():
                for p, value in zip(self.parameters, best, strict=True):
                    noise = torch.empty_like(p).uniform_(-self.radius, self.radius, generator=self.generator)
                    p.copy_(value + noise)
            found_cosine, found_loss = self.quality()
            if found_cosine > cosine and found_loss < loss + self.tolerance:
                cosine, loss = found_cosine, found_loss
                best = [p.detach().clone() for p in self.parameters]
        for p, value in zip(self.parameters, best, strict=True):
            p.data.copy_(value)
        super().direction()

    def quality(self) -> tuple[float, float]:
        """Minimum pairwise cosine and mean loss."""
        losses = self.problem.joint()
        rows = source_gradients(losses, self.parameters)
        cosines = [F.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(rows, 2)]
        return min(cosines), torch.stack(losses).mean().item()


class Arithmetic(Step):
    """Wang et al., 2025: inner SGD from source to source; early sources count more."""

    inner_lr = 5e-5

    def direction(self) -> None:
        n_sources = self.problem.n_sources
        start = [p.detach().clone() for p in self.parameters]
        total = [torch.zeros_like(p) for p in self.parameters]
        inner = torch.optim.SGD(self.parameters, lr=self.inner_lr)
        order = torch.randperm(n_sources, generator=self.generator, device=self.generator.device)
        for position, k in enumerate(order.tolist(), start=1):
            before = [p.detach().clone() for p in self.parameters]
            inner.zero_grad()
            self.problem.source(k).backward()  # type: ignore[no-untyped-call]
            inner.step()
            weight = self.weight(position, n_sources) / self.inner_lr
            for sum_, p, value in zip(total, self.parameters, before, strict=True):
                sum_ += weight * (value - p.detach())
        for p, value, sum_ in zip(self.parameters, start, total, strict=True):
            p.data.copy_(value)
            p.grad = sum_

    def weight(self, position: int, n_sources: int) -> float:
        """Of the source at a position 1..K of the walk."""
        return (n_sources + 1 - position) / (n_sources * (n_sources + 1) / 2)


class Fish(Arithmetic):
    """Shi et al., 2022: the same, all sources counting alike."""

    def weight(self, position: int, n_sources: int) -> float:  # noqa: ARG002
        return 1 / n_sources


class GradientEquilibrium(Step):
    """Zhang et al., 2024, on the gradients themselves; the mean of what is left of them."""

    alpha, n_steps = 0.5, 20

    def direction(self) -> None:
        rows = source_gradients(self.problem.joint(), self.parameters)
        mean = sum(rows) / len(rows)
        specific = [row - mean for row in rows]
        adjusted = [s.clone() for s in specific]
        for i, s in enumerate(adjusted):
            for j, other in enumerate(specific):
                if i != j and F.cosine_similarity(s, other, dim=0) > self.alpha:
                    s -= (s @ other) / (other @ other) * other
        matrix = torch.stack(adjusted)
        gramian = matrix @ matrix.T
        largest = torch.linalg.eigvalsh(gramian)[-1]
        weights = torch.ones(len(rows), dtype=gramian.dtype, device=gramian.device)
        for _ in range(self.n_steps):
            weights = (weights - gramian @ weights / largest).clamp(0, 1)
        refined = [row - w * s for row, w, s in zip(rows, weights, adjusted, strict=True)]
        set_gradients(self.parameters, sum(refined) / len(rows))


def mean_cosine(rows: Sequence[Tensor]) -> Tensor:
    """Mean cosine over the pairs of rows."""
    pairs = list(itertools.combinations(rows, 2))
    return torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in pairs]).mean()


def add_noise(parameters: Sequence[Tensor], std: Tensor, generator: torch.Generator) -> None:
    """Gaussian noise on every parameter's gradient."""
    for p in parameters:
        noise = torch.empty_like(p).normal_(generator=generator)
        p.grad = gradient(p) + std * noise


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Five quintic steps towards the polar factor, as in Muon (K. Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm()
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    factor: Tensor = x.T if matrix.shape[0] > matrix.shape[1] else x
    return factor


WAYS: dict[str, Inner] = {
    "equal": Step,
    "nash_mtl": NashMTL,
    "famo": FAMO,
    "pcgrad": PCGrad,
    "sam": SAM,
    "asam": partial(SAM, adaptive=True),
    "disam": DISAM,
    "sage": SAGE,
    "gga": GGA,
    "gga_l": GGAL,
    "gradient_equilibrium": GradientEquilibrium,
    "arithmetic": Arithmetic,
    "fish": Fish,
    "sage(nash_mtl)": partial(SAGE, inner=NashMTL),
    "disam(nash_mtl)": partial(DISAM, inner=NashMTL),
    "sage(famo)": partial(SAGE, inner=FAMO),
}
