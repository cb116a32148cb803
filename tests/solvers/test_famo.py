"""FAMO against the log-loss formulation of the reference code."""

from __future__ import annotations

import pytest
import torch
from problems import OPTIMIZERS, TASKS, Heads, One, domain_objective, mse, seeded, task_batch, task_objective
from reference import Famo, flat, train

import mtlsuite as mtl


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"w_lr": 0.2, "gamma": 0.01, "max_norm": 0.2},
        {"min_losses": [-1.0, -2.0, 0.0], "max_norm": None},
    ],
)
def test_ten_steps_are_those_of_the_reference(optimizer: str, options: dict) -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    solver, stepper = mtl.FAMO(**options), OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        report = solver.step(task_objective(ours, seed), stepper)

    def losses(seed: int):
        inputs, targets = task_batch(seed)
        prediction = theirs(inputs)
        return [mse(prediction[t], targets[t]) for t in TASKS]

    parameters = list(theirs.parameters())
    names = {"min_losses": "minima"}
    rule = Famo(3, **{names.get(key, key): value for key, value in options.items()})
    train(rule, losses, range(10), parameters, 4, OPTIMIZERS[optimizer](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)
    torch.testing.assert_close(solver.logits.detach(), rule.logits.detach(), rtol=0, atol=1e-8)
    assert set(report.metrics) == {"famo/logit_0", "famo/logit_1", "famo/logit_2"}
    assert float(report.weights.sum()) == pytest.approx(1.0)


def test_first_weights_are_inverse_losses() -> None:
    """With z uniform, c z_k / D_k is proportional to 1 / L_k."""
    model = seeded(Heads)
    report = mtl.FAMO().step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.0))
    expected = 1 / report.losses
    torch.testing.assert_close(report.weights, expected / expected.sum(), rtol=1e-6, atol=0)


def test_a_source_that_progresses_less_gains_weight() -> None:
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    speed = torch.tensor([0.01, 1.0], dtype=torch.float64)
    solver = mtl.FAMO(gamma=0.0)
    for _ in range(5):
        solver.step(
            mtl.Objective(lambda: 1 + speed * theta**2, shared=[theta]),
            torch.optim.SGD([theta], lr=0.1),
        )
    assert solver.logits[0] > solver.logits[1]


@pytest.mark.parametrize(("graph", "expected"), [("joint", (2, 1)), ("separate", (8, 4))])
def test_costs_a_forward_more_than_equal(passes, graph: str, expected: tuple[int, int]) -> None:
    model = passes.watch(seeded(One))
    mtl.FAMO().step(domain_objective(model, graph=graph), torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.counts == expected


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_a_loss_at_its_minimum_is_an_error_that_says_so(value: float) -> None:
    theta = torch.tensor(value, requires_grad=True)
    objective = mtl.Objective(lambda: [theta + 5, theta * 1], shared=[theta], names=["fine", "low"])
    solver = mtl.FAMO(min_losses=[0.0, 1.0])
    with pytest.raises(mtl.UsageError, match=r"'low'.*min_losses"):
        solver.step(objective, torch.optim.SGD([theta], lr=0.1))
    assert theta.item() == value


def test_an_infinite_loss_after_the_step_does_not_spoil_the_logits() -> None:
    """One diverging step must not make every later step fail."""
    theta = torch.tensor([1.0], requires_grad=True)
    solver = mtl.FAMO(on_nonfinite="skip", max_norm=None)

    def step(lr: float) -> mtl.StepReport:
        objective = mtl.Objective(lambda: torch.cat([theta**2 + 1, theta.abs()]), shared=[theta])
        return solver.step(objective, torch.optim.SGD([theta], lr=lr))

    step(1e30)  # theta ** 2 overflows in float32
    assert solver.logits.isfinite().all()
    with torch.no_grad():
        theta.fill_(1.0)
    assert "famo/skipped" not in step(0.1).metrics
    assert theta.item() != 1.0


def test_state_of_another_number_of_sources_is_refused() -> None:
    three = mtl.FAMO(n_sources=3).state_dict()
    two = mtl.FAMO(n_sources=2)
    with pytest.raises(mtl.UsageError, match=r"3.*2|2.*3"):
        two.load_state_dict(three)


def test_bad_options() -> None:
    for options in ({"w_lr": 0.0}, {"gamma": -1.0}, {"before": "later"}, {"min_losses": 3.0}):
        with pytest.raises(mtl.UsageError, match=next(iter(options))):
            mtl.FAMO(**options)
    with pytest.raises(mtl.UsageError, match="2 entries for 3 sources"):
        mtl.FAMO(n_sources=3, min_losses=[0.0, 0.0])
