"""GGA-L: the direction of the solver inside plus noise of standard deviation gamma (1 - S)."""

import pytest
import torch
from torch import nn

import mtlsuite as mtl

X = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def direction(solver: mtl.Solver, n_sources: int = 2) -> tuple[torch.Tensor, mtl.StepReport]:
    torch.manual_seed(1)
    model = nn.Linear(30, 200, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    chunks = X.split(40 // n_sources)
    losses = lambda: [model(x).tanh().mean() * (k + 1) for k, x in enumerate(chunks)]  # noqa: E731
    report = solver.step(mtl.Objective(losses, model.parameters()), optimizer)
    return start - torch.cat([p.detach().flatten() for p in model.parameters()]), report


def test_noise_statistics():
    clean, _ = direction(mtl.Equal())
    noisy, report = direction(mtl.GGAL(mtl.Equal(), gamma=0.5))
    noise = noisy - clean
    std = 0.5 * (1 - report.metrics["gga_l/cosine"])
    assert report.metrics["gga_l/noise_std"] == pytest.approx(std)
    assert std > 0.05
    assert abs(float(noise.mean())) < 4 * std / len(noise) ** 0.5
    assert float(noise.std()) == pytest.approx(std, rel=4 / (2 * len(noise)) ** 0.5)
    assert float(noise.abs().min()) > 0


def test_without_gamma_or_disagreement_nothing_is_added():
    clean, _ = direction(mtl.Equal())
    assert torch.equal(direction(mtl.GGAL(mtl.Equal(), gamma=0.0))[0], clean)
    single, report = direction(mtl.GGAL(mtl.Equal(), gamma=5.0), n_sources=1)
    assert report.metrics["gga_l/cosine"] == 1
    torch.testing.assert_close(single, direction(mtl.Equal(), n_sources=1)[0])


def test_it_is_the_noise_part_of_sage():
    noisy, _ = direction(mtl.GGAL(mtl.NashMTL(2), gamma=0.1, seed=7))
    sage, _ = direction(mtl.SAGE(mtl.NashMTL(2), rho=0.0, gamma=0.1, seed=7))
    assert torch.equal(noisy, sage)
