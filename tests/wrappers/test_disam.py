"""DISAM: closed-form coefficients, SAM as a special case, and ten steps against plain loops."""

import pytest
import torch
from torch import nn

import mtlsuite as mtl
from mtlsuite.wrappers.ascent import variance_weights

X = torch.randn(3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def losses_of(model: nn.Module) -> list[torch.Tensor]:
    return [((model(x) - y) * (k + 1)).square().mean() for k, (x, y) in enumerate(zip(X, Y, strict=True))]


def step(solver: mtl.Solver, model: nn.Module, optimizer: torch.optim.Optimizer) -> mtl.StepReport:
    return solver.step(mtl.Objective(lambda: losses_of(model), model.parameters()), optimizer)


@pytest.mark.parametrize("lambda_", [0.0, 0.1, 3.0])
def test_weights_are_the_derivative_of_mean_minus_variance(lambda_):
    losses = torch.tensor([0.2, 1.5, 0.9, 4.0], dtype=torch.float64, requires_grad=True)
    objective = losses.mean() - lambda_ * losses.var(correction=0)
    (expected,) = torch.autograd.grad(objective, losses)
    torch.testing.assert_close(variance_weights(losses.detach(), lambda_), expected, rtol=1e-14, atol=0)


def test_weights_by_hand():
    # mean 2, so w = 1/2 - 0.1 * (-1, 1)
    weights = variance_weights(torch.tensor([1.0, 3.0], dtype=torch.float64), 0.1)
    torch.testing.assert_close(weights, torch.tensor([0.6, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_ten_steps_against_plain_loops(optimizer):
    model, twin = mlp(), mlp()
    ours, theirs = optimizer(model.parameters(), 0.01), optimizer(twin.parameters(), 0.01)
    solver = mtl.DISAM(mtl.Equal(), rho=0.1, lambda_=0.3)
    for _ in range(10):
        report = step(solver, model, ours)
        losses = torch.stack(losses_of(twin))
        variance = losses.var(correction=0)
        gradients = torch.autograd.grad(losses.mean() - 0.3 * variance, list(twin.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        start = [p.detach().clone() for p in twin.parameters()]
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p += 0.1 * g / norm
        theirs.zero_grad()
        torch.stack(losses_of(twin)).mean().backward()
        with torch.no_grad():
            for p, value in zip(twin.parameters(), start, strict=True):
                p.copy_(value)
        theirs.step()
        assert report.metrics["disam/loss_variance"] == pytest.approx(variance.item(), rel=1e-10)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_without_variance_it_is_sam():
    model, twin = mlp(), mlp()
    for solver, m in ((mtl.DISAM(mtl.NashMTL(3), lambda_=0.0), model), (mtl.SAM(mtl.NashMTL(3)), twin)):
        optimizer = torch.optim.SGD(m.parameters(), 0.1)
        for _ in range(3):
            step(solver, m, optimizer)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_lambda_is_its_name_in_yaml():
    solver = mtl.build_solver({"base": "equal", "wrap": [{"name": "disam", "lambda": 0.2}]})
    assert solver.ascent.lambda_ == 0.2


def test_one_extra_backward_and_no_jacobian(monkeypatch):
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    model = mlp()
    step(mtl.DISAM(mtl.Equal()), model, torch.optim.SGD(model.parameters(), 0.1))
    assert len(calls) == 2
