"""Arithmetic meta-learning and Fish against an unrolled inner SGD."""

import pytest
import torch
from torch import nn

import mtlsuite as mtl

X = torch.randn(3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def loss(model: nn.Module, k: int) -> torch.Tensor:
    return (model(X[k]) - k).square().mean()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def objective(model: nn.Module, n_sources: int = 3) -> mtl.Objective:
    minibatches = [(X[k], float(k)) for k in range(n_sources)]
    return mtl.DomainObjective(model, minibatches, lambda prediction, k: (prediction - k).square().mean())


def unrolled(model: nn.Module, inner_lr: float, inner_steps: int, n_sources: int = 3) -> list[torch.Tensor]:
    """theta after each source of the walk, theta itself first."""
    optimizer = torch.optim.SGD(model.parameters(), inner_lr)
    points = [flat(model)]
    for k in range(n_sources):
        for _ in range(inner_steps):
            optimizer.zero_grad()
            loss(model, k).backward()
            optimizer.step()
        points.append(flat(model))
    return points


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_arithmetic_with_sgd_outside_is_the_average_of_the_inner_iterates(inner_steps):
    lr, model = 0.05, mlp()
    points = unrolled(mlp(), lr, inner_steps)
    solver = mtl.Arithmetic(mtl.Equal(), inner_lr=lr, inner_steps=inner_steps, order="fixed", total=2.0)
    solver.step(objective(model), torch.optim.SGD(model.parameters(), lr))
    torch.testing.assert_close(flat(model), torch.stack(points[1:]).mean(dim=0), rtol=0, atol=1e-14)


def test_weights_for_three_sources():
    weights = [mtl.Arithmetic(mtl.Equal()).outer_weight(i, 3) for i in (1, 2, 3)]
    assert weights == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert [mtl.Fish(mtl.Equal()).outer_weight(i, 4) for i in range(1, 5)] == [0.25] * 4


@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_fish_steps_towards_the_end_of_the_walk(n_sources):
    inner_lr, lr, model = 0.1, 0.03, mlp()
    points = unrolled(mlp(), inner_lr, 1, n_sources)
    solver = mtl.Fish(mtl.Equal(), inner_lr=inner_lr, order="fixed")
    solver.step(objective(model, n_sources), torch.optim.SGD(model.parameters(), lr))
    expected = points[0] + lr / (n_sources * inner_lr) * (points[-1] - points[0])
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_ten_steps_against_plain_loops(optimizer):
    model, twin = mlp(), mlp()
    ours, theirs = optimizer(model.parameters(), 0.01), optimizer(twin.parameters(), 0.01)
    solver = mtl.Arithmetic(mtl.Equal(), inner_lr=0.02, seed=5)
    draws = torch.Generator().manual_seed(5)
    for _ in range(10):
        solver.step(objective(model), ours)
        start = [p.detach().clone() for p in twin.parameters()]
        total = [torch.zeros_like(p) for p in start]
        for a, k in zip((1 / 2, 1 / 3, 1 / 6), torch.randperm(3, generator=draws).tolist(), strict=True):
            gradients = torch.autograd.grad(loss(twin, k), list(twin.parameters()))
            with torch.no_grad():
                for p, g, t in zip(twin.parameters(), gradients, total, strict=True):
                    t += a * g
                    p -= 0.02 * g
        with torch.no_grad():
            for p, value, t in zip(twin.parameters(), start, total, strict=True):
                p.copy_(value)
                p.grad = t
        theirs.step()
    torch.testing.assert_close(flat(model), flat(twin), rtol=0, atol=1e-12)


def test_a_small_walk_with_fish_is_erm():
    model, twin = mlp(), mlp()
    mtl.Fish(mtl.Equal(), inner_lr=1e-9).step(objective(model), torch.optim.SGD(model.parameters(), 0.1))
    mtl.Equal().step(objective(twin), torch.optim.SGD(twin.parameters(), 0.1))
    torch.testing.assert_close(flat(model), flat(twin), rtol=0, atol=1e-8)


def test_rows_keep_their_source():
    """Nash inside sees row k as source k, whatever the order of the walk."""
    reports = []
    for seed in range(6):
        model = mlp()
        solver = mtl.Fish(mtl.NashMTL(3), inner_lr=1e-9, seed=seed)
        reports.append(solver.step(objective(model), torch.optim.SGD(model.parameters(), 0.1)).weights)
    for weights in reports[1:]:
        torch.testing.assert_close(weights, reports[0], rtol=1e-5, atol=0)


def test_cost(monkeypatch):
    forwards, backwards, original = [], [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backwards.append(1) or original(*a, **k))
    model = mlp()
    model.register_forward_hook(lambda *_: forwards.append(1))
    mtl.Arithmetic(mtl.Equal()).step(objective(model), torch.optim.SGD(model.parameters(), 0.1))
    assert (len(forwards), len(backwards)) == (6, 3)  # three to know the losses at theta, three on the walk
