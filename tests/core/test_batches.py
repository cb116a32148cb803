"""Task, domain, view and product objectives."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from problems import (
    TASKS,
    Heads,
    One,
    domain_batches,
    domain_objective,
    mse,
    seeded,
    task_batch,
    task_objective,
)
from reference import flat, gradient
from torch import Tensor, nn

import mtlsuite as mtl


def rows(objective: mtl.Objective) -> Tensor:
    return mtl.Oracle(objective).jacobian().rows


def by_hand(losses: list[Tensor], objective: mtl.Objective) -> Tensor:
    return torch.stack([flat(gradient(loss, objective.space.parameters)) for loss in losses])


def product_objective(model: nn.Module, graph: str = "auto", sizes=(4, 3), **kwargs) -> mtl.ProductObjective:
    batches = [task_batch(d, size) for d, size in enumerate(sizes)]
    return mtl.ProductObjective(model, batches, dict.fromkeys(TASKS, mse), graph=graph, **kwargs)


def test_task_objective() -> None:
    model = seeded(Heads)
    objective = task_objective(model)
    inputs, targets = task_batch(0)
    losses = [mse(model(inputs)[t], targets[t]) for t in TASKS]
    torch.testing.assert_close(rows(objective), by_hand(losses, objective))
    assert objective.names == ("a", "b", "c")
    assert objective.space.n_shared == sum(p.numel() for p in model.trunk.parameters())


@pytest.mark.parametrize("graph", ["joint", "separate", "auto"])
def test_domain_objective(graph: str) -> None:
    """Minibatches of different sizes; a source is the mean over its own."""
    model = seeded(One)
    objective = domain_objective(model, graph=graph)
    losses = [mse(model(x), y) for x, y in domain_batches(0)]
    torch.testing.assert_close(rows(objective), by_hand(losses, objective), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(torch.stack(list(objective.losses())), torch.stack(losses))
    assert [objective.source(k).item() for k in range(4)] == pytest.approx([loss.item() for loss in losses])
    assert objective.names == ("0", "1", "2", "3")
    assert objective.space.n_shared == objective.space.n_entries


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_product_objective(graph: str) -> None:
    model = seeded(Heads)
    objective = product_objective(model, graph, names=["day", "night"])
    batches = [task_batch(0, 4), task_batch(1, 3)]
    losses = [mse(model(x)[t], y[t]) for x, y in batches for t in TASKS]
    torch.testing.assert_close(rows(objective), by_hand(losses, objective), rtol=1e-12, atol=1e-13)
    assert objective.names == ("day/a", "day/b", "day/c", "night/a", "night/b", "night/c")
    assert objective.space.n_entries == sum(p.numel() for p in model.parameters())
    assert objective.source(4).item() == pytest.approx(losses[4].item())


def test_product_of_one_domain_is_the_task_objective() -> None:
    model = seeded(Heads)
    grid = mtl.ProductObjective(model, [task_batch(0)], dict.fromkeys(TASKS, mse))
    assert torch.equal(rows(grid), rows(task_objective(model)))


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_view_objective_draws_the_views_once(graph: str) -> None:
    model = seeded(One)
    ((inputs, targets),) = domain_batches(0, sizes=(5,))
    calls = []

    def shifted(by: float):
        return lambda x: calls.append(by) or x + by

    objective = mtl.ViewObjective(
        model, inputs, targets, [shifted(0.0), shifted(1.0)], mse, ["plain", "bright"], graph=graph
    )
    mtl.SAGE(mtl.FAMO()).step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    assert calls == [0.0, 1.0]
    losses = [mse(model(inputs + by), targets) for by in (0.0, 1.0)]
    torch.testing.assert_close(rows(objective), by_hand(losses, objective), rtol=1e-12, atol=1e-13)
    assert objective.names == ("plain", "bright")


@pytest.mark.parametrize("make", [domain_objective, None])
def test_auto_is_joint_only_under_moving_batch_norm(passes, make) -> None:
    for norm, training, joint in [
        (lambda: nn.BatchNorm2d(3), True, True),
        (lambda: nn.BatchNorm2d(3), False, False),
        (lambda: nn.GroupNorm(1, 3), True, False),
    ]:
        kind = One if make else Heads
        model = passes.watch(seeded(lambda kind=kind, norm=norm: kind(norm())).train(training))
        objective = make(model, sizes=(3, 3)) if make else product_objective(model)
        passes.reset()
        rows(objective)
        assert passes.forwards == (1 if joint else 2)


def test_joint_batch_norm_uses_the_statistics_of_all_minibatches() -> None:
    model = seeded(lambda: One(nn.BatchNorm2d(3)))
    objective = domain_objective(model)
    found = rows(objective)
    batches = objective.minibatches
    predictions = model(torch.cat([x for x, _ in batches])).split([len(x) for x, _ in batches])
    losses = [mse(p, y) for p, (_, y) in zip(predictions, batches, strict=True)]
    torch.testing.assert_close(found, by_hand(losses, objective))


class Wrapped(nn.Module):
    """A model that takes and gives mappings or sequences."""

    def __init__(self, net: Heads, form: type) -> None:
        super().__init__()
        self.net, self.form = net, form

    def forward(self, inputs):
        image = inputs["image"] if isinstance(inputs, dict) else inputs[0]
        bias = inputs["bias"] if isinstance(inputs, dict) else inputs[1]
        predictions = self.net(image + bias)
        return predictions if self.form is dict else self.form(predictions.values())


@pytest.mark.parametrize("inputs", [dict, tuple, list])
@pytest.mark.parametrize("form", [dict, list, tuple])
@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_mappings_and_sequences(inputs: type, form: type, graph: str) -> None:
    net = seeded(Heads)
    batches = []
    for d in range(2):
        x, y = task_batch(d, 3 + d)
        bias = torch.ones(len(x), 1, 1, 1, dtype=torch.float64)
        parts = {"image": x - 1, "bias": bias}
        batches.append(
            (parts if inputs is dict else inputs(parts.values()), y if form is dict else form(y.values()))
        )
    criteria = dict.fromkeys(TASKS, mse) if form is dict else form([mse] * 3)
    objective = mtl.ProductObjective(Wrapped(net, form), batches, criteria, graph=graph)
    expected = [mse(net(x)[t], y[t]) for x, y in (task_batch(d, 3 + d) for d in range(2)) for t in TASKS]
    torch.testing.assert_close(rows(objective), by_hand(expected, objective), rtol=1e-12, atol=1e-13)
    assert objective.names[0] == ("0/a" if form is dict else "0/0")


def test_a_batch_is_freed_with_its_objective() -> None:
    """Without waiting for the garbage collector: batches and graphs are large."""
    model = seeded(Heads)
    gc.disable()
    try:
        for solver in (mtl.Equal(), mtl.FAMO(), mtl.SAGE(mtl.NashMTL())):
            objective = task_objective(model)
            batch = weakref.ref(objective.minibatches[0][0])
            solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
            del objective
            assert batch() is None
    finally:
        gc.enable()


def test_errors_when_made() -> None:
    model, one = Heads().double(), One().double()
    inputs, targets = task_batch(0)
    criteria = dict.fromkeys(TASKS, mse)
    batches = domain_batches(0)
    cases = [
        (lambda: mtl.DomainObjective(one, [], mse), "at least one"),
        (lambda: mtl.ProductObjective(model, [], criteria), "at least one"),
        (lambda: mtl.ViewObjective(one, inputs, targets, [], mse), "at least one"),
        (lambda: mtl.TaskObjective(model, inputs, targets, {}), "at least one task"),
        (lambda: mtl.DomainObjective(one, batches, mse, ["x", "y"]), "2 names for 4 minibatches"),
        (lambda: mtl.DomainObjective(one, batches, mse, list("xyzx")), "two sources are named 'x'"),
        (lambda: product_objective(model, names=["x", "x"]), "two sources are named 'x/a'"),
        (lambda: mtl.DomainObjective(one, batches, mse, graph="both"), "unknown graph 'both'"),
        (lambda: mtl.TaskObjective(model, inputs, targets, {"a": mse}), "3 tasks, criteria for 1"),
    ]
    for make, message in cases:
        with pytest.raises(mtl.UsageError, match=message):
            make()


def test_errors_when_evaluated() -> None:
    model, one = Heads().double(), One().double()
    inputs, targets = task_batch(0)
    partial = {"a": targets["a"], "b": targets["b"]}
    other = {"a": mse, "b": mse, "depth": mse}
    x, y = domain_batches(0)[0]
    cases = [
        (
            lambda: mtl.TaskObjective(model, inputs, partial, dict.fromkeys(TASKS, mse)),
            "no target.*'c'.*a, b",
        ),
        (lambda: mtl.TaskObjective(model, inputs, targets, other), "no prediction.*'depth'.*a, b, c"),
        (
            lambda: mtl.TaskObjective(model, inputs, targets["a"], dict.fromkeys(TASKS, mse)),
            "one target a task",
        ),
        (lambda: mtl.TaskObjective(one, x, {"a": y}, {"a": mse}), "one prediction a task"),
        (lambda: mtl.TaskObjective(model, inputs, None, dict.fromkeys(TASKS, mse)), "target"),
        (
            lambda: mtl.DomainObjective(one, [(x, y), (x[..., :3], y)], mse, graph="joint"),
            "cannot be concatenated",
        ),
        (lambda: mtl.DomainObjective(one, [(x, y)], lambda p, t: (p - t) ** 2), "not a scalar"),
    ]
    for make, message in cases:
        with pytest.raises(mtl.UsageError, match=message):
            mtl.Oracle(make()).losses()


def test_a_nan_names_its_domain() -> None:
    model = seeded(One)
    for graph in ("joint", "separate"):
        batches = domain_batches(0)
        batches[2][1].fill_(float("nan"))
        objective = mtl.DomainObjective(model, batches, mse, ["photo", "art", "sketch", "toon"], graph)
        with pytest.raises(mtl.NonFiniteError, match="'sketch'"):
            mtl.SAGE(mtl.Equal()).step(objective, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("tracks", [True, False])
def test_auto_is_joint_where_the_statistics_are_those_of_the_batch(tracks: bool) -> None:
    """Also in evaluation mode, where there are no running ones; all solvers then see the same losses."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=tracks)).double().eval()
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(5, 4, dtype=torch.float64, generator=generator) + d, None) for d in range(2)]
    batches = [(inputs, inputs[:, :3]) for inputs, _ in batches]
    objective = mtl.DomainObjective(model, batches, mse)
    first, second = mtl.Oracle(objective), mtl.Oracle(objective)
    second.jacobian()
    torch.testing.assert_close(first.losses(), second.losses(), rtol=1e-12, atol=0)
    assert len(objective.graphs) == (2 if tracks else 1)


class Picky(nn.Module):
    """Takes mappings or tuples, and looks at more than samples in them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, inputs: dict | tuple) -> Tensor:
        found = self.layer(inputs["x"] if isinstance(inputs, dict) else inputs[0])
        return found @ inputs[1].T if isinstance(inputs, tuple) and len(inputs) == 2 else found


CONTEXT = torch.arange(6, dtype=torch.float64).view(2, 3)
NOT_TO_BE_JOINED = {
    "text": lambda d, x: {"x": x, "domain": f"domain {d}"},
    "number": lambda d, x: {"x": x, "domain": d},
    "none": lambda d, x: {"x": x, "mask": None},  # noqa: ARG005
    "none in some": lambda d, x: {"x": x, "mask": x if d else None},
    "other keys": lambda d, x: {"x": x, f"only {d}": x},
    "other lengths": lambda d, x: (x,) * (3 + d),
    "other dtypes": lambda d, x: (x, x, x.float() if d else x),
    "no samples": lambda d, x: (x, CONTEXT),  # noqa: ARG005
    "scalar": lambda d, x: {"x": x, "temperature": torch.tensor(1.0 + d)},
}


@pytest.mark.parametrize("name", NOT_TO_BE_JOINED)
def test_auto_joins_only_minibatches_of_samples(name: str) -> None:
    model = seeded(Picky)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    batches = [(NOT_TO_BE_JOINED[name](d, x), torch.zeros(5)) for d, x in enumerate(inputs)]
    objective = mtl.DomainObjective(model, batches, lambda p, _: p.square().mean())
    expected = [model(x).square().mean() for x, _ in batches]
    assert objective.joint is None
    torch.testing.assert_close(mtl.Oracle(objective).losses(), torch.stack(expected).detach())


@pytest.mark.parametrize("predict", [lambda x: x.sum(), lambda x: x.flatten(), lambda x: {"y": x, "z": None}])
def test_predictions_of_a_joint_graph_that_cannot_be_split(predict) -> None:
    model = seeded(One)
    model.forward = lambda x, forward=model.forward: predict(forward(x))
    with pytest.raises(mtl.UsageError, match=r"a prediction for each of their .* graph='separate'"):
        mtl.Oracle(domain_objective(model)).losses()


@pytest.mark.parametrize(
    "target",
    [["a", "b", "c"], "text", 3, [{"boxes": torch.zeros(n, 4)} for n in (0, 2, 1)]],
    ids=["texts", "text", "number", "boxes"],
)
def test_targets_of_any_form_are_there(target: object) -> None:
    """Their first part may be empty, or hold no samples at all."""
    inputs = torch.ones(3, 4, dtype=torch.float64)
    objective = mtl.DomainObjective(seeded(Picky), [({"x": inputs}, target)] * 2, lambda p, _: p.mean())
    assert (objective.counts, objective.absent) == ([3, 3], frozenset())
