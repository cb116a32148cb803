"""Training steps by TorchJD's own engines, to compare ours with.

``autojac`` computes the Jacobian (``mtl_backward`` where tasks have heads, else ``backward``) and aggregates
it; ``autogram`` computes the Gramian without the Jacobian, and the weights go into one ordinary backward.
Both run one forward of the whole batch, with TorchJD's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from step_cases import Problem
from torch import Tensor, nn
from torchjd import aggregation
from torchjd.autogram import Engine
from torchjd.autojac import backward, jac_to_grad, mtl_backward

Way = Callable[[Problem, torch.optim.Optimizer], Callable[[], object]]
MakeAggregator = Callable[[int], Any]

AGGREGATORS: dict[str, MakeAggregator] = {
    "equal": lambda _: aggregation.Mean(),
    "nash_mtl": lambda n_sources: aggregation.NashMTL(n_sources),
    "upgrad": lambda _: aggregation.UPGrad(),
    "pcgrad": lambda _: aggregation.PCGrad(),
    "cagrad": lambda _: aggregation.CAGrad(c=0.4),
    "mgda": lambda _: aggregation.MGDA(),
}


def autojac(make: MakeAggregator) -> Way:
    """The way through the Jacobian."""

    def way(problem: Problem, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        aggregator = make(problem.n_sources)
        features = _noted_inputs(problem.heads)

        def step() -> None:
            losses = problem.joint()
            if problem.heads:
                unique = list({id(one): one for one in features}.values())  # heads may read the same one
                features.clear()
                mtl_backward(losses, unique, tasks_params=problem.specific, shared_params=problem.shared)
                unique.clear()
            else:
                backward(losses, inputs=problem.shared)
            jac_to_grad(problem.shared, aggregator)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return way


def autogram(make: MakeAggregator) -> Way:
    """The way through the Gramian.

    Raises:
        TypeError: weights of this aggregator do not come from the Gramian alone.
    """

    def way(problem: Problem, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        aggregator = make(problem.n_sources)
        if not isinstance(aggregator, aggregation.GramianWeightedAggregator):
            raise TypeError(f"{type(aggregator).__name__} does not work on the Gramian")
        engine = Engine(*_shared_modules(problem), batch_dim=None)

        def step() -> None:
            losses = torch.stack(problem.joint())
            weights = aggregator.gramian_weighting(engine.compute_gramian(losses))
            losses.backward(weights)  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        return step

    return way


def _noted_inputs(modules: Any) -> list[Tensor]:
    """A list that gets the input of each of the modules in every forward."""
    noted: list[Tensor] = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: noted.append(inputs[0]))
    return noted


def _shared_modules(problem: Problem) -> list[nn.Module]:
    """The largest modules whose parameters are all shared."""
    own = {id(p) for group in problem.specific for p in group}

    def within(module: nn.Module) -> list[nn.Module]:
        parameters = list(module.parameters())
        if not parameters:
            return []
        if not any(id(p) in own for p in parameters):
            return [module]
        return [found for child in module.children() for found in within(child)]

    return within(problem.model)
