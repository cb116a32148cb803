"""Edges of the wrappers that look at many points: losses that are not finite there, and what may be named."""

from __future__ import annotations

import copy

import pytest
import torch
from problems import One, domain_batches, domain_objective, mse, seeded
from torch import nn

import mtlsuite as mtl


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def gga(**options) -> mtl.GGA:
    return mtl.GGA(mtl.Equal(), start_step=0, end_step=5, n_search=3, radius=0.1, **options)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_rejected_candidate_may_be_beyond_numbers(bad: float) -> None:
    theta, calls = torch.zeros(2, dtype=torch.float64, requires_grad=True), []

    def losses():
        calls.append(1)
        return [
            (bad if len(calls) == 2 else 1.0) + axis @ theta for axis in torch.eye(2, dtype=torch.float64)
        ]

    report = gga().step(mtl.Objective(losses, [theta], names=["a", "b"]), sgd([theta]))
    assert len(calls) > 3
    assert report.losses.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("graph", ["joint", "separate"])
@pytest.mark.parametrize("make", [lambda: mtl.SAMO(mtl.Equal(), beta=0.0), lambda: mtl.Fish(mtl.Equal())])
def test_an_infinite_loss_on_the_way_is_told(make, graph: str) -> None:
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    start = theta.detach().clone()

    def source(k: int):
        there = torch.is_grad_enabled() and not torch.equal(theta.detach(), start)
        return (k + 1) * (theta**2).sum() + (float("inf") if there and k == 1 else 0.0)

    losses = lambda: [source(0), source(1)]  # noqa: E731
    objective = mtl.Objective(losses, [theta], names=["a", "b"], source=source, graph=graph)
    solver = make()
    solver.order = "fixed"
    with pytest.raises(mtl.NonFiniteError, match="'b'"):
        solver.step(objective, sgd([theta]))
    assert torch.equal(theta.detach(), start)


def test_a_copy_of_the_solver_moves_the_same_parameters() -> None:
    model = seeded(One)
    solver = copy.deepcopy(gga(parameters=[model.trunk[0].weight]))
    solver.step(domain_objective(model), sgd(model.parameters()))
    assert solver.parameters[0] is model.trunk[0].weight


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_names_are_those_of_the_model_itself(wrap) -> None:
    model = seeded(One)
    objective = mtl.DomainObjective(wrap(model), domain_batches(0), mse)
    fixed = objective.all_but(["trunk.*"])
    assert [objective.space.parameters[k] for k in fixed] == list(model.heads.parameters())


def test_a_tied_parameter_has_two_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    model.append(model[0])
    objective = mtl.DomainObjective(model, [(torch.ones(1, 3), torch.ones(1, 3))], mse)
    assert objective.all_but(["2.*"]) == objective.all_but(["0.*"]) == []


def test_moving_nothing_is_refused() -> None:
    with pytest.raises(mtl.UsageError, match="parameters"):
        gga(parameters=[])


def test_further_minibatches_are_made_once() -> None:
    batches, asked = domain_batches(0, (4, 6, 5)), []
    model = seeded(One)
    objective = mtl.DomainObjective(model, batches, mse, more=lambda draw: asked.append(draw) or batches)
    mtl.Fish(mtl.Equal(), inner_steps=3, minibatches="fresh").step(objective, sgd(model.parameters()))
    assert asked == [1, 2]
