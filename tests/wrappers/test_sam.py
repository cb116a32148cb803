"""SAM against a plain loop."""

from __future__ import annotations

import pytest
import torch
from problems import OPTIMIZERS, Heads, seeded, task_losses, task_objective
from reference import Equal, Famo, Sam, flat, train

import mtlsuite as mtl


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("inner", "reference"),
    [
        (lambda: mtl.Equal(), lambda: Equal([1 / 3] * 3)),
        (lambda: mtl.FAMO(before="start"), lambda: Famo(3, before="start")),
        (lambda: mtl.FAMO(before="here"), lambda: Famo(3, before="here")),
    ],
    ids=["equal", "famo-start", "famo-here"],
)
def test_ten_steps_are_those_of_the_reference(optimizer: str, inner, reference) -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    solver, stepper = mtl.SAM(inner(), rho=0.3), OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        report = solver.step(task_objective(ours, seed), stepper)
        assert report.metrics["sam/perturbation_norm"] == pytest.approx(0.3)
    parameters = list(theirs.parameters())
    train(
        Sam(reference(), 0.3),
        task_losses(theirs),
        range(10),
        parameters,
        4,
        OPTIMIZERS[optimizer](parameters),
    )
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)


def test_start_and_here_differ() -> None:
    """Else the two rows above would test the same thing."""
    found = []
    for before in ("start", "here"):
        model, famo = seeded(Heads), mtl.FAMO(before=before)
        mtl.SAM(famo, rho=0.3).step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
        found.append(famo.logits.detach().clone())
    assert not torch.allclose(*found)


def test_by_hand() -> None:
    """L = theta^2 / 2 at 3 with rho 0.5: the gradient is that at 3.5."""
    theta = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    solver = mtl.SAM(mtl.Equal(), rho=0.5)
    report = solver.step(mtl.Objective(lambda: theta**2 / 2, [theta]), torch.optim.SGD([theta], lr=1.0))
    assert theta.item() == pytest.approx(-0.5)
    assert report.losses.item() == pytest.approx(4.5)


def test_a_zero_gradient_moves_nothing() -> None:
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    objective = mtl.Objective(lambda: [(theta**2).sum(), (theta**4).sum()], [theta])
    mtl.SAM(mtl.Equal()).step(objective, torch.optim.SGD([theta], lr=1.0))
    assert torch.equal(theta.detach(), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("inner", "expected"),
    [(mtl.Equal, (2, 2)), (mtl.FAMO, (3, 2)), (mtl.NashMTL, (2, 4))],
)
def test_costs_one_pass_more_than_the_solver_inside(passes, inner, expected) -> None:
    model = passes.watch(seeded(Heads))
    mtl.SAM(inner()).step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.counts == expected


def test_without_radius_it_is_the_solver_inside() -> None:
    a, b = seeded(Heads), seeded(Heads)
    mtl.SAM(mtl.Equal(), rho=0.0).step(task_objective(a), torch.optim.SGD(a.parameters(), lr=0.1))
    mtl.Equal().step(task_objective(b), torch.optim.SGD(b.parameters(), lr=0.1))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("rho", [-1, "big", True, float("nan"), float("inf"), None])
def test_bad_radius(rho: object) -> None:
    with pytest.raises(mtl.UsageError, match=r"sam.*rho"):
        mtl.SAM(mtl.Equal(), rho=rho)


@pytest.mark.parametrize("inner", [None, "equal", mtl.Equal])
def test_inner_must_be_a_solver(inner: object) -> None:
    with pytest.raises(mtl.UsageError, match="inner"):
        mtl.SAM(inner)


def test_adaptive_ascent_by_hand():
    model = torch.nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0], [-0.5]]))
    slopes = torch.tensor([1.0, 2.0], dtype=torch.float64)  # gradient of the loss; T g = (3, 1)
    points = []

    def losses() -> list[torch.Tensor]:
        points.append(model.weight.detach().flatten().clone())
        return [(model.weight.flatten() * slopes).sum()]

    objective = mtl.Objective(losses, shared=model.parameters())
    mtl.SAM(mtl.Equal(), rho=0.1, adaptive=True).step(objective, torch.optim.SGD(model.parameters(), 0.0))
    # eps = rho T^2 g / ||T g|| = 0.1 (9, 0.5) / sqrt(10)
    expected = points[0] + 0.1 * torch.tensor([9.0, 0.5], dtype=torch.float64) / 10**0.5
    torch.testing.assert_close(points[1], expected, rtol=0, atol=1e-14)


def test_adaptive_sharpness_does_not_see_a_rescaling_of_layers():
    """||eps_l|| / ||W_l|| is the same when one ReLU layer is scaled by a and the next by 1 / a."""
    ratios = []
    for factor in (1.0, 7.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 6, bias=False), torch.nn.ReLU(), torch.nn.Linear(6, 1, bias=False)
        ).double()
        with torch.no_grad():
            model[0].weight.mul_(factor)
            model[2].weight.div_(factor)
        x = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4)
        seen = []

        def losses(model=model, x=x, seen=seen) -> list[torch.Tensor]:
            seen.append([p.detach().clone() for p in model.parameters()])
            return [(model(x) - 1).square().mean()]

        objective = mtl.Objective(losses, shared=model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        mtl.SAM(mtl.Equal(), rho=0.05, adaptive=True).step(objective, optimizer)
        ratios.append([float((q - p).norm() / p.norm()) for p, q in zip(*seen, strict=True)])
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-9)
