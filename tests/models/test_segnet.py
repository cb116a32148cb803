"""SegNet and SegNet-MTAN: the published structure, layer by layer, and the published parameter counts."""

from __future__ import annotations

import functional_segnet
import pytest
import torch
from torch import nn

import mtlsuite as mtl
from mtlsuite.core.registry import build
from mtlsuite.metrics import Depth, Normals, Segmentation
from mtlsuite.models import MTAN, SegNet

NYUV2 = {"segmentation": 13, "depth": 1, "normals": 3}
CITYSCAPES = {"segmentation": 7, "depth": 1}
CRITERIA = {"segmentation": Segmentation.loss, "depth": Depth.loss, "normals": Normals.loss}
SMALL = [4, 6, 8, 10, 10]
MODELS = {"segnet": SegNet, "segnet_mtan": MTAN}
both = pytest.mark.parametrize("model_class", MODELS.values(), ids=MODELS)


def small(model_class: type, tasks: dict[str, int] = NYUV2, **options) -> nn.Module:
    torch.manual_seed(0)
    return model_class(tasks, **{"widths": SMALL, **options})


def size_of(parameters) -> int:
    return sum(p.numel() for p in parameters)


def targets(n: int, height: int, width: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    normals = nn.functional.normalize(torch.randn(n, 3, height, width, generator=draw), dim=1)
    return {
        "segmentation": torch.randint(-1, 13, (n, height, width), generator=draw),
        "depth": torch.rand(n, 1, height, width, generator=draw),
        "normals": normals,
    }


# --- the published structure ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_class", "tasks", "total", "in_heads"),
    [
        (SegNet, NYUV2, 25_055_185, 111_889), (MTAN, NYUV2, 44_229_073, 111_889),
        (SegNet, CITYSCAPES, 25_017_672, 74_376), (MTAN, CITYSCAPES, 41_206_984, 74_376),
    ],
)  # fmt: skip
def test_published_parameter_counts(model_class, tasks, total: int, in_heads: int) -> None:
    with torch.device("meta"):
        model = model_class(tasks)
    assert size_of(model.parameters()) == total
    assert [size_of(group) for group in model.specific_parameters()] == [
        (64 * 64 * 9 + 64) + (64 * n + n) for n in tasks.values()
    ]
    assert sum(size_of(group) for group in model.specific_parameters()) == in_heads
    assert size_of(model.shared_parameters()) == total - in_heads


ENCODER = [  # channels of the convolutions of each stage, as (inputs, outputs)
    [(3, 64), (64, 64)],
    [(64, 128), (128, 128)],
    [(128, 256), (256, 256), (256, 256)],
    [(256, 512), (512, 512), (512, 512)],
    [(512, 512), (512, 512), (512, 512)],
]
DECODER = [
    [(64, 64), (64, 64)],
    [(128, 64), (64, 64)],
    [(256, 128), (128, 128), (128, 128)],
    [(512, 256), (256, 256), (256, 256)],
    [(512, 512), (512, 512), (512, 512)],
]
MASKS = {
    "encoder": [(64, 64), (256, 128), (512, 256), (1024, 512), (1024, 512)],
    "decoder": [(128, 64), (192, 64), (384, 128), (768, 256), (1024, 512)],
}
DOWN = [(64, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
UP = [(64, 64), (128, 64), (256, 128), (512, 256), (512, 512)]


def kinds(module: nn.Module) -> list[type]:
    return [type(m) for m in module.modules() if not list(m.children())]


def channels(module: nn.Module, kernel: int) -> list[tuple[int, int]]:
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    for m in convolutions:
        assert m.kernel_size == (kernel, kernel)
        assert m.stride == (1, 1)
        assert m.padding == (kernel // 2, kernel // 2)
        assert m.bias is not None
    return [(m.in_channels, m.out_channels) for m in convolutions]


@both
def test_layers_of_the_trunk_and_heads(model_class) -> None:
    with torch.device("meta"):
        model = model_class(NYUV2)
    for found, wanted in ((model.trunk.encoder, ENCODER), (model.trunk.decoder, DECODER)):
        assert [channels(stage, 3) for stage in found] == wanted
        for stage, pairs in zip(found, wanted, strict=True):
            assert kinds(stage) == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * len(pairs)
    for task, head in model.heads.items():
        assert kinds(head) == [nn.Conv2d, nn.Conv2d]
        assert channels(head[0], 3) == [(64, 64)]
        assert channels(head[1], 1) == [(64, NYUV2[task])]


def test_layers_of_the_attention() -> None:
    with torch.device("meta"):
        model = MTAN(NYUV2)
    assert list(model.attention) == list(NYUV2)
    for masks in model.attention.values():
        for part, wanted in MASKS.items():
            found = getattr(masks, part)
            assert [channels(mask, 1) for mask in found] == [[(n, m), (m, m)] for n, m in wanted]
            for mask in found:
                assert kinds(mask) == [
                    nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.Sigmoid,
                ]  # fmt: skip
    for found, wanted in ((model.down, DOWN), (model.up, UP)):
        assert [channels(block, 3) for block in found] == [[pair] for pair in wanted]
        assert all(kinds(block) == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] for block in found)


@both
@pytest.mark.parametrize("size", [(32, 64), (37, 51)], ids=["even", "odd"])
def test_forward_is_that_of_the_description(model_class, size: tuple[int, int]) -> None:
    """Predictions and gradients, in float64, against plain arithmetic with the same weights."""
    model = small(model_class).double()
    draw = torch.Generator().manual_seed(2)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
        nn.init.normal_(norm.bias, 0, 0.3, generator=draw)
    for convolution in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        nn.init.normal_(convolution.bias, 0, 0.3, generator=draw)
    inputs = torch.rand(2, 3, *size, dtype=torch.float64, generator=draw)
    found = model(inputs)
    wanted = getattr(functional_segnet, "segnet" if model_class is SegNet else "mtan")(model, inputs)
    parameters = list(model.parameters())
    for task, n in NYUV2.items():
        assert found[task].shape == (2, n, *size)
        torch.testing.assert_close(found[task], wanted[task], rtol=1e-9, atol=1e-9)
        gradients = [
            torch.autograd.grad(
                p[task].square().sum(),
                parameters,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for p in (found, wanted)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


@both
def test_initial_weights(model_class) -> None:
    """Xavier-normal: variance 2 / (fan in + fan out); all biases zero."""
    model = small(model_class, widths=[32, 48])
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for m in convolutions:
        assert not m.bias.any()
        fans = m.kernel_size[0] ** 2 * (m.in_channels + m.out_channels)
        relative = m.weight.square().mean() * fans / 2
        assert abs(relative - 1) < 6 * (2 / m.weight.numel()) ** 0.5  # six standard errors
    for m in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert (m.weight == 1).all()
        assert not m.bias.any()


@both
def test_seed_decides(model_class) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(nn.utils.parameters_to_vector(model_class(CITYSCAPES, widths=[3, 4]).parameters()))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# --- who reaches what -------------------------------------------------------------------------------------


def reached(model: nn.Module, task: str) -> set[str]:
    """Names of the parameters with a gradient that is not zero, of the task's predictions."""
    model.zero_grad(set_to_none=True)
    draw = torch.Generator().manual_seed(3)
    prediction = model(torch.rand(2, 3, 32, 32, generator=draw, dtype=torch.float64))[task]
    (prediction * torch.randn(prediction.shape, generator=draw, dtype=torch.float64)).sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


@both
def test_heads_and_attention_are_reached_by_their_task_alone(model_class) -> None:
    model = small(model_class).double()
    mine = ("heads", "attention")
    rest = {name for name, _ in model.named_parameters() if not name.startswith(mine)}
    for task in NYUV2:
        own = {n for n, _ in model.named_parameters() if n.startswith(tuple(f"{m}.{task}." for m in mine))}
        assert reached(model, task) <= rest | own
        assert {n for n in own if "weight" in n} <= reached(model, task)
        assert {n for n in rest if "weight" in n} <= reached(model, task)


def test_attention_counts_as_shared() -> None:
    model = small(MTAN)
    shared = {id(p) for p in model.shared_parameters()}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in shared) == (not name.startswith("heads.")), name
    assert len(shared) == len(model.shared_parameters())


@both
def test_a_step_of_nash_mtl(model_class) -> None:
    """On every parameter; the rows of the Jacobian are zero at the other tasks' attention."""
    model = small(model_class, widths=[3, 4])
    objective = mtl.TaskObjective(model, torch.rand(2, 3, 12, 16), targets(2, 12, 16), CRITERIA)
    assert objective.space.n_shared == size_of(model.shared_parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = mtl.NashMTL(n_sources=3).step(objective, torch.optim.Adam(model.parameters(), lr=1e-3))
    assert report.weights.min() > 0
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name in before if name.endswith("weight")} <= moved


# --- sizes, channels, modes -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("size", [(288, 384), (33, 70)])
def test_sizes(model_class, size: tuple[int, int]) -> None:
    model = small(model_class, widths=[2, 3, 4, 5, 5])
    predictions = model(torch.rand(1, 3, *size))
    assert {task: p.shape for task, p in predictions.items()} == {t: (1, n, *size) for t, n in NYUV2.items()}
    assert all(torch.isfinite(p).all() for p in predictions.values())


@both
def test_smallest_images_and_one_less(model_class) -> None:
    model = small(model_class, widths=[2, 3, 4])
    assert model.eval()(torch.rand(1, 3, 8, 9))["depth"].shape == (1, 1, 8, 9)
    says = "images of 8 x 7 pixels; 3 widths .* at least 8 x 8 are needed"
    with pytest.raises(mtl.UsageError, match=says):
        model(torch.rand(1, 3, 8, 7))
    with pytest.raises(mtl.UsageError, match=says) as caught:
        model_class(NYUV2, (3, 8, 7), widths=[2, 3, 4])
    assert caught.value.key == ("widths",)


@both
def test_other_channels_and_what_is_no_image(model_class) -> None:
    model = small(model_class, {"depth": 1}, input_shape=(4, 32, 32))
    assert model(torch.rand(2, 4, 32, 32))["depth"].shape == (2, 1, 32, 32)
    with pytest.raises(mtl.UsageError, match=r"\(7,\).*images"):
        model_class(NYUV2, (7,))


@both
def test_batch_norm_has_two_modes(model_class) -> None:
    """In training, an image's prediction depends on the others of its batch; in evaluation it does not."""
    model = small(model_class, widths=[3, 4]).double()
    inputs = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    together = model(inputs)["depth"][:2]
    assert not torch.allclose(together, model(inputs[:2])["depth"])
    model.eval()
    torch.testing.assert_close(model(inputs)["depth"][:2], model(inputs[:2])["depth"])


@both
def test_by_name_with_its_options(model_class) -> None:
    model = build("model", {"name": model_class.name, "widths": [3, 4]}, tasks=NYUV2, input_shape=(3, 8, 8))
    assert type(model) is model_class
    assert model(torch.rand(2, 3, 8, 8))["normals"].shape == (2, 3, 8, 8)


@both
@pytest.mark.parametrize(
    "options", [{"widths": []}, {"widths": [4, 0]}, {"tasks": {}}, {"tasks": {"depth": 0}}]
)
def test_bad_options(model_class, options: dict) -> None:
    with pytest.raises(mtl.UsageError, match=next(iter(options))):
        model_class(**{"tasks": NYUV2, **options})
