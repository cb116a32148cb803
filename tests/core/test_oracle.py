"""The oracle: what it answers, when it evaluates, and where it stands."""

from __future__ import annotations

import weakref

import pytest
import torch
from problems import Heads, One, domain_objective, seeded, task_objective
from reference import flat, gradient
from torch import Tensor

import mtlsuite as mtl


def expected_rows(objective: mtl.Objective) -> Tensor:
    return torch.stack([flat(gradient(loss, objective.space.parameters)) for loss in objective.losses()])


@pytest.mark.parametrize("jacobian_first", [True, False])
@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_answers(graph: str, jacobian_first: bool) -> None:
    objective = domain_objective(seeded(One), graph=graph)
    rows = expected_rows(objective)
    oracle = mtl.Oracle(objective)
    if jacobian_first:
        torch.testing.assert_close(oracle.jacobian().rows, rows)
    weights = torch.tensor([0.5, -1.0, 2.0, 0.0])
    torch.testing.assert_close(oracle.pullback(weights), weights.double() @ rows)
    torch.testing.assert_close(oracle.pullback(weights.tolist()), weights.double() @ rows)
    torch.testing.assert_close(oracle.mean_gradient(), rows.mean(0))
    losses = torch.stack([loss.detach() for loss in objective.losses()])
    torch.testing.assert_close(oracle.losses(), losses)
    torch.testing.assert_close(oracle.probe(), losses)
    torch.testing.assert_close(oracle.start_losses(), losses)
    torch.testing.assert_close(oracle.jacobian().rows, rows)
    assert (oracle.n_sources, oracle.names) == (4, ("0", "1", "2", "3"))
    assert not oracle.losses().requires_grad


ASKED = {
    "losses": (lambda o: o.losses(), (1, 0)),
    "losses twice": (lambda o: (o.losses(), o.losses()), (1, 0)),
    "losses, pullback": (lambda o: (o.losses(), o.pullback([1.0] * 3)), (1, 1)),
    "pullback, losses": (lambda o: (o.pullback([1.0] * 3), o.losses()), (1, 1)),
    "mean": (lambda o: o.mean_gradient(), (1, 1)),
    "jacobian": (lambda o: o.jacobian(), (1, 3)),
    "losses, jacobian, pullback": (lambda o: (o.losses(), o.jacobian(), o.pullback([1.0] * 3)), (1, 3)),
    "jacobian, mean, start": (lambda o: (o.jacobian(), o.mean_gradient(), o.start_losses()), (1, 3)),
    "probe, start": (lambda o: (o.probe(), o.start_losses()), (1, 0)),
    "n_sources, names": (lambda o: (o.n_sources, o.names), (0, 0)),
}


@pytest.mark.parametrize("asked", ASKED)
def test_costs(passes, asked: str) -> None:
    ask, expected = ASKED[asked]
    ask(mtl.Oracle(task_objective(passes.watch(seeded(Heads)))))
    assert passes.counts == expected


def test_a_pullback_is_the_callers() -> None:
    oracle = mtl.Oracle(task_objective(seeded(Heads)))
    for ask in (lambda: oracle.pullback([1.0, 2.0, 3.0]), oracle.mean_gradient):
        first = ask()
        expected = first.clone()
        first.zero_()
        torch.testing.assert_close(ask(), expected)
        oracle.jacobian()
        first = ask()
        first.zero_()
        torch.testing.assert_close(ask(), expected)


def test_moved() -> None:
    model = seeded(Heads)
    objective = task_objective(model)
    oracle = mtl.Oracle(objective)
    start = [p.detach().clone() for p in model.parameters()]
    here = oracle.losses().clone()
    displacement = 0.1 * oracle.mean_gradient()
    with oracle.moved(displacement) as there:
        for p, s, e in zip(
            objective.space.parameters, start, objective.space.views(displacement), strict=True
        ):
            assert torch.equal(p.detach(), s + e)
        torch.testing.assert_close(there.jacobian().rows, expected_rows(objective))
        assert torch.equal(there.start_losses(), here)
        assert not torch.equal(there.losses(), here)
        with there.moved(displacement) as further:
            assert torch.equal(further.start_losses(), here)
            torch.testing.assert_close(further.jacobian().rows, expected_rows(objective))
        torch.testing.assert_close(there.jacobian().rows, expected_rows(objective))
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))
    torch.testing.assert_close(oracle.jacobian().rows, expected_rows(objective))
    assert torch.equal(oracle.losses(), here)


def test_start_losses_are_those_of_the_start_even_if_nobody_asked_there() -> None:
    objective = task_objective(seeded(Heads))
    expected = mtl.Oracle(objective).losses()
    with mtl.Oracle(objective).moved(torch.full((131,), 0.1, dtype=torch.float64)) as there:
        assert torch.equal(there.start_losses(), expected)
        assert not torch.equal(there.losses(), expected)


def test_mapped() -> None:
    model = seeded(Heads)
    objective = task_objective(model)
    rows = expected_rows(objective)
    oracle = mtl.Oracle(objective)
    flipped = oracle.mapped(lambda r: -2 * r.flip(0))
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(flipped.jacobian().rows, -2 * rows.flip(0))
    torch.testing.assert_close(flipped.pullback(weights), weights @ (-2 * rows.flip(0)))
    torch.testing.assert_close(flipped.mean_gradient(), -2 * rows.mean(0))
    assert torch.equal(flipped.losses(), oracle.losses())
    assert flipped.n_sources == 3
    twice = flipped.mapped(lambda r: r + 1)
    torch.testing.assert_close(twice.jacobian().rows, -2 * rows.flip(0) + 1)
    with flipped.moved(torch.full((rows.shape[1],), 0.01, dtype=torch.float64)) as there:
        torch.testing.assert_close(there.jacobian().rows, -2 * expected_rows(objective).flip(0))
        assert torch.equal(there.start_losses(), oracle.losses())


@pytest.mark.parametrize("weights", [[1.0], [1.0] * 4, torch.ones(3, 1), 1.0])
@pytest.mark.parametrize("jacobian_first", [True, False])
def test_wrong_number_of_weights(weights, jacobian_first: bool) -> None:
    oracle = mtl.Oracle(task_objective(seeded(Heads)))
    if jacobian_first:
        oracle.jacobian()
    with pytest.raises(mtl.UsageError, match="3 weights"):
        oracle.pullback(weights)


def test_graphs_are_freed_one_after_the_other() -> None:
    """With graphs of their own, at most one source's activations live at a time."""
    alive, most = set(), []
    model = seeded(One)

    def watch(_module, _inputs, output: Tensor) -> None:
        alive.add(id(output))
        weakref.finalize(output, alive.discard, id(output))
        most.append(len(alive))

    model.trunk.register_forward_hook(watch)
    for ask in (lambda o: o.jacobian(), lambda o: o.mean_gradient()):
        ask(mtl.Oracle(domain_objective(model, graph="separate")))
    assert max(most) == 1


def test_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        objective = task_objective(seeded(Heads))
        oracle = mtl.Oracle(objective)
        found = oracle.jacobian().rows
    torch.testing.assert_close(found, expected_rows(objective))


def test_autocast_losses() -> None:
    model = seeded(Heads, dtype=torch.float32)
    inner = task_objective(model, dtype=torch.float32)

    def losses():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return inner.losses()

    objective = mtl.Objective(losses, model.shared_parameters(), model.specific_parameters())
    solver = mtl.SAGE(mtl.NashMTL())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first = solver.step(objective, optimizer).losses.sum()
    for _ in range(10):
        last = solver.step(objective, optimizer).losses.sum()
    assert last < first
