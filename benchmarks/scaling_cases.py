"""Problems of every size for the scaling benchmark, the methods it runs, and what it measures of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from measure import interleaved, peak_bytes
from papers_base import NashMTL
from step_cases import Problem, domain_problem, task_problem
from torch import nn

import mtlsuite as mtl
from mtlsuite.models.classifiers import MLP

Kind = Literal["domains", "tasks"]
Axis = Literal["sources", "parameters", "batch"]
Step = Callable[[], object]
SPECS: dict[str, dict[str, Any]] = {
    "equal": {"base": "equal"},
    "nash_mtl": {"base": "nash_mtl"},
    "famo": {"base": "famo"},
    "sage(equal)": {"base": "equal", "wrap": ["sage"]},
    "gradient_equilibrium(equal)": {"base": "equal", "wrap": ["gradient_equilibrium"]},
    "torchjd UPGrad": {"base": {"name": "torchjd", "aggregator": "UPGrad"}},
}
PAPERS_NASH = "nash_mtl, papers' way"
METHODS = (*SPECS, PAPERS_NASH)
N_INPUTS, N_CLASSES = 64, 10


@dataclass(frozen=True)
class Size:
    """How large a problem is.

    Attributes:
        sources: K.
        parameters: P, about; the width of the network is chosen for it.
        batch: samples of each domain, or those that all tasks share.
    """

    sources: int
    parameters: int
    batch: int

    @property
    def width(self) -> int:
        """Of three hidden layers: 2 w^2 + (inputs + classes) w is about P."""
        half = (N_INPUTS + N_CLASSES) / 4
        return max(1, round(math.sqrt(self.parameters / 2 + half**2) - half))


@dataclass(frozen=True)
class Sample:
    """One method at one size.

    Attributes:
        kind: separate graphs of domains, or one graph of all tasks.
        axis: what is varied; ``size.<axis>`` is the value.
        method: its name.
        size: of the problem.
        seconds: of a step in every round.
        peak: bytes that the first two steps of a fresh solver need beyond the parameters and the batch.
    """

    kind: Kind
    axis: Axis
    method: str
    size: Size
    seconds: tuple[float, ...]
    peak: int

    @property
    def value(self) -> int:
        """Of what is varied."""
        return int(getattr(self.size, self.axis))

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Fit:
    """y = factor * x^exponent, by least squares in log x and log y over the larger half of the sizes."""

    exponent: float
    factor: float
    low: int
    high: int


def fitted(values: Mapping[int, float]) -> Fit | None:
    """The power law through the larger half of the sizes, at least three; the small ones are fixed costs.

    Args:
        values: size -> time or memory.

    Returns:
        The law; None of fewer than two sizes.
    """
    sizes = sorted(values)
    if len(sizes) < 2:
        return None
    chosen = sizes[-max(3, math.ceil(len(sizes) / 2)) :]
    exponent, level = np.polyfit(np.log(chosen), np.log([values[size] for size in chosen]), 1)
    return Fit(float(exponent), math.exp(level), chosen[0], chosen[-1])


def problem(kind: Kind, size: Size, device: torch.device) -> Problem:
    """A ReLU network with three hidden layers on noise; of tasks, K linear heads on one trunk."""
    names = [str(k) for k in range(size.sources)] if kind == "tasks" else ["class"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = (1, 1, N_INPUTS)
        model = MLP(dict.fromkeys(names, N_CLASSES), shape, width=size.width, depth=3)
        inputs = torch.randn(size.sources, size.batch, *shape)
        labels = torch.randint(N_CLASSES, (size.sources, size.batch))
    model.to(device)
    inputs, labels = inputs.to(device), labels.to(device)
    if kind == "domains":
        return domain_problem(model, list(zip(inputs, labels, strict=True)))
    targets = dict(zip(names, labels, strict=True))
    return task_problem(model, inputs[0], targets, dict.fromkeys(names, nn.functional.cross_entropy))


def step_of(posed: Problem, method: str) -> Step:
    """The method's training step, from the start, by an optimizer that hardly moves and has no state.

    Raises:
        UsageError, ImportError: the method needs what is not installed.
    """
    optimizer = torch.optim.SGD(posed.parameters, lr=1e-6)
    if method == PAPERS_NASH:
        return NashMTL(posed, optimizer)
    solver = mtl.build_solver(SPECS[method])
    return lambda: solver.step(posed.objective(), optimizer)


def measured(
    kind: Kind,
    axis: Axis,
    size: Size,
    methods: Collection[str],
    repeats: int,
    device: torch.device,
) -> list[Sample]:
    """Time and memory of all methods on one problem; memory on gradients that are not there yet."""
    posed = problem(kind, size, device)
    peaks = {}
    for name in methods:
        posed.model.zero_grad(set_to_none=True)
        step = step_of(posed, name)
        peaks[name] = peak_bytes(lambda step=step: (step(), step()), device)  # type: ignore[misc]
    steps = {name: step_of(posed, name) for name in methods}
    times = interleaved(steps, repeats, warmup=2, device=device)
    return [Sample(kind, axis, name, size, tuple(times[name]), peaks[name]) for name in methods]
