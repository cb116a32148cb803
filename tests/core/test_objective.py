"""Objectives of closures: joint and separate, and what a wrong one is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mtlsuite as mtl

sgd = lambda *p: torch.optim.SGD(p, lr=0.1)  # noqa: E731


@pytest.fixture
def theta() -> torch.Tensor:
    return torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("form", [list, tuple, torch.stack])
def test_losses_may_be_a_sequence_or_a_tensor(theta: torch.Tensor, form) -> None:
    objective = mtl.Objective(lambda: form([theta.sum(), (theta**2).sum()]), [theta])
    report = mtl.Equal(reduction="sum").step(objective, sgd(theta))
    assert report.losses.tolist() == [6.0, 14.0]
    torch.testing.assert_close(theta.grad, torch.tensor([3.0, 5.0, 7.0], dtype=torch.float64))
    assert objective.names == ("0", "1")


def test_separate_evaluates_source_by_source(theta: torch.Tensor) -> None:
    asked = []

    def source(k: int) -> torch.Tensor:
        asked.append(k)
        return (theta ** (k + 1)).sum()

    objective = mtl.Objective(
        lambda: [source(0), source(1)], [theta], source=source, names=["x", "y"], graph="separate"
    )
    rows = mtl.Oracle(objective).jacobian().rows
    assert asked == [0, 1]
    expected = torch.tensor([[1.0, 1, 1], [2, 4, 6]], dtype=torch.float64)
    assert torch.equal(rows, expected)


def test_source_defaults_to_an_entry_of_losses(theta: torch.Tensor) -> None:
    objective = mtl.Objective(lambda: [theta.sum(), theta.prod()], [theta])
    assert objective.source(1).item() == 6.0


def test_one_element_losses_of_any_shape(theta: torch.Tensor) -> None:
    objective = mtl.Objective(lambda: [theta[:1], theta[1:2].view(1, 1)], [theta])
    assert mtl.Oracle(objective).losses().tolist() == [1.0, 2.0]


def test_a_source_that_reaches_nothing_of_a_parameter_has_zeros_there() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    rows = mtl.Oracle(mtl.Objective(lambda: [a.sum(), (a * b).sum()], [a, b])).jacobian().rows
    assert rows.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_sparse_gradients_are_taken() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    index = torch.tensor([1, 1, 3])
    rows = mtl.Oracle(mtl.Objective(lambda: [table(index).sum()], table.parameters())).jacobian().rows
    assert rows.view(4, 2).sum(1).tolist() == [0, 4, 0, 2]


def step(theta: torch.Tensor, solver: mtl.Solver | None = None, losses=None, **options) -> None:
    objective = mtl.Objective(losses or (lambda: [theta.sum(), theta.prod()]), [theta], **options)
    (solver or mtl.Equal()).step(objective, sgd(theta))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["x", "x"]}, "two sources are named 'x'"),
        ({"names": []}, "at least one source"),
        ({"names": ["x", "y", "z"]}, "gave 2 losses.* 3 sources"),
        ({"names": ["x", "y"], "specific": [[]]}, "2 names but 1 lists"),
        ({"specific": [[], [], []]}, "gave 2 losses.* 3 sources"),
        ({"graph": "seperate"}, "did you mean 'separate'"),
        ({"graph": "separate"}, "needs source="),
        ({"graph": "separate", "names": ["x", "y"]}, "needs source="),
        ({"losses": lambda: []}, "(no|at least one) loss"),
        ({"losses": lambda: [1.0, 2.0]}, "loss 0 is not a tensor but float"),
        ({"losses": lambda: [torch.ones(2, requires_grad=True)]}, r"loss 0 is not a scalar.*\(2,\)"),
        ({"losses": lambda: torch.ones((), requires_grad=True)}, r"found a tensor of shape \(\)"),
        ({"losses": lambda: torch.ones(2, 2, requires_grad=True)}, r"found a tensor of shape \(2, 2\)"),
        ({"losses": lambda: torch.ones(2), "names": ["x", "y"]}, "'x' does not require grad"),
        ({"losses": lambda: None}, "losses .*NoneType|losses .*None"),
        ({"losses": lambda: 3.0}, "losses .*float"),
        ({"losses": lambda: {"x": torch.ones((), requires_grad=True)}}, "losses .*dict|loss .* str"),
        ({"solver": mtl.Equal(n_sources=3)}, "built for 3 sources, the objective has 2"),
        ({"solver": mtl.Equal(weights=[1.0])}, "built for 1 sources, the objective has 2"),
    ],
)
def test_errors(theta: torch.Tensor, options: dict, message: str) -> None:
    start = theta.detach().clone()
    with pytest.raises(mtl.UsageError, match=message):
        step(theta, **options)
    assert torch.equal(theta.detach(), start)


@pytest.mark.parametrize("solver", [mtl.Equal(), mtl.NashMTL(), mtl.FAMO(), mtl.SAGE(mtl.Equal())])
def test_a_constant_loss_is_an_error(theta: torch.Tensor, solver: mtl.Solver) -> None:
    losses = lambda: [theta.sum(), theta.detach().sum()]  # noqa: E731
    with pytest.raises(mtl.UsageError, match="'y' does not require grad"):
        step(theta, solver, losses, names=["x", "y"])


def test_frozen_statistics_come_back_after_an_exception() -> None:
    norm, eval_norm = nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval()
    untracked = nn.BatchNorm1d(2, track_running_stats=False)
    model = nn.Sequential(norm, eval_norm, untracked)
    objective = mtl.Objective(lambda: [], model.parameters(), modules=[model, norm])
    with pytest.raises(KeyError), objective.frozen_statistics():
        raise KeyError
    assert [m.track_running_stats for m in model] == [True, True, False]
