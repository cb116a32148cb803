"""Gradient equilibrium against the paper's steps done literally on P-vectors, and its exact facts."""

import pytest
import torch
from torch import nn

import mtlsuite as mtl
from mtlsuite.wrappers.equilibrium import equilibrate


def random_rows(n_sources: int, seed: int, n_entries: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n_entries, dtype=torch.float64, generator=generator)
    rows = torch.randn(n_sources, n_entries, dtype=torch.float64, generator=generator)
    if n_sources > 2:
        rows[1] = rows[0] + 0.2 * rows[1]  # so that some specific parts agree by more than 0.5
    return rows + common


def literal(rows: torch.Tensor, alpha: float, steps: int, against: str) -> torch.Tensor:
    mean = rows.mean(dim=0)
    original = rows - mean
    parts = original.clone()
    for i in range(len(rows)):
        for j in range(len(rows)):
            other = original[j] if against == "original" else parts[j]
            if i != j and torch.cosine_similarity(parts[i], other, dim=0) > alpha:
                parts[i] = parts[i] - (parts[i] @ other) / (other @ other) * other
    w = torch.ones(len(rows), dtype=torch.float64)
    largest = torch.linalg.svdvals(parts)[0] ** 2
    for _ in range(steps):
        gradient = 2 * parts @ (parts.T @ w)
        w = (w - gradient / (2 * largest)).clamp(0, 1)
    return rows - w[:, None] * parts


@pytest.mark.parametrize("against", ["original", "adjusted"])
@pytest.mark.parametrize("n_sources", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [0, 3, 20])
def test_the_same_as_on_long_vectors(n_sources, seed, steps, against):
    rows = random_rows(n_sources, seed)
    before = rows.clone()
    refined = equilibrate(rows, alpha=0.5, steps=steps, against=against)
    torch.testing.assert_close(refined, literal(rows, 0.5, steps, against), rtol=1e-10, atol=1e-10)
    assert torch.equal(rows, before)


def test_the_adjustment_does_happen_in_these_cases():
    rows = random_rows(3, 0)
    assert not torch.allclose(equilibrate(rows, alpha=0.5), equilibrate(rows, alpha=1.0))


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_the_converged_rows_is_the_mean_gradient(seed):
    rows = random_rows(4, seed)
    refined = equilibrate(rows, steps=20_000)
    torch.testing.assert_close(refined.mean(dim=0), rows.mean(dim=0), rtol=0, atol=1e-6)


def test_without_adjustment_all_rows_become_the_mean_gradient():
    # w = 1 is an exact minimiser then, so g_k - s_k = g_inv for every k
    rows = random_rows(4, 1)
    refined = equilibrate(rows, alpha=1.0)
    torch.testing.assert_close(refined, rows.mean(dim=0).expand_as(rows), rtol=0, atol=1e-12)


def test_by_hand():
    # g = (2, 0), (0, 2): s = (1, -1), (-1, 1), opposite, so nothing is adjusted: both rows become (1, 1)
    rows = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(equilibrate(rows), torch.ones(2, 2, dtype=torch.float64))
    one = torch.tensor([[3.0, 4.0]])
    assert torch.equal(equilibrate(one), one)


X = torch.randn(3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def trained(solver: mtl.Solver, steps: int, momentum: float = 0.0) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=momentum)
    losses = lambda: [(model(x) - k).square().mean() for k, x in enumerate(X)]  # noqa: E731
    for _ in range(steps):
        solver.step(mtl.Objective(losses, shared=model.parameters()), optimizer)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_around_equal_and_converged_it_is_erm():
    ours = trained(mtl.GradientEquilibrium(mtl.Equal(), steps=20_000), 2, momentum=0.9)
    torch.testing.assert_close(ours, trained(mtl.Equal(), 2, momentum=0.9), rtol=0, atol=1e-7)


def test_around_nash_it_is_another_method():
    assert not torch.allclose(trained(mtl.GradientEquilibrium(mtl.NashMTL(3)), 3), trained(mtl.NashMTL(3), 3))


def test_sequential_steps_add_up_under_plain_sgd_and_differ_under_momentum():
    def run(apply: str, momentum: float) -> torch.Tensor:
        return trained(mtl.GradientEquilibrium(mtl.Equal(), apply=apply), 1, momentum)

    start = trained(mtl.Equal(), 0)
    # K w_k = 1 for equal weights: the three steps together are K times the combined one
    torch.testing.assert_close(run("sequential", 0.0) - start, 3 * (run("combined", 0.0) - start))
    together = 3 * (run("combined", 0.9) - start)
    assert not torch.allclose(run("sequential", 0.9) - start, together)


def test_the_order_is_drawn_from_the_generator():
    def run(seed: int) -> torch.Tensor:
        return trained(mtl.GradientEquilibrium(mtl.Equal(), apply="sequential", seed=seed), 2, momentum=0.9)

    assert torch.equal(run(0), run(0))
    assert len({tuple(run(seed).tolist()) for seed in range(8)}) > 1


@pytest.mark.parametrize("outer", [mtl.SAM, mtl.SAGE, mtl.GradientEquilibrium])
def test_sequential_must_be_outermost(outer):
    with pytest.raises(mtl.UsageError, match="make it the outermost wrapper"):
        outer(mtl.GradientEquilibrium(mtl.Equal(), apply="sequential"))


def test_bad_options():
    with pytest.raises(mtl.UsageError, match="must be \\(K, P\\)"):
        equilibrate(torch.ones(3))
    with pytest.raises(mtl.UsageError, match="allowed: adjusted, original"):
        equilibrate(torch.ones(3, 2), against="both")
    with pytest.raises(mtl.UsageError, match="alpha"):
        mtl.GradientEquilibrium(mtl.Equal(), alpha=1.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_told_or_skipped(value):
    theta = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.1)

    def bad():
        loss = theta.sum()
        loss.register_hook(lambda gradient: gradient * value)
        return loss

    objective = mtl.Objective(lambda: [theta.mean(), bad()], shared=[theta], names=["good", "bad"])
    spec = {"base": "equal", "wrap": ["gradient_equilibrium"]}
    with pytest.raises(mtl.NonFiniteError, match="the gradient of source 'bad' is not finite"):
        mtl.build_solver(spec).step(objective, optimizer)
    report = mtl.build_solver({**spec, "on_nonfinite": "skip"}).step(objective, optimizer)
    assert report.metrics == {"gradient_equilibrium/skipped": 1.0}
    assert theta.tolist() == [0.0, 0.0]
