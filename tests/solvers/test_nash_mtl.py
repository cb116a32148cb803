"""Nash-MTL against scipy's root finder and by its properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import OPTIMIZERS, TASKS, Heads, One, domain_objective, mse, seeded, task_batch, task_objective
from reference import Nash, flat, train

import mtlsuite as mtl


def linear_objective(rows: torch.Tensor) -> tuple[torch.Tensor, mtl.Objective]:
    """Losses rows @ theta: the gradients are the rows, whatever theta is."""
    theta = torch.zeros(rows.shape[1], dtype=rows.dtype, requires_grad=True)
    return theta, mtl.Objective(lambda: rows @ theta, shared=[theta])


def direction_of(solver: mtl.Solver, rows: torch.Tensor) -> tuple[torch.Tensor, mtl.StepReport]:
    theta, objective = linear_objective(rows)
    report = solver.step(objective, torch.optim.SGD([theta], lr=1.0))
    return -theta.detach(), report


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("every", "max_norm"), [(1, 1.0), (3, 1.0), (1, None), (2, 0.3), (1, 0)])
def test_ten_steps_are_those_of_the_reference(optimizer: str, every: int, max_norm: float | None) -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    solver = mtl.NashMTL(n_sources=3, update_weights_every=every, max_norm=max_norm)
    stepper = OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        solver.step(task_objective(ours, seed), stepper)

    def losses(seed: int):
        inputs, targets = task_batch(seed)
        prediction = theirs(inputs)
        return [mse(prediction[t], targets[t]) for t in TASKS]

    parameters = list(theirs.parameters())  # the trunk's four tensors come first
    rule = Nash(every, max_norm)
    train(rule, losses, range(10), parameters, 4, OPTIMIZERS[optimizer](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)


def test_only_the_shared_part_is_clipped() -> None:
    model = seeded(Heads)
    objective = task_objective(model)
    report = mtl.NashMTL().step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    shared = flat([p.grad for p in model.shared_parameters()])
    assert float(shared.norm()) == pytest.approx(1.0, abs=1e-5)
    for k, (loss, head) in enumerate(zip(objective.losses(), model.specific_parameters(), strict=True)):
        for p, g in zip(head, torch.autograd.grad(loss, head, retain_graph=True), strict=True):
            torch.testing.assert_close(p.grad, report.weights[k] * g)


def random_rows(seed: int, k: int, width: int | None = None) -> torch.Tensor:
    """K random gradients of very different lengths."""
    g = torch.Generator().manual_seed(seed)
    lengths = 10 ** torch.empty(k, 1, dtype=torch.float64).uniform_(-3, 3, generator=g)
    return lengths * torch.randn(k, width or 2 * k + 3, dtype=torch.float64, generator=g)


cases = given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 2, 3, 8, 40]))
quick = settings(max_examples=25, deadline=None, derandomize=True)


@quick
@cases
def test_every_source_gains_the_same(seed: int, k: int) -> None:
    rows = random_rows(seed, k)
    d, report = direction_of(mtl.NashMTL(max_norm=None), rows)
    gains = report.weights * (rows @ d)
    torch.testing.assert_close(gains, torch.ones_like(gains), rtol=1e-8, atol=0)
    assert float(d.norm()) == pytest.approx(k**0.5)  # alpha' G alpha = K


@quick
@cases
def test_permuting_the_sources_permutes_the_weights(seed: int, k: int) -> None:
    rows = random_rows(seed, k)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    d, report = direction_of(mtl.NashMTL(), rows)
    permuted_d, permuted = direction_of(mtl.NashMTL(), rows[order])
    torch.testing.assert_close(permuted.weights, report.weights[order])
    torch.testing.assert_close(permuted_d, d)


@quick
@cases
def test_rescaling_one_loss_changes_nothing(seed: int, k: int) -> None:
    rows = random_rows(seed, k)
    scaled = rows.clone()
    scaled[seed % k] *= 1234.5
    torch.testing.assert_close(
        direction_of(mtl.NashMTL(max_norm=None), scaled)[0], direction_of(mtl.NashMTL(max_norm=None), rows)[0]
    )


def test_one_source_is_normalized_gradient_descent() -> None:
    rows = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    d, report = direction_of(mtl.NashMTL(), rows)
    torch.testing.assert_close(d, rows[0] / 5, rtol=1e-5, atol=0)
    assert float(report.weights) == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0], [-1.0, -2.0]],  # opposite
        [[1.0, 2.0], [0.0, 0.0]],  # one source has no gradient
        [[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]],  # they sum to zero
        [[0.0, 0.0], [0.0, 0.0]],
    ],
)
def test_no_solution_keeps_the_last_weights(rows: list, dtype: torch.dtype) -> None:
    hopeless = torch.tensor(rows, dtype=dtype)
    solver = mtl.NashMTL(max_norm=None)
    d, report = direction_of(solver, hopeless)
    assert report.weights.tolist() == [1.0] * len(rows)
    assert report.metrics["nash_mtl/kept_weights"] == 1
    torch.testing.assert_close(d, hopeless.sum(0))
    good = torch.eye(len(rows), dtype=dtype) * 2
    assert direction_of(solver, good)[1].weights.tolist() == pytest.approx([0.5] * len(rows))
    d, report = direction_of(solver, hopeless)
    assert report.weights.tolist() == pytest.approx([0.5] * len(rows))
    assert report.metrics["nash_mtl/kept_weights"] == 2
    torch.testing.assert_close(d, hopeless.sum(0) / 2)


def test_equal_gradients_have_a_solution() -> None:
    """G = s * ones is singular, but alpha > 0 with G alpha = 1 / alpha exists: 1 / sqrt(K s)."""
    rows = torch.tensor([[3.0, 4.0]], dtype=torch.float64).repeat(4, 1)
    _, report = direction_of(mtl.NashMTL(), rows)
    assert report.weights.tolist() == pytest.approx([0.1] * 4)
    assert report.metrics["nash_mtl/kept_weights"] == 0


def test_costs_k_backwards_and_one_between_updates(passes) -> None:
    model = passes.watch(seeded(Heads))
    solver = mtl.NashMTL(update_weights_every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for seed in range(4):
        passes.reset()
        solver.step(task_objective(model, seed), optimizer)
        found.append(passes.counts)
    assert found == [(1, 3), (1, 1), (1, 3), (1, 1)]


def test_costs_one_small_graph_a_domain(passes) -> None:
    model = passes.watch(seeded(One))
    mtl.NashMTL().step(domain_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.counts == (4, 4)
    assert passes.sizes == [4, 6, 5, 3]


@pytest.mark.parametrize("every", [1, 3])
def test_the_number_of_sources_may_change(every: int) -> None:
    solver = mtl.NashMTL(update_weights_every=every)
    for k in (2, 3, 3, 1, 2):
        d, report = direction_of(solver, random_rows(k, k))
        assert d.isfinite().all()
        assert len(report.weights) == k


def test_a_report_is_not_changed_by_later_steps() -> None:
    solver = mtl.NashMTL()
    _, report = direction_of(solver, random_rows(0, 3))
    kept = report.weights.clone()
    state = solver.state_dict()
    for seed in range(1, 4):
        direction_of(solver, random_rows(seed, 3))
    solver.load_state_dict(state)
    direction_of(solver, random_rows(9, 3))
    assert torch.equal(report.weights, kept)


def test_the_solvers_weights_are_its_own() -> None:
    """Writing into a report does not reach the weights that the solver uses between updates."""
    solver, rows = mtl.NashMTL(update_weights_every=2), random_rows(0, 3)
    first, report = direction_of(solver, rows)
    report.weights.zero_()
    torch.testing.assert_close(direction_of(solver, rows)[0], first)


@pytest.mark.parametrize("solve", ["host", "device"])
def test_goes_on_from_a_state_of_an_earlier_version(solve: str) -> None:
    """It listed the sources whose weights were ever solved for, and the weights stay those of the state."""
    solver = mtl.NashMTL(update_weights_every=2)
    first, report = direction_of(solver, random_rows(0, 3))
    state = solver.state_dict()
    state["attributes"]["solved"] = state["attributes"]["solved"].tolist()
    resumed = mtl.NashMTL(update_weights_every=2, solve=solve)
    resumed.load_state_dict(state)
    found, second = direction_of(resumed, random_rows(0, 3))
    torch.testing.assert_close((found, second.weights), (first, report.weights))
    direction_of(resumed, random_rows(1, 3))
    assert resumed.state_dict()["attributes"]["solved"].tolist() == [True] * 3


@pytest.mark.parametrize("options", [{"update_weights_every": 0}, {"max_norm": -1.0}, {"n_sources": 2.5}])
def test_bad_options(options: dict) -> None:
    with pytest.raises(mtl.UsageError, match=next(iter(options))):
        mtl.NashMTL(**options)
