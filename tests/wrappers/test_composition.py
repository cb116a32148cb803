"""The composition table: every wrapper over every base solver and every ordered pair of wrappers, on every
kind of objective, with one, two and three sources.

Of each: finite; the same again from the same seed; a resume in mid-run goes on bit for bit; BatchNorm
statistics move as in one plain forward of the batch; with a learning rate of zero theta stays (but where GGA
moves it).
"""

from __future__ import annotations

import copy
import io
from itertools import product

import pytest
import torch
from problems import BASES, TASKS, WRAPPERS, Heads, One, domain_batches, mse, nested, seeded, task_batch
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.core.registry import registered

TORCHJD = (  # weighted, weighted at random, without weights, learned weights
    {"name": "torchjd", "aggregator": "UPGrad"},
    {"name": "torchjd", "aggregator": "PCGrad"},
    {"name": "torchjd", "aggregator": "ConFIG"},
    {"name": "torchjd", "scalarizer": "UW"},
)
CHAINS = dict(
    [nested(base, name) for base in (*BASES, *TORCHJD) for name in WRAPPERS]
    + [nested("equal", *pair) for pair in product(WRAPPERS, repeat=2)]
)
MORE = dict(nested("nash_mtl", *pair) for pair in product(WRAPPERS, repeat=2))
KINDS = ("task", "domain", "view", "product")


def make_model(kind: str, n_sources: int) -> nn.Module:
    norm = nn.BatchNorm2d(3)
    tasks = dict(list(TASKS.items())[: n_sources if kind == "task" else 2])
    return seeded(lambda: Heads(norm, tasks) if kind in ("task", "product") else One(norm))


def make_objective(kind: str, n_sources: int, model: nn.Module, seed: int) -> mtl.Objective:
    inputs, targets = task_batch(seed, size=4)
    tasks = dict.fromkeys(model.heads, mse)
    if kind == "task":
        return mtl.TaskObjective(model, inputs, targets, tasks)
    if kind == "product":
        return mtl.ProductObjective(model, [(inputs + d, targets) for d in range(n_sources)], tasks)
    if kind == "domain":
        return mtl.DomainObjective(model, domain_batches(seed, (3, 4, 2)[:n_sources]), mse)
    views = [lambda x, k=k: x + 0.3 * k for k in range(n_sources)]
    return mtl.ViewObjective(model, inputs, targets["a"], views, mse)


def batch(objective: mtl.Objective) -> Tensor:
    return torch.cat([inputs for inputs, _ in objective.minibatches])


class Run:
    """A model in training, which can be saved to a file and continued by another."""

    def __init__(self, spec: dict, kind: str, n_sources: int, lr: float = 0.01, seed: int = 3) -> None:
        self.kind, self.n_sources = kind, n_sources
        self.model = make_model(kind, n_sources)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.solver = mtl.build_solver(spec, seed=seed)

    def step(self, number: int) -> mtl.StepReport:
        objective = make_objective(self.kind, self.n_sources, self.model, number)
        return self.solver.step(objective, self.optimizer)

    def parts(self) -> list:
        return [self.solver, self.model, self.optimizer]

    def save(self) -> io.BytesIO:
        file = io.BytesIO()
        torch.save([part.state_dict() for part in self.parts()], file)
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        for part, state in zip(self.parts(), torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)

    def state(self) -> list[Tensor]:
        return [value.clone() for value in self.model.state_dict().values()]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", [*CHAINS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_everything_composes(name: str) -> None:
    spec = (CHAINS | MORE)[name]
    for kind, n_sources in product(KINDS, (1, 2, 3)):
        where = f"{kind}, {n_sources}"
        first, again = (Run(spec, kind, n_sources) for _ in range(2))
        plain = copy.deepcopy(first.model)
        with torch.no_grad():
            plain(batch(make_objective(kind, n_sources, first.model, 0)))
        report = first.step(0)
        for ours, theirs in zip(first.model.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=where)
        again.step(0)
        assert equal(first.state(), again.state()), where  # reproducible
        resumed = Run(spec, kind, n_sources, seed=99)
        resumed.load(first.save())
        for run in (first, resumed):
            run.step(1)
        assert equal(first.state(), resumed.state()), where
        assert all(value.isfinite().all() for value in [*first.state(), report.losses]), where
        if report.weights is not None:
            assert report.weights.isfinite().all(), where


@pytest.mark.parametrize("name", [name for name in CHAINS if "gga(" not in name])
def test_parameters_are_restored(name: str) -> None:
    for kind in KINDS:
        run = Run(CHAINS[name], kind, 2, lr=0.0)
        before = [p.detach().clone() for p in run.model.parameters()]
        run.step(0)
        assert equal([p.detach() for p in run.model.parameters()], before), kind


def test_every_wrapper_is_in_the_table() -> None:
    ours = {name for name, cls in registered("wrapper").items() if cls.__module__.startswith("mtlsuite.")}
    assert ours == set(WRAPPERS)


@pytest.mark.parametrize("outer", WRAPPERS)
def test_sequential_steps_are_refused_inside(outer: str) -> None:
    sequential = {"name": "gradient_equilibrium", "apply": "sequential"}
    with pytest.raises(mtl.UsageError, match="outermost") as caught:
        mtl.build_solver({"base": "equal", "wrap": [{"name": outer, **WRAPPERS[outer]}, sequential]})
    assert caught.value.key == ("wrap", 0)


def test_sequential_steps_need_weights() -> None:
    spec = {"base": TORCHJD[2], "wrap": [{"name": "gradient_equilibrium", "apply": "sequential"}]}
    with pytest.raises(mtl.UsageError, match="sequential steps need a solver with weights") as caught:
        mtl.build_solver(spec)
    assert caught.value.key == ("wrap", 0, "apply")


@pytest.mark.parametrize("inner", sorted(set(WRAPPERS) - {"gga"}))
def test_sequential_steps_are_refused_around_what_they_would_ignore(inner: str) -> None:
    sequential = {"name": "gradient_equilibrium", "apply": "sequential"}
    with pytest.raises(mtl.UsageError, match=f"{inner} would do nothing there") as caught:
        mtl.build_solver({"base": "equal", "wrap": [sequential, {"name": inner, **WRAPPERS[inner]}]})
    assert caught.value.key == ("wrap", 0, "apply")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_sequential_steps_outside_compose(kind: str, base: str) -> None:
    spec = {"base": base, "wrap": [{"name": "gradient_equilibrium", "apply": "sequential"}]}
    if base == "nash_mtl":
        spec["wrap"].append({"name": "gga", **WRAPPERS["gga"]})
    run, again = Run(spec, kind, 3), Run(spec, kind, 3)
    run.step(0)
    again.load(run.save())
    for each in (run, again):
        each.step(1)
    assert equal(run.state(), again.state())
    assert all(value.isfinite().all() for value in run.state())
