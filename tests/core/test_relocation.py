"""Oracles that are put elsewhere: place, relocate, what they forget then, and where theta comes back to."""

from __future__ import annotations

import pytest
import torch
from problems import (
    Heads,
    One,
    domain_objective,
    seeded,
    task_objective,
)
from reference import flat, gradient
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.core.pool import Pool


def rows_of(objective: mtl.Objective) -> Tensor:
    return torch.stack([flat(gradient(loss, objective.space.parameters)) for loss in objective.losses()])


def theta(objective: mtl.Objective) -> Tensor:
    return flat([p.detach() for p in objective.space.parameters]).clone()


def losses_of(objective: mtl.Objective) -> Tensor:
    return torch.stack([loss.detach() for loss in objective.losses()])


def step(objective: mtl.Objective, seed: int = 0, size: float = 0.1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return size * torch.randn(objective.space.n_entries, dtype=torch.float64, generator=draws)


def test_place_counts_from_where_the_innermost_path_began() -> None:
    objective = domain_objective(seeded(One))
    start, first, second, third = theta(objective), *(step(objective, seed) for seed in range(3))
    with mtl.Oracle(objective).path() as there:
        there.place(first)
        assert torch.equal(theta(objective), start + first)
        there.place(second)
        assert torch.equal(theta(objective), start + second)
        there.advance(third)
        assert torch.equal(theta(objective), start + second + third)
        torch.testing.assert_close(there.jacobian().rows, rows_of(objective))
        middle = theta(objective)
        with there.path() as further:
            further.place(first)
            assert torch.equal(theta(objective), middle + first)
            further.place(torch.zeros_like(first))
            assert torch.equal(theta(objective), middle)
        there.place(first)
        assert torch.equal(theta(objective), start + first)
    assert torch.equal(theta(objective), start)


@pytest.mark.parametrize("shown", [False, True])
def test_after_a_place_nothing_of_the_old_point_is_left(shown: bool) -> None:
    objective = domain_objective(seeded(One))
    oracle = mtl.Oracle(objective)
    if shown:
        oracle = oracle.mapped(lambda rows: 2 * rows)
    factor = 2 if shown else 1
    with oracle.path() as there:
        for seed in range(3):
            there.place(step(objective, seed))
            torch.testing.assert_close(there.losses(), losses_of(objective))
            torch.testing.assert_close(there.mean_gradient(), factor * rows_of(objective).mean(0))
            torch.testing.assert_close(there.row(2)[1], factor * rows_of(objective)[2])
            torch.testing.assert_close(there.jacobian().rows, factor * rows_of(objective))
            assert torch.equal(there.probe(), there.losses())
    torch.testing.assert_close(oracle.jacobian().rows, factor * rows_of(objective))


def test_relocate_where_the_step_begins() -> None:
    objective = domain_objective(seeded(One))
    oracle, start, losses = mtl.Oracle(objective), theta(objective), losses_of(objective)
    oracle.keep_mean = True
    oracle.mean_gradient()
    for seed in range(2):
        before = theta(objective)
        oracle.relocate(step(objective, seed))
        assert torch.equal(theta(objective), before + step(objective, seed))
        torch.testing.assert_close(oracle.losses(), losses_of(objective))
        torch.testing.assert_close(oracle.mean_gradient(), rows_of(objective).mean(0))
        torch.testing.assert_close(oracle.jacobian().rows, rows_of(objective))
        torch.testing.assert_close(oracle.start_losses(), losses)
    oracle.go_home()
    assert torch.equal(theta(objective), start)


def test_relocate_before_anything_was_asked(passes) -> None:
    objective = domain_objective(passes.watch(seeded(One)), graph="joint")
    losses = losses_of(objective)
    passes.reset()
    oracle = mtl.Oracle(objective)
    oracle.relocate(step(objective))
    assert torch.equal(oracle.start_losses(), losses)
    assert passes.counts == (1, 0)
    torch.testing.assert_close(oracle.losses(), losses_of(objective))


def test_without_a_relocation_there_is_no_way_home() -> None:
    objective = domain_objective(seeded(One))
    oracle = mtl.Oracle(objective)
    objective.space.move(step(objective))
    before = theta(objective)
    oracle.go_home()
    assert torch.equal(theta(objective), before)


@pytest.mark.parametrize("shown", ["", "oracle", "path"])
def test_relocate_on_nested_paths(shown: str) -> None:
    """Every point that will be come back to moves along, and every oracle on the way forgets."""
    objective = domain_objective(seeded(One))
    start, losses = theta(objective), losses_of(objective)
    first, second, move, again = (step(objective, seed) for seed in range(4))
    double = lambda rows: 2 * rows  # noqa: E731
    oracle = mtl.Oracle(objective)
    if shown == "oracle":
        oracle = oracle.mapped(double)
    factor = 1 if shown == "" else 2
    oracle.jacobian()
    with oracle.moved(first) as there:
        if shown == "path":
            there = there.mapped(double)
        there.jacobian()
        with there.path() as further:
            further.place(second)
            further.jacobian()
            further.relocate(move)
            torch.testing.assert_close(theta(objective), start + first + second + move, rtol=0, atol=1e-15)
            torch.testing.assert_close(further.jacobian().rows, factor * rows_of(objective))
            further.relocate(again)
            torch.testing.assert_close(
                theta(objective), start + first + second + move + again, rtol=0, atol=1e-15
            )
            further.place(second)
            torch.testing.assert_close(
                theta(objective), start + first + second + move + again, rtol=0, atol=1e-15
            )
            torch.testing.assert_close(further.losses(), losses_of(objective))
            torch.testing.assert_close(further.start_losses(), losses)
        torch.testing.assert_close(theta(objective), start + first + move + again, rtol=0, atol=1e-15)
        torch.testing.assert_close(there.jacobian().rows, factor * rows_of(objective))
        torch.testing.assert_close(there.losses(), losses_of(objective))
    torch.testing.assert_close(theta(objective), start + move + again, rtol=0, atol=1e-15)
    torch.testing.assert_close(oracle.jacobian().rows, (2 if shown == "oracle" else 1) * rows_of(objective))
    torch.testing.assert_close(oracle.losses(), losses_of(objective))
    torch.testing.assert_close(oracle.start_losses(), losses)
    oracle.start.go_home()
    assert torch.equal(theta(objective), start)


def test_an_exception_after_a_relocation_leads_home_bit_for_bit() -> None:
    """In mixed precision, where what is added and taken away again would not be the same."""
    model = seeded(One, dtype=torch.bfloat16)
    model.heads.double()
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    objective = mtl.Objective(lambda: [sum((p.double() ** 2).sum() for p in parameters)] * 2, parameters)
    oracle = mtl.Oracle(objective)
    with pytest.raises(RuntimeError, match="boom"), oracle.moved(step(objective)) as there:  # noqa: PT012
        there.relocate(step(objective, 1))
        raise RuntimeError("boom")
    assert not any(torch.equal(p, s) for p, s in zip(parameters, start, strict=True))
    oracle.go_home()
    assert all(torch.equal(p, s) for p, s in zip(parameters, start, strict=True))


def test_paths_after_a_relocation_lead_back_to_the_new_theta() -> None:
    objective = domain_objective(seeded(One))
    oracle = mtl.Oracle(objective)
    start, losses = theta(objective), losses_of(objective)
    oracle.relocate(step(objective))
    moved = theta(objective)
    with oracle.moved(step(objective, 1)) as there:
        torch.testing.assert_close(there.start_losses(), losses)
        assert torch.equal(theta(objective), moved + step(objective, 1))
    assert torch.equal(theta(objective), moved)
    oracle.go_home()
    assert torch.equal(theta(objective), start)


def test_every_loss_of_a_step_is_seen_where_it_began() -> None:
    """Also those after a relocation, or of an oracle that is shown."""
    objective = domain_objective(seeded(One))
    oracle = mtl.Oracle(objective)
    expected = [losses_of(objective)]
    oracle.losses()
    with oracle.mapped(lambda rows: rows * 2).moved(step(objective)) as there:
        there.jacobian()
        expected.append(losses_of(objective))
        there.relocate(step(objective, 1))
        there.probe()
        expected.append(losses_of(objective))
    oracle.losses()
    expected.append(losses_of(objective))
    seen = torch.cat([each.losses for each in oracle.seen])
    torch.testing.assert_close(seen, torch.cat(expected))


def test_a_kept_mean_gradient_costs_one_pass_and_is_a_copy(passes) -> None:
    objective = task_objective(passes.watch(seeded(Heads)))
    expected = rows_of(objective).mean(0)
    passes.reset()
    oracle = mtl.Oracle(objective)
    oracle.keep_mean = True
    for _ in range(3):
        found = oracle.mean_gradient()
        torch.testing.assert_close(found, expected)
        found.zero_()
    assert passes.counts == (1, 1)
    with oracle.moved(0.1 * expected) as there:
        torch.testing.assert_close(there.mean_gradient(), rows_of(objective).mean(0))
        assert not there.keep_mean
    torch.testing.assert_close(oracle.mean_gradient(), expected)


def test_shift_moves_the_points_to_come_back_to() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    space, pool = mtl.ParameterSpace([p]), Pool()
    with space.restored(pool):
        space.move(torch.tensor([0.5, 0.5]))
        with space.restored(pool):
            space.move(torch.tensor([8.0, 8.0]))
            space.shift(torch.tensor([16.0, 0.0]))
            assert p.tolist() == [25.5, 10.5]
        assert p.tolist() == [17.5, 2.5]
    assert p.tolist() == [17.0, 2.0]
    assert space.anchors == []
    space.shift(torch.tensor([1.0, 1.0]))
    assert p.tolist() == [18.0, 3.0]
