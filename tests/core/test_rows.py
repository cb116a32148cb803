"""Single rows, rows that are shown, further minibatches, and the parts of objectives they rest on."""

from __future__ import annotations

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
)
from reference import flat, gradient
from torch import Tensor, nn

import mtlsuite as mtl


def rows_of(objective: mtl.Objective) -> Tensor:
    return torch.stack([flat(gradient(loss, objective.space.parameters)) for loss in objective.losses()])


def losses_of(objective: mtl.Objective) -> Tensor:
    return torch.stack([loss.detach() for loss in objective.losses()])


def step(objective: mtl.Objective, seed: int = 0, size: float = 0.1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return size * torch.randn(objective.space.n_entries, dtype=torch.float64, generator=draws)


@pytest.mark.parametrize("graph", ["joint", "separate"])
@pytest.mark.parametrize("before", ["nothing", "losses", "jacobian", "another row"])
def test_row(graph: str, before: str) -> None:
    objective = domain_objective(seeded(One), graph=graph)
    expected, losses = rows_of(objective), losses_of(objective)
    for k in range(4):
        oracle = mtl.Oracle(objective)
        if before == "losses":
            oracle.losses()
        elif before == "jacobian":
            oracle.jacobian()
        elif before == "another row":
            oracle.row((k + 1) % 4)
        loss, row = oracle.row(k)
        assert loss.shape == ()
        assert not loss.requires_grad
        torch.testing.assert_close(loss, losses[k], rtol=1e-12, atol=0)
        torch.testing.assert_close(row, expected[k], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(oracle.losses(), losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(oracle.jacobian().rows, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("graph", "asked", "expected"),
    [
        ("joint", lambda o: o.row(1), ([18], 1)),
        ("joint", lambda o: (o.losses(), o.row(1)), ([18], 1)),  # the graph that waits is used
        ("joint", lambda o: (o.row(1), o.losses()), ([18], 1)),  # and its losses are known
        ("joint", lambda o: (o.row(1), o.row(2)), ([18, 18], 2)),
        ("separate", lambda o: o.row(1), ([6], 1)),
        ("separate", lambda o: (o.losses(), o.row(1)), ([4, 6, 5, 3], 1)),
        ("separate", lambda o: (o.row(3), o.row(0)), ([3, 4], 2)),
    ],
)
def test_what_a_row_costs(passes, graph: str, asked, expected: tuple[list[int], int]) -> None:
    asked(mtl.Oracle(domain_objective(passes.watch(seeded(One)), graph=graph)))
    assert (passes.sizes, passes.backwards) == expected


def test_a_row_of_a_grid_of_domains_and_tasks() -> None:
    model = seeded(Heads)
    batches = [task_batch(d, 4) for d in range(2)]
    objective = mtl.ProductObjective(model, batches, dict.fromkeys(TASKS, mse), graph="separate")
    expected, oracle = rows_of(objective), mtl.Oracle(objective)
    for k in (5, 0, 3):
        torch.testing.assert_close(oracle.row(k)[1], expected[k], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_a_row_that_is_not_there(graph: str) -> None:
    with pytest.raises(IndexError):
        mtl.Oracle(domain_objective(seeded(One), graph=graph)).row(4)


def test_the_first_row_moves_the_statistics_and_no_other() -> None:
    ours, plain = (seeded(lambda: One(nn.BatchNorm2d(3))) for _ in range(2))
    objective = domain_objective(ours)
    oracle = mtl.Oracle(objective)
    for k in range(4):
        oracle.row(k)
    oracle.jacobian()
    plain(torch.cat([x for x, _ in objective.minibatches]))
    for mine, theirs in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=0)


def test_shown_losses() -> None:
    objective = domain_objective(seeded(One))

    def measure(origin: mtl.Oracle) -> mtl.Jacobian:
        return mtl.Jacobian(3 * origin.jacobian().rows, origin.space.n_shared, 5 + origin.losses())

    oracle = mtl.Oracle(objective)
    shown, silent = oracle.shown(measure, measures_losses=True), oracle.shown(measure)
    torch.testing.assert_close(shown.losses(), 5 + losses_of(objective))
    torch.testing.assert_close(shown.probe(), 5 + losses_of(objective))
    torch.testing.assert_close(shown.row(1)[0], 5 + losses_of(objective)[1])
    torch.testing.assert_close(silent.losses(), losses_of(objective))
    torch.testing.assert_close(silent.probe(), losses_of(objective))
    torch.testing.assert_close(silent.row(1)[0], losses_of(objective)[1])
    for each in (shown, silent):
        torch.testing.assert_close(each.row(1)[1], 3 * rows_of(objective)[1])
        torch.testing.assert_close(each.source_gradient(2), 3 * rows_of(objective)[2])
        torch.testing.assert_close(
            each.pullback([1.0, 2.0, 0.0, 0.0]), 3 * (rows_of(objective)[0] + 2 * rows_of(objective)[1])
        )
        assert torch.equal(each.start_losses(), losses_of(objective))
    with shown.moved(step(objective)) as there:
        torch.testing.assert_close(there.losses(), 5 + losses_of(objective))
        with there.path() as further:
            further.place(step(objective, 1))
            torch.testing.assert_close(further.losses(), 5 + losses_of(objective))
            torch.testing.assert_close(further.jacobian().rows, 3 * rows_of(objective))


def test_a_row_of_a_shown_oracle_is_the_callers() -> None:
    objective = domain_objective(seeded(One))
    shown = mtl.Oracle(objective).mapped(lambda rows: rows.clone())
    for ask in (lambda: shown.row(0)[1], lambda: shown.source_gradient(0), shown.mean_gradient):
        expected = ask().clone()
        ask().zero_()
        torch.testing.assert_close(ask(), expected)


def shifted(draw: int, n: int = 2) -> list:
    return domain_batches(50 + draw, (3, 4, 2)[:n])


def views_of(batch):
    return [(view(batch[0]), batch[1]) for view in VIEWS]


VIEWS = [lambda x: x, lambda x: x + 1]
MORE = {
    "domain": (
        One,
        lambda m, more: mtl.DomainObjective(m, shifted(0), mse, more=more),
        shifted,
        lambda m, batches: [mse(m(x), y) for x, y in batches],
    ),
    "joint domain": (
        One,
        lambda m, more: mtl.DomainObjective(m, shifted(0), mse, graph="joint", more=more),
        shifted,
        lambda m, batches: [mse(m(x), y) for x, y in batches],
    ),
    "view": (
        One,
        lambda m, more: mtl.ViewObjective(m, *shifted(0)[0], VIEWS, mse, more=more),
        lambda draw: views_of(shifted(draw)[0]),
        lambda m, batches: [mse(m(x), y) for x, y in batches],
    ),
    "task": (
        Heads,
        lambda m, more: mtl.TaskObjective(m, *task_batch(0), dict.fromkeys(TASKS, mse), more=more),
        lambda draw: [task_batch(draw, 3 + draw)],
        lambda m, batches: [mse(m(x)[t], y[t]) for x, y in batches for t in TASKS],
    ),
    "product": (
        Heads,
        lambda m, more: mtl.ProductObjective(
            m, [task_batch(0), task_batch(9)], dict.fromkeys(TASKS, mse), names=["x", "y"], more=more
        ),
        lambda draw: [task_batch(draw, 3), task_batch(draw + 20, 2)],
        lambda m, batches: [mse(m(x)[t], y[t]) for x, y in batches for t in TASKS],
    ),
}


@pytest.mark.parametrize("kind", MORE)
def test_redrawn(kind: str) -> None:
    make, objective_of, more, by_hand = MORE[kind]
    model = seeded(make)
    objective = objective_of(model, more)
    here = rows_of(objective)
    oracle = mtl.Oracle(objective)
    for draw in (1, 2, 1):
        other = oracle.redrawn(draw)
        expected = torch.stack(
            [flat(gradient(loss, objective.space.parameters)) for loss in by_hand(model, more(draw))]
        )
        assert other.names == objective.names
        assert other.start is oracle
        torch.testing.assert_close(other.jacobian().rows, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(other.source_gradient(1), expected[1], rtol=1e-12, atol=1e-14)
        doubled = oracle.mapped(lambda rows: 2 * rows).redrawn(draw)
        torch.testing.assert_close(doubled.source_gradient(1), 2 * expected[1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(rows_of(objective), here)
    torch.testing.assert_close(oracle.jacobian().rows, here)


@pytest.mark.parametrize("kind", MORE)
def test_redrawn_without_a_supply(kind: str) -> None:
    make, objective_of, _, _ = MORE[kind]
    with pytest.raises(mtl.UsageError, match=r"minibatches.*number 3.*more="):
        mtl.Oracle(objective_of(seeded(make), None)).redrawn(3)


def test_a_plain_objective_has_no_further_minibatches() -> None:
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(mtl.UsageError, match=r"^Objective .*more="):
        mtl.Objective(lambda: [p.sum()], [p]).redrawn(1)


@pytest.mark.parametrize("found", [0, 1, 3])
def test_redrawn_of_another_length(found: int) -> None:
    objective = mtl.DomainObjective(seeded(One), shifted(0), mse, more=lambda draw: shifted(draw, found))
    with pytest.raises(mtl.UsageError, match=rf"more\(2\) gave {found} minibatches, the step has 2"):
        objective.redrawn(2)


def test_redrawn_leaves_batch_norm_alone() -> None:
    model = seeded(lambda: One(nn.BatchNorm2d(3)))
    objective = mtl.DomainObjective(model, shifted(0), mse, more=shifted)
    oracle = mtl.Oracle(objective)
    oracle.losses()
    before = objective.statistics()
    other = oracle.redrawn(1)
    other.jacobian()
    other.source_gradient(0)
    for buffer, value in before.items():
        assert torch.equal(buffer, value)


def test_own_views() -> None:
    shared, a, b, both = (nn.Parameter(torch.randn(shape)) for shape in ((2, 3), (4,), (1, 2), (3,)))
    space = mtl.ParameterSpace([shared], [[a, both], [], [both, b]])
    vector = torch.arange(15.0)
    named = {"shared": 0, "a": 6, "both": 10, "b": 13}
    found = [[view.flatten().tolist() for view in space.own_views(vector, k)] for k in range(3)]
    pieces = {
        name: vector[at : at + n].tolist() for (name, at), n in zip(named.items(), (6, 4, 3, 2), strict=True)
    }
    assert found == [[pieces["a"], pieces["both"]], [], [pieces["both"], pieces["b"]]]
    assert space.own_views(vector, 2)[1].shape == (1, 2)
    space.own_views(vector, 0)[0].fill_(-1)
    assert vector[6:10].tolist() == [-1] * 4
    frozen = b.requires_grad_(False)
    assert mtl.ParameterSpace([shared], [[a], [frozen]]).own_views(torch.zeros(10), 1) == []


def test_own_views_where_everything_is_shared() -> None:
    space = mtl.ParameterSpace([nn.Parameter(torch.randn(3))])
    assert space.own_views(torch.zeros(3), 5) == []


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (["*"], []),
        ([], [0, 1, 2, 3, 4, 5]),
        (["trunk.*"], [4, 5]),
        (["*.bias"], [0, 2, 4]),
        (["trunk.[0-3].*", "heads.only.weight"], [2, 3, 5]),
        (["trunk.?.weight"], [1, 3, 4, 5]),
    ],
)
def test_all_but(chosen: list[str], left: list[int]) -> None:
    assert domain_objective(seeded(One)).all_but(chosen) == left


def test_all_but_counts_as_the_space_does() -> None:
    """Shared ones first, frozen ones left out, tensors and patterns mixed, several modules."""
    first, second = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3))
    second[0].weight.requires_grad_(False)
    loose = nn.Parameter(torch.zeros(2))
    objective = mtl.Objective(
        lambda: [], [*second.parameters(), loose], [[first.weight], [first.bias]], modules=[first, second]
    )
    assert [tuple(p.shape) for p in objective.space.parameters] == [(3,), (2,), (3, 2), (3,)]
    assert objective.all_but(["0.bias"]) == [1, 2, 3]
    assert objective.all_but(["weight"]) == [0, 1, 3]
    assert objective.all_but([loose, "bias"]) == [0, 2]
    assert objective.all_but([first.bias, first.weight]) == [0, 1]
    for strange in (second[0].weight, nn.Parameter(torch.zeros(2)), "0.weight"):
        with pytest.raises(mtl.UsageError, match=r"unknown parameter.*0\.bias, bias, weight"):
            objective.all_but([strange])


def test_evaluating_brings_every_mode_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    other = nn.Dropout()
    model[2][0].eval()
    before = [m.training for m in (*model.modules(), other)]
    p = nn.Parameter(torch.zeros(2))
    objective = mtl.Objective(lambda: [p.sum()], [p], modules=[model, other])
    with objective.evaluating():
        assert not any(m.training for m in (*model.modules(), other))
    assert [m.training for m in (*model.modules(), other)] == before
    with pytest.raises(RuntimeError, match="boom"), objective.evaluating():
        raise RuntimeError("boom")
    assert [m.training for m in (*model.modules(), other)] == before


def test_an_evaluating_model_uses_running_statistics_and_does_not_move_them() -> None:
    model = seeded(lambda: One(nn.BatchNorm2d(3)))
    objective = domain_objective(model, graph="joint")
    oracle = mtl.Oracle(objective)
    training = oracle.losses().clone()
    before = objective.statistics()
    with oracle.path() as there, objective.evaluating():
        found = there.probe().clone()
    for buffer, value in before.items():
        assert torch.equal(buffer, value)
    model.eval()
    torch.testing.assert_close(found, losses_of(objective))
    assert not torch.allclose(found, training)
