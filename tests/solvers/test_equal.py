"""Equal weights against plain loops."""

from __future__ import annotations

import pytest
import torch
from problems import OPTIMIZERS, TASKS, Heads, One, domain_objective, mse, seeded, task_batch, task_objective
from reference import Equal, combine, flat, gradient, train

import mtlsuite as mtl


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [1 / 3] * 3),
        ({"reduction": "sum"}, [1.0] * 3),
        ({"weights": [0.5, 0.0, 2.0]}, [0.5, 0.0, 2.0]),
    ],
)
def test_ten_steps_are_those_of_a_plain_loop(optimizer: str, options: dict, weights: list[float]) -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    solver, stepper = mtl.Equal(**options), OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        report = solver.step(task_objective(ours, seed), stepper)
        assert report.weights.tolist() == pytest.approx(weights)

    def losses(seed: int):
        inputs, targets = task_batch(seed)
        prediction = theirs(inputs)
        return [mse(prediction[t], targets[t]) for t in TASKS]

    parameters = list(theirs.parameters())
    train(Equal(weights), losses, range(10), parameters, 4, OPTIMIZERS[optimizer](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)


def test_mean_on_a_joint_graph_is_ordinary_training() -> None:
    """ERM over equally large minibatches is the loss of the pooled batch."""
    model = seeded(One)
    objective = domain_objective(model, sizes=(4, 4, 4), graph="joint")
    inputs, targets = (torch.cat(parts) for parts in zip(*objective.minibatches, strict=True))
    expected = gradient(mse(model(inputs), targets), list(model.parameters()))
    mtl.Equal().step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize(("graph", "expected"), [("joint", (1, 1)), ("separate", (4, 4))])
def test_costs_one_pass_over_all_sources(passes, graph: str, expected: tuple[int, int]) -> None:
    model = passes.watch(seeded(One))
    mtl.Equal().step(domain_objective(model, graph=graph), torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.counts == expected
    assert sum(passes.sizes) == 4 + 6 + 5 + 3


def test_report_has_the_losses_before_the_step() -> None:
    model = seeded(Heads)
    objective = task_objective(model)
    before = torch.stack([loss.detach() for loss in objective.losses()])
    report = mtl.Equal().step(objective, torch.optim.SGD(model.parameters(), lr=0.5))
    assert torch.equal(report.losses, before)
    assert not report.losses.requires_grad


@pytest.mark.parametrize("k", [1, 3])
def test_direction_is_linear_in_the_weights(k: int) -> None:
    model = seeded(Heads)
    parameters = list(model.parameters())
    inputs, targets = task_batch(0)
    tasks = list(TASKS)[:k]
    objective = mtl.Objective(
        lambda: [mse(model(inputs)[t], targets[t]) for t in tasks], shared=model.parameters(), names=tasks
    )
    prediction = model(inputs)
    gradients = [gradient(mse(prediction[t], targets[t]), parameters) for t in tasks]
    weights = [0.3 * i + 0.1 for i in range(k)]
    mtl.Equal(weights=weights).step(objective, torch.optim.SGD(parameters, lr=0.0))
    for p, g in zip(parameters, combine(weights, gradients), strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"weights": [1.0, -1.0]}, "weights"),
        ({"weights": []}, "weights"),
        ({"weights": [1.0, float("nan")]}, "weights"),
        ({"reduction": "max"}, "max"),
        ({"n_sources": 0}, "n_sources"),
        ({"n_sources": 3, "weights": [1.0]}, "3 sources"),
    ],
)
def test_bad_options(options: dict, hint: str) -> None:
    with pytest.raises(mtl.UsageError, match=hint):
        mtl.Equal(**options)
