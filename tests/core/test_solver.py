"""Solver and Wrapper as a stranger meets them."""

from __future__ import annotations

import warnings

import pytest
import torch
from problems import Heads, seeded, task_objective

import mtlsuite as mtl


class Bare(mtl.Solver):
    """The shortest solver there can be: no ``__init__``."""

    name = "bare"

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        return mtl.Direction(oracle.pullback(oracle.losses().softmax(0)))


class Momentum(mtl.Solver):
    """A solver with state, whose ``__init__`` does not call the parent's."""

    name = "momentum"
    stateful = ("average", "count", "history")

    def __init__(self, decay: float = 0.5) -> None:
        self.decay = decay
        self.average: torch.Tensor | None = None
        self.count = 0
        self.history: list[float] = []

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        gradient = oracle.mean_gradient()
        self.average = gradient if self.average is None else self.decay * self.average + gradient
        self.count += 1
        self.history.append(float(oracle.losses().sum()))
        noise = torch.randn(len(gradient), generator=self.generator, dtype=gradient.dtype)
        return mtl.Direction(self.average.clone() + 0.01 * noise, metrics={"momentum/count": self.count})


class Negate(mtl.Wrapper):
    """A wrapper that does not call ``super().__init__``."""

    name = "negate"

    def __init__(self, inner: mtl.Solver) -> None:
        self.inner = inner

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        found = self.inner.direction(oracle)
        noise = torch.randn(len(found.vector), generator=self.generator, dtype=found.vector.dtype)
        return mtl.Direction(-found.vector + 0 * noise, found.weights, found.metrics)


def run(solver: mtl.Solver, seeds, model=None, lr: float = 0.05):
    model = model or seeded(Heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    reports = [solver.step(task_objective(model, seed), optimizer) for seed in seeds]
    return model, reports


@pytest.mark.parametrize("make", [Bare, Momentum, lambda: mtl.SAGE(Bare()), lambda: mtl.SAM(Momentum())])
def test_a_strangers_solver_trains(make) -> None:
    _, reports = run(make(), [0] * 12)
    assert reports[-1].losses.sum() < reports[0].losses.sum()
    assert reports[0].weights is None


def test_a_strangers_state_is_a_snapshot() -> None:
    solver = Momentum()
    model, _ = run(solver, range(2))
    start = [p.detach().clone() for p in model.parameters()]
    state = solver.state_dict()
    found = []
    for target in (solver, solver, Momentum()):
        target.load_state_dict(state)
        with torch.no_grad():
            for p, s in zip(model.parameters(), start, strict=True):
                p.copy_(s)
        _, reports = run(target, range(3), model)
        assert reports[-1].metrics["momentum/count"] == 5
        assert len(target.history) == 5
        found.append([p.detach().clone() for p in model.parameters()])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_wrapper_without_super_init_shares_its_generator() -> None:
    solver = Negate(mtl.SAGE(mtl.Equal()))
    run(solver, [0])
    assert solver.generator is solver.inner.generator
    assert solver.n_sources is None


def test_a_class_without_direction_cannot_be_made() -> None:
    class Nothing(mtl.Solver):
        pass

    with pytest.raises(TypeError, match="direction"):
        Nothing()


@pytest.mark.parametrize("result", [None, torch.ones(3), mtl.Direction(torch.ones(3)), "direction of floats"])
def test_a_direction_of_the_wrong_kind_is_told(result: object) -> None:
    class Wrong(mtl.Solver):
        name = "wrong"

        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:  # noqa: ARG002
            return result  # type: ignore[return-value]

    n_entries = sum(p.numel() for p in seeded(Heads).parameters())
    with pytest.raises(
        mtl.UsageError, match=rf"wrong: direction\(\) must return a Direction.*\({n_entries},\)"
    ):
        run(Wrong(), [0])


def test_a_nan_direction_of_a_stranger_is_refused() -> None:
    class Wild(mtl.Solver):
        name = "wild"

        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            return mtl.Direction(oracle.mean_gradient() * float("inf"))

    model = seeded(Heads)
    start = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(mtl.NonFiniteError, match="direction"):
        run(Wild(), [0], model)
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))


def test_gradients_of_the_last_step_do_not_pile_up() -> None:
    model = seeded(Heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = []
    for _ in range(2):
        mtl.Equal().step(task_objective(model), optimizer)
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_parameters_that_are_not_listed_are_warned_about() -> None:
    model, stray = seeded(Heads), torch.nn.Parameter(torch.ones(7))
    optimizer = torch.optim.SGD([*model.parameters(), stray], lr=0.1)
    with pytest.warns(UserWarning, match=r"1 parameters.*\(7,\)"):
        mtl.Equal().step(task_objective(model), optimizer)
    assert torch.equal(stray, torch.ones(7))
    stray.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mtl.Equal().step(task_objective(model), optimizer)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop"]
)
def test_any_optimizer_works(name: str) -> None:
    model = seeded(Heads)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    solver = mtl.SAGE(mtl.NashMTL())
    reports = [solver.step(task_objective(model, 0), optimizer) for _ in range(10)]
    assert reports[-1].losses.sum() < reports[0].losses.sum()


def test_report_metrics_are_floats() -> None:
    _, (report,) = run(mtl.SAGE(mtl.SAM(mtl.FAMO())), [0])
    assert set(report.metrics) == {
        "sage/cosine", "sage/noise_std", "sage/perturbation_norm", "sam/perturbation_norm",
        "famo/logit_0", "famo/logit_1", "famo/logit_2",
    }  # fmt: skip
    assert all(type(value) is float for value in report.metrics.values())
