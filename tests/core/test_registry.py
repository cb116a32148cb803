"""Registry: names, schemas, plugins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest

import mtlsuite as mtl
from mtlsuite.core import registry
from mtlsuite.core.types import Count, Fraction, Positive


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch):
    """Names registered in a test are forgotten after it."""
    monkeypatch.setattr(
        registry, "_classes", {kind: dict(names) for kind, names in registry._classes.items()}
    )
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()


class Thing:
    def __init__(
        self, size: Count, rate: Positive = 1.0, share: Fraction = 0.5, mode: Literal["a", "b"] = "a"
    ) -> None:
        self.size, self.rate, self.share, self.mode = size, rate, share, mode


def test_register_and_build() -> None:
    thing = mtl.register("metric", "thing")(type("Thing", (Thing,), {"__init__": Thing.__init__}))
    assert thing.name == "thing"
    assert registry.lookup("metric", "thing") is thing
    built = registry.build("metric", {"name": "thing", "size": 3, "rate": 2}, unasked="x")
    assert (built.size, built.rate, built.share) == (3, 2.0, 0.5)
    assert "thing" in registry.registered("metric")


def test_two_classes_cannot_share_a_name() -> None:
    mtl.register("metric", "taken")(type("First", (), {}))
    with pytest.raises(mtl.UsageError, match=r"'taken' is taken by .*First"):
        mtl.register("metric", "taken")(type("Second", (), {}))
    with pytest.raises(mtl.UsageError, match="taken by mtlsuite"):
        mtl.register("solver", "equal")(type("Equal", (mtl.Solver,), {}))


def test_the_same_name_may_serve_two_kinds() -> None:
    a, b = type("A", (), {}), type("B", (), {})
    mtl.register("metric", "both")(a)
    mtl.register("model", "both")(b)
    assert registry.lookup("metric", "both") is a
    assert registry.lookup("model", "both") is b


def test_unknown_kind() -> None:
    with pytest.raises(mtl.UsageError, match=r"unknown kind 'solvr'; did you mean 'solver'\?.*wrapper"):
        mtl.register("solvr", "x")


def test_unknown_name_lists_the_allowed_and_the_nearest() -> None:
    with pytest.raises(
        mtl.UsageError, match=r"unknown solver 'nash_mlt'; did you mean 'nash_mtl'\?.*equal, famo"
    ):
        registry.lookup("solver", "nash_mlt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'size' is required"),
        ({"size": 0}, "size.*found 0"),
        ({"size": 1.5}, "size.*found 1.5"),
        ({"size": "3"}, "size.*found '3'"),
        ({"size": True}, "size.*found True"),
        ({"size": 1, "rate": 0.0}, "rate.*greater than 0, found 0.0"),
        ({"size": 1, "share": 1.5}, "share.*less than or equal to 1"),
        ({"size": 1, "mode": "c"}, "mode.*'a' or 'b', found 'c'"),
        ({"size": 1, "mdoe": "a"}, "unknown option 'mdoe'; did you mean 'mode'"),
    ],
)
def test_bad_options_name_option_found_and_allowed(options: dict, message: str) -> None:
    mtl.register("metric", "thing")(type("Thing", (Thing,), {"__init__": Thing.__init__}))
    with pytest.raises(mtl.UsageError, match=f"thing: .*{message}"):
        registry.build("metric", {"name": "thing", **options})


@pytest.mark.parametrize("spec", [None, 3, [], {"nam": "equal"}, {"name": 3}, {"name": None}])
def test_bad_specs(spec: object) -> None:
    with pytest.raises(mtl.UsageError, match="name"):
        registry.build("solver", spec)


def test_plugins_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    class Plugged(mtl.Equal):
        pass

    def load() -> None:
        loads.append(1)
        mtl.register("solver", "plugged")(Plugged)

    asked = []

    def entry_points(group: str):
        asked.append(group)
        return [SimpleNamespace(name="mine", value="mine:module", load=load)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    solver = mtl.build_solver({"base": "plugged", "wrap": ["sage"]}, n_sources=2)
    assert isinstance(solver.inner, Plugged)
    mtl.build_solver("plugged")
    assert (loads, asked) == ([1], ["mtlsuite.plugins"])


def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("no module named nowhere")

    point = SimpleNamespace(name="broken_one", value="nowhere:thing", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])  # noqa: ARG005
    with pytest.raises(Exception, match="broken_one") as caught:
        mtl.build_solver("equal")
    assert "nowhere" in str(caught.value)


def test_a_registered_subclass_without_init_is_checked_too() -> None:
    mine = mtl.register("solver", "mine")(type("Mine", (mtl.NashMTL,), {}))
    assert mine(update_weights_every=2).update_weights_every == 2
    with pytest.raises(mtl.UsageError, match="update_weights_every"):
        mine(update_weights_every=-1)
    with pytest.raises(mtl.UsageError, match="update_weights_every"):
        mtl.build_solver({"base": {"name": "mine", "update_weights_every": -1}})
