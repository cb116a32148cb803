"""Bargaining weights without a word to the host: those of the other route, or a flag that there are none."""

from __future__ import annotations

import pytest
import torch
from test_nash import known, random_gramian
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mtlsuite as mtl
from mtlsuite.linalg import bargaining_weights, bargaining_weights_on_device


class Waits(TorchDispatchMode):
    """Counts the operations for whose result a host has to wait."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
        self.count += func.overloadpacket.__name__ in waiting
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 100])
@pytest.mark.parametrize(("low", "high"), [(1, 1), (0.01, 1), (1, 1e4), (1e-4, 1e4), (1, 1e8)])
def test_against_a_known_answer(n: int, low: float, high: float) -> None:
    gramian, alpha = known(n, low, high, seed=n)
    weights, solved = bargaining_weights_on_device(gramian)
    assert solved
    assert float((weights / alpha - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_as_on_the_host(n: int, dtype: torch.dtype) -> None:
    for seed in range(20):
        gramian = random_gramian(n, seed).to(dtype)
        weights, solved = bargaining_weights_on_device(gramian)
        assert solved
        assert weights.dtype == dtype
        torch.testing.assert_close(weights, bargaining_weights(gramian))


HOPELESS = {
    "zero row": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
    "opposite": torch.tensor([[1.0, -1.0], [-1.0, 1.0]]),
    "nan": torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]),
    "infinite": torch.tensor([[torch.inf, 0.0], [0.0, 1.0]]),
    "indefinite": torch.tensor([[1.0, -2.0], [-2.0, 1.0]]),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_where_there_is_no_solution(name: str) -> None:
    assert bargaining_weights(HOPELESS[name]) is None
    assert not bargaining_weights_on_device(HOPELESS[name])[1]


def test_a_bad_shape_is_refused() -> None:
    with pytest.raises(mtl.UsageError, match="Gramian"):
        bargaining_weights_on_device(torch.ones(2, 3))


def losses_of(theta: Tensor) -> list[Tensor]:
    targets = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
    return [(theta - target).square().sum() for target in targets]


def step(theta: Tensor, **options) -> mtl.StepReport:
    solver = mtl.build_solver({"base": {"name": "nash_mtl", **options}, "on_nonfinite": "ignore"})
    objective = mtl.Objective(lambda: losses_of(theta), [theta], names=["a", "b", "c"])
    return solver.step(objective, torch.optim.SGD([theta], lr=0.1))


def test_a_step_takes_the_same_weights_and_waits_for_nothing() -> None:
    found, waits = [], {}
    for solve in ("host", "device"):
        theta = torch.tensor([2.0, -3.0], requires_grad=True)
        with Waits() as counter:
            found.append((step(theta, solve=solve).weights, theta))
        waits[solve] = counter.count
    torch.testing.assert_close(*(weights for weights, _ in found))
    torch.testing.assert_close(*(theta.detach() for _, theta in found))
    assert waits["device"] == 0
    with Waits() as counter:
        bool(torch.ones(()) > 0)
    assert counter.count == 1


def test_weights_are_kept_where_there_is_no_solution() -> None:
    theta = torch.zeros(1, requires_grad=True)
    objective = mtl.Objective(lambda: [theta.sum(), -theta.sum()], [theta], names=["up", "down"])
    solver = mtl.NashMTL(solve="device", max_norm=None)
    for count in (1, 2):
        report = solver.step(objective, torch.optim.SGD([theta], lr=0.1))
        assert report.weights is not None
        assert report.weights.tolist() == [1, 1]
        assert report.metrics["nash_mtl/kept_weights"] == count
    other = mtl.NashMTL(solve="device", max_norm=None)
    other.load_state_dict(solver.state_dict())
    assert other.step(objective, torch.optim.SGD([theta], lr=0.1)).metrics["nash_mtl/kept_weights"] == 3
