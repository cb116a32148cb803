"""The forwards and backwards that a method orders, in plain torch, nothing around them: the counted ideal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from step_cases import Problem

# m: the gradient of the mean loss. r: the gradients of all sources. p: all losses, no gradient.
# a: the gradient of each source alone, from a forward of its own.
PASSES = {
    "equal": "m",
    "famo": "mp",
    "nash_mtl": "r",
    "upgrad": "r",
    "pcgrad": "r",
    "cagrad": "r",
    "mgda": "r",
    "sam": "mm",
    "asam": "mm",
    "disam": "mm",
    "gsam": "mm",
    "sagm": "mm",
    "samo": "mppa",
    "sage": "rm",
    "gga": "rrrrrrm",  # where it stands and at five candidates, then at the best
    "gga_l": "r",
    "gradient_equilibrium": "r",
    "arithmetic": "pa",
    "fish": "pa",
    "sage(nash_mtl)": "rr",
    "disam(nash_mtl)": "mr",
    "sage(famo)": "rmp",
}


def bare(passes: str) -> Callable[[Problem, torch.optim.Optimizer], Callable[[], object]]:
    """The passes and the optimizer's step, with one graph a source where our step has them."""

    def way(problem: Problem, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        run = {"m": mean, "r": rows, "p": probe, "a": alone}

        def step() -> None:
            for kind in passes:
                if kind in "mra":
                    optimizer.zero_grad()
                run[kind](problem)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return way


def mean(problem: Problem) -> None:
    """One forward of the whole batch, one backward."""
    torch.stack(problem.joint()).mean().backward()  # type: ignore[no-untyped-call]


def rows(problem: Problem) -> None:
    """One backward a source; the optimizer gets the last gradient."""
    if problem.separate:
        alone(problem)
        return
    losses, last = problem.joint(), problem.n_sources - 1
    for k, loss in enumerate(losses):
        found = torch.autograd.grad(
            loss, problem.parameters, retain_graph=k < last, allow_unused=True, materialize_grads=k == last
        )
    _hand_over(problem, found)


def probe(problem: Problem) -> None:
    """One forward of the whole batch, alone."""
    with torch.no_grad():
        problem.joint()


def alone(problem: Problem) -> None:
    """One forward and backward a source."""
    for k in range(problem.n_sources):
        found = torch.autograd.grad(
            problem.source(k),
            problem.parameters,
            allow_unused=True,
            materialize_grads=k == problem.n_sources - 1,
        )
    _hand_over(problem, found)


def _hand_over(problem: Problem, gradients: tuple[torch.Tensor, ...]) -> None:
    for parameter, gradient in zip(problem.parameters, gradients, strict=True):
        parameter.grad = gradient
