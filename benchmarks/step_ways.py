"""The methods whose training step ``step_cost`` measures, and the ways in which it can be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from bare_way import PASSES, bare
from papers_way import WAYS as PAPERS
from step_cases import Problem

import mtlsuite as mtl

TORCHJD = ("equal", "nash_mtl", "upgrad", "pcgrad", "cagrad", "mgda")
Way = Callable[[Problem, torch.optim.Optimizer], Callable[[], object]]


def _torchjd(aggregator: str, **options: Any) -> dict[str, Any]:
    return {"base": {"name": "torchjd", "aggregator": aggregator, **options}}


def _around(base: str, wrapper: str, **options: Any) -> dict[str, Any]:
    return {"base": base, "wrap": [{"name": wrapper, **options}]}


METHODS: dict[str, dict[str, Any]] = {
    "equal": {"base": "equal"},
    "famo": {"base": "famo"},
    "nash_mtl": {"base": "nash_mtl"},
    "upgrad": _torchjd("UPGrad"),
    "pcgrad": _torchjd("PCGrad"),
    "cagrad": _torchjd("CAGrad", c=0.4),
    "mgda": _torchjd("MGDA"),
    "sam": _around("equal", "sam"),
    "asam": _around("equal", "sam", adaptive=True),
    "disam": _around("equal", "disam"),
    "gsam": _around("equal", "gsam"),
    "sagm": _around("equal", "sagm"),
    "samo": _around("equal", "samo"),
    "sage": _around("equal", "sage"),
    "gga": _around("equal", "gga", start_step=0, end_step=10**9, n_search=5),  # 250 in the paper
    "gga_l": _around("equal", "gga_l"),
    "gradient_equilibrium": _around("equal", "gradient_equilibrium"),
    "arithmetic": _around("equal", "arithmetic"),
    "fish": _around("equal", "fish"),
    "sage(nash_mtl)": _around("nash_mtl", "sage"),
    "disam(nash_mtl)": _around("nash_mtl", "disam"),
    "sage(famo)": {"base": {"name": "famo", "before": "here"}, "wrap": ["sage"]},
}


def erm(problem: Problem, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The plain step that all others are compared with."""

    def step() -> None:
        torch.stack(problem.joint()).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(spec: Mapping[str, Any]) -> Way:
    """A step of one of our solvers."""

    def way(problem: Problem, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        solver = mtl.build_solver(spec, n_sources=problem.n_sources)

        def step() -> None:
            solver.step(problem.objective(), optimizer)
            optimizer.zero_grad()

        return step

    return way


def ways_of(method: str) -> Iterator[tuple[str, Way]]:
    """All ways in which a method's step can be taken here."""
    yield "ours", ours(METHODS[method])
    if method in PAPERS:
        yield "papers", PAPERS[method]
    if method in TORCHJD:
        yield "autojac", _by_torchjd("autojac", method)
        yield "autogram", _by_torchjd("autogram", method)
    yield "bare", bare(PASSES[method])


def _by_torchjd(engine: str, method: str) -> Way:
    def way(problem: Problem, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        import torchjd_way  # here, so that without TorchJD this way alone fails

        make: Way = getattr(torchjd_way, engine)(torchjd_way.AGGREGATORS[method])
        return make(problem, optimizer)

    return way
