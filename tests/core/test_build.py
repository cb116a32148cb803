"""build_solver: from the YAML form to the nested object."""

from __future__ import annotations

import pytest
import torch
from problems import Heads, seeded, task_objective

import mtlsuite as mtl
from mtlsuite.core import registry
from mtlsuite.core.types import NonNegative


def test_short_and_long_forms() -> None:
    assert isinstance(mtl.build_solver("famo"), mtl.FAMO)
    assert isinstance(mtl.build_solver({"base": "famo"}), mtl.FAMO)
    solver = mtl.build_solver({"base": {"name": "famo", "w_lr": 0.1}, "wrap": []}, n_sources=3)
    assert (solver.w_lr, solver.n_sources) == (0.1, 3)


def test_wrap_goes_from_the_outside_in() -> None:
    solver = mtl.build_solver({"base": "equal", "wrap": [{"name": "sage", "rho": 0.3}, "sam"]})
    assert (type(solver), type(solver.inner), type(solver.inner.inner)) == (mtl.SAGE, mtl.SAM, mtl.Equal)
    assert solver.rho == 0.3


def test_the_spec_is_left_as_it_was() -> None:
    spec = {"base": {"name": "famo"}, "wrap": [{"name": "sage", "rho": 0.3}], "seed": 3}
    mtl.build_solver(spec, n_sources=2)
    assert spec == {"base": {"name": "famo"}, "wrap": [{"name": "sage", "rho": 0.3}], "seed": 3}


@pytest.mark.parametrize(
    ("spec", "key", "message"),
    [
        ("nash", ("base", "name"), "unknown solver 'nash'; did you mean 'nash_mtl'"),
        ("sage", ("base", "name"), "unknown solver 'sage'"),
        (
            {"base": "equal", "wrap": ["sgae"]},
            ("wrap", 0, "name"),
            "unknown wrapper 'sgae'; did you mean 'sage'",
        ),
        ({"base": "equal", "wrap": ["sam", "famo"]}, ("wrap", 1, "name"), "unknown wrapper 'famo'"),
        ({"base": "equal", "wrap": [{"name": "sam", "rho": -1}]}, ("wrap", 0, "rho"), "sam: rho.*found -1"),
        (
            {"base": "equal", "wrap": ["sam", {"name": "sage", "rho": "big"}]},
            ("wrap", 1, "rho"),
            "found 'big'",
        ),
        ({"base": "equal", "wrap": [{"name": "sam", "rho": True}]}, ("wrap", 0, "rho"), "found True"),
        ({"base": "equal", "wrap": [{"name": "sam", "roh": 1}]}, ("wrap", 0, "roh"), "did you mean 'rho'"),
        ({"base": {"name": "famo", "w_lr": None}}, ("base", "w_lr"), "w_lr.*found None"),
        ({"base": {"name": "famo", "n_sources": 3}}, ("base", "n_sources"), "n_sources is 2 here, found 3"),
        (
            {"base": {"name": "equal", "weights": [1.0, 2.0, 3.0]}},
            ("base", "weights"),
            "3 weights for 2 sources",
        ),
        ({"bas": "equal"}, ("bas",), "did you mean 'base'"),
        ({}, (), "needs the key 'base'"),
        ({"base": "equal", "wrap": "sam"}, ("wrap",), "list of wrappers"),
        ({"base": "equal", "wrap": {"name": "sam"}}, ("wrap",), "list of wrappers"),
        ({"base": "equal", "wrap": 3}, ("wrap",), "list of wrappers"),
        ({"base": "equal", "wrap": [None]}, ("wrap", 0), "wrapper is a name"),
        ({"base": None}, ("base",), "solver is a name"),
        ({"base": "equal", "seed": "x"}, ("seed",), "integer.*'x'"),
        ({"base": "equal", "seed": True}, ("seed",), "integer.*True"),
        ({"base": "equal", "on_nonfinite": "stop"}, ("on_nonfinite",), "found 'stop'; allowed: raise, skip"),
        (None, (), "solver"),
        (3, (), "solver"),
    ],
)
def test_errors_and_where_they_are(spec: object, key: tuple, message: str) -> None:
    with pytest.raises(mtl.UsageError, match=message) as caught:
        mtl.build_solver(spec, n_sources=2)
    assert caught.value.key == key


def test_seeds() -> None:
    assert mtl.build_solver("equal", seed=5).generator.initial_seed() == 5
    assert mtl.build_solver({"base": "equal", "seed": 7}, seed=5).generator.initial_seed() == 7
    assert mtl.build_solver("equal").generator.initial_seed() == 0
    solver = mtl.build_solver({"base": "equal", "wrap": ["sage"], "seed": 7})
    assert solver.inner.generator is solver.generator


@pytest.mark.parametrize("option", [{"seed": 11}, {"on_nonfinite": "skip"}])
def test_a_common_option_of_the_outermost_counts_or_is_refused(option: dict) -> None:
    """It must not be swallowed."""
    ((key, value),) = option.items()
    for spec in (
        {"base": {"name": "equal", **option}},
        {"base": "equal", "wrap": [{"name": "sam", **option}]},
    ):
        try:
            solver = mtl.build_solver(spec)
        except mtl.UsageError:
            continue
        assert (solver.generator.initial_seed() if key == "seed" else solver.on_nonfinite) == value


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "_classes", {kind: dict(names) for kind, names in registry._classes.items()}
    )

    @mtl.register("solver", "mine")
    class Mine(mtl.Solver):
        """Weights by the losses to a power; does not call ``super().__init__``."""

        stateful = ("count",)

        def __init__(self, power: NonNegative = 1.0, n_sources: int | None = None) -> None:
            self.power, self.n_sources, self.count = power, n_sources, 0

        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            weights = oracle.losses() ** self.power
            weights = weights / weights.sum()
            self.count += 1
            return mtl.Direction(oracle.pullback(weights), weights, {"mine/count": self.count})

    @mtl.register("wrapper", "scaled")
    class Scaled(mtl.Wrapper):
        def __init__(self, inner: mtl.Solver, factor: float) -> None:
            self.inner, self.factor = inner, factor

        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            found = self.inner.direction(oracle)
            return mtl.Direction(found.vector.mul_(self.factor), found.weights, found.metrics)


@pytest.mark.usefixtures("strangers")
def test_strangers_nest_with_ours() -> None:
    spec = {
        "base": {"name": "mine", "power": 2},
        "wrap": ["sage", {"name": "scaled", "factor": 0.5}, "sam"],
        "on_nonfinite": "skip",
    }
    model = seeded(Heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    solver = mtl.build_solver(spec, n_sources=3)
    reports = [solver.step(task_objective(model), optimizer) for _ in range(10)]
    assert reports[-1].losses.sum() < reports[0].losses.sum()
    assert reports[-1].metrics["mine/count"] == 10
    assert float(reports[0].weights.sum()) == pytest.approx(1.0)
    again = mtl.build_solver(spec, n_sources=3)
    again.load_state_dict(solver.state_dict())
    assert again.inner.inner.inner.count == 10
    assert again.generator is again.inner.inner.inner.generator


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"base": {"name": "mine", "power": -1}}, "mine: power.*found -1"),
        (
            {"base": {"name": "mine", "pwoer": 1}},
            r"mine: unknown option 'pwoer'; did you mean 'power'.*n_sources",
        ),
        ({"base": "mine", "wrap": ["scaled"]}, "scaled: the option 'factor' is required"),
        ({"base": "mine", "wrap": [{"name": "scaled", "factor": "2"}]}, "scaled: factor.*found '2'"),
    ],
)
def test_a_strangers_signature_is_its_schema(spec: dict, message: str) -> None:
    with pytest.raises(mtl.UsageError, match=message):
        mtl.build_solver(spec)


def test_wrong_number_of_sources_names_them() -> None:
    model = seeded(Heads)
    solver = mtl.build_solver({"base": "famo", "wrap": ["sage"]}, n_sources=2)
    with pytest.raises(mtl.UsageError, match=r"built for 2 sources, the objective has 3 \(a, b, c\)"):
        solver.step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
