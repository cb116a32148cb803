"""Models: shapes, the partition of the parameters, options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mtlsuite as mtl
from mtlsuite.core.registry import build
from mtlsuite.models import MLP, ConvNet, SegNet, UNet

CLASSES = {"class": 10, "parity": 2}
DENSE = {"segmentation": 6, "depth": 1, "normals": 3}
MODELS = {
    "mlp": (lambda **o: MLP(CLASSES, (1, 8, 8), width=12, **o), (1, 8, 8), CLASSES, ()),
    "convnet": (lambda **o: ConvNet(CLASSES, (3, 12, 12), widths=[4, 8], **o), (3, 12, 12), CLASSES, ()),
    "unet": (lambda **o: UNet(DENSE, (3, 12, 16), widths=[4, 6, 8], **o), (3, 12, 16), DENSE, (12, 16)),
    "segnet": (lambda: SegNet(DENSE, (3, 12, 16), widths=[4, 6, 8]), (3, 12, 16), DENSE, (12, 16)),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest):
    return MODELS[request.param]


def test_predictions_have_the_shapes_of_the_tasks(case) -> None:
    make, shape, tasks, pixels = case
    predictions = make()(torch.randn(3, *shape))
    assert {t: tuple(p.shape) for t, p in predictions.items()} == {
        t: (3, n, *pixels) for t, n in tasks.items()
    }


def test_every_parameter_is_shared_or_of_one_task(case) -> None:
    """By the gradients: what is specific to task k is reached by task k alone, the rest by all."""
    make, shape, tasks, _ = case
    torch.manual_seed(0)
    model = make()
    predictions = model(torch.randn(4, *shape))
    parameters = dict(model.named_parameters())
    reached = {}
    for task in tasks:
        grads = torch.autograd.grad(
            (predictions[task] ** 2).sum(), parameters.values(), retain_graph=True, allow_unused=True
        )
        reached[task] = {id(p) for p, g in zip(parameters.values(), grads, strict=True) if g is not None}
    shared = {id(p) for p in model.shared_parameters()}
    assert shared == set.intersection(*reached.values())
    for task, group in zip(tasks, model.specific_parameters(), strict=True):
        assert {id(p) for p in group} == reached[task] - shared
        assert group


@pytest.mark.parametrize("solver", ["nash_mtl", {"base": "famo", "wrap": ["sage"]}])
def test_trains(case, solver) -> None:
    make, shape, tasks, pixels = case
    torch.manual_seed(0)
    model = make()
    inputs = torch.randn(6, *shape)
    targets = {t: torch.randn(6, n, *pixels) for t, n in tasks.items()}
    objective = mtl.TaskObjective(model, inputs, targets, dict.fromkeys(tasks, nn.functional.mse_loss))
    solver, optimizer = mtl.build_solver(solver), torch.optim.Adam(model.parameters(), lr=3e-3)
    reports = [solver.step(objective, optimizer) for _ in range(15)]
    assert reports[-1].losses.sum() < 0.98 * reports[0].losses.sum()


@pytest.mark.parametrize("name", ["convnet", "unet"])
@pytest.mark.parametrize(
    ("norm", "kind", "there"),
    [("batch", nn.BatchNorm2d, True), ("group", nn.GroupNorm, True), ("none", nn.Module, False)],
)
def test_norm(name: str, norm: str, kind: type, there: bool) -> None:
    make, shape, _, _ = MODELS[name]
    model = make(norm=norm)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert all(isinstance(m, kind) for m in norms)
    assert bool(norms) == there
    model(torch.randn(2, *shape))


def test_unet_takes_odd_sizes() -> None:
    model = UNet({"depth": 1}, (3, 9, 13), widths=[4, 6, 8])
    assert model(torch.randn(2, 3, 9, 13))["depth"].shape == (2, 1, 9, 13)
    assert model(torch.randn(2, 3, 8, 16))["depth"].shape == (2, 1, 8, 16)


def test_unet_sees_far_and_keeps_detail() -> None:
    """A pixel's prediction depends on that very pixel and on pixels far away."""
    torch.manual_seed(0)
    model = UNet({"depth": 1}, (1, 16, 16), widths=[4, 6, 8], norm="none").double()
    inputs = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(model(inputs)["depth"][0, 0, 8, 8], inputs)
    assert grad[0, 0, 8, 8] != 0
    assert grad[0, 0, 2, 8] != 0


def test_mlp_depth() -> None:
    for depth in (1, 3):
        model = MLP({"class": 2}, (4,), width=5, depth=depth)
        assert sum(isinstance(m, nn.Linear) for m in model.modules()) == depth + 1


def test_build_by_name_with_context() -> None:
    model = build("model", {"name": "convnet", "widths": [4]}, tasks={"class": 3}, input_shape=(3, 8, 8))
    assert model(torch.randn(2, 3, 8, 8))["class"].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"width": 0}), ("mlp", {"depth": 1.5}), ("convnet", {"widths": [4, 0]}),
        ("convnet", {"norm": "layer"}), ("unet", {"widths": []}), ("unet", {"width": 3}),
    ],
)  # fmt: skip
def test_bad_options(name: str, options: dict) -> None:
    spec = {"tasks": {"class": 3}, "input_shape": (3, 8, 8), "name": name, **options}
    with pytest.raises(mtl.UsageError, match=next(iter(options))):
        build("model", spec)
