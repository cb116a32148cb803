"""DeepLab on ResNet-50: the dilated backbone, the heads, the weights that it starts from."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet50_Weights, resnet50

import mtlsuite as mtl
from mtlsuite.models import DeepLabResNet50

TASKS = {"segmentation": 13, "depth": 1, "normals": 3}


def meta(tasks: dict[str, int] = TASKS, **options) -> DeepLabResNet50:
    """Shapes without values, made in no time."""
    with torch.device("meta"):
        return DeepLabResNet50(tasks, **options)


def randomize_norms(module: nn.Module) -> None:
    """Running statistics and affine maps as after some training."""
    draw = torch.Generator().manual_seed(4)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.running_var):
            nn.init.uniform_(tensor, 0.8, 1.2, generator=draw)
        for tensor in (norm.bias, norm.running_mean):
            nn.init.normal_(tensor, 0, 0.2, generator=draw)


@pytest.fixture(scope="module")
def model() -> DeepLabResNet50:
    torch.manual_seed(0)
    model = DeepLabResNet50({"depth": 1, "normals": 3})
    randomize_norms(model)
    return model.eval()


def test_parameter_counts() -> None:
    """ResNet-50 without its classifier; a head by the sum over its layers (BatchNorm: two a channel)."""
    model = meta()
    assert sum(p.numel() for p in model.shared_parameters()) == 25_557_032 - (2048 * 1000 + 1000)
    pyramid = 2 * (2048 * 256) + 3 * (2048 * 256 * 9) + (5 * 256) * 256 + 6 * (2 * 256)
    last = 256 * 256 * 9 + 2 * 256
    assert [sum(p.numel() for p in group) for group in model.specific_parameters()] == [
        pyramid + last + 256 * n + n for n in TASKS.values()
    ]
    counted = sum(map(len, model.specific_parameters())) + len(model.shared_parameters())
    assert counted == len(list(model.parameters()))


@torch.no_grad()
def test_dilation_refines_the_grid_of_resnet50(model: DeepLabResNet50) -> None:
    """At every fourth row and column, the features are those of the ResNet-50 with its strides."""
    plain, dilated = resnet50().double().eval(), copy.deepcopy(model.trunk).double()
    plain.load_state_dict({**plain.state_dict(), **dilated.state_dict()})
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(1, 3, 64, 96, generator=draw, dtype=torch.float64)
    coarse, fine = nn.Sequential(*list(plain.children())[:-2])(images), dilated(images)
    assert fine.shape == (1, 2048, 8, 12)
    torch.testing.assert_close(fine[:, :, ::4, ::4], coarse)


def block(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, dilation: int = 1) -> Tensor:
    padding = dilation * (conv.weight.shape[-1] // 2)
    x = F.conv2d(x, conv.weight, padding=padding, dilation=dilation)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    x = (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    return x.clamp(min=0)


@torch.no_grad()
def test_heads_layer_by_layer(model: DeepLabResNet50) -> None:
    """Rates 1, 12, 24, 36 and the mean of the image side by side, then two layers, then upsampling."""
    images = torch.rand(2, 3, 45, 70, generator=torch.Generator().manual_seed(2))
    features, predictions = model.trunk(images), model(images)
    for task, head in model.heads.items():
        convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
        norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(convolutions) == 8
        rates = [1, 12, 24, 36]
        side_by_side = [block(features, convolutions[i], norms[i], rate) for i, rate in enumerate(rates)]
        mean = block(features.mean(dim=(2, 3), keepdim=True), convolutions[4], norms[4])
        side_by_side.append(mean.expand_as(side_by_side[0]))
        x = block(torch.cat(side_by_side, dim=1), convolutions[5], norms[5])
        x = block(x, convolutions[6], norms[6])
        x = F.conv2d(x, convolutions[7].weight, convolutions[7].bias)
        wanted = F.interpolate(x, size=(45, 70), mode="bilinear", align_corners=True)
        torch.testing.assert_close(predictions[task], wanted, rtol=1e-4, atol=1e-5)
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # what align_corners means
            torch.testing.assert_close(predictions[task][(..., *corner)], x[(..., *corner)])


@pytest.mark.parametrize("size", [(288, 384), (33, 50)])
def test_sizes_and_channels(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model, images = DeepLabResNet50(TASKS, (4, *size)), torch.empty(2, 4, *size)
        predictions = model(images)
    assert {task: p.shape for task, p in predictions.items()} == {t: (2, n, *size) for t, n in TASKS.items()}


def test_first_convolution_of_other_channels_is_initialised_as_resnet_does() -> None:
    torch.manual_seed(0)
    weight = DeepLabResNet50({"depth": 1}, (4, 8, 8)).trunk.conv1.weight
    relative = weight.square().mean() * (64 * 7 * 7) / 2  # variance 2 / fan out
    assert abs(relative - 1) < 6 * (2 / weight.numel()) ** 0.5


@pytest.mark.slow
def test_a_step_of_nash_mtl() -> None:
    torch.manual_seed(0)
    tasks = {"depth": 1, "normals": 3}
    model = DeepLabResNet50(tasks)
    targets = {task: torch.randn(2, n, 16, 16) for task, n in tasks.items()}
    criteria = dict.fromkeys(tasks, F.mse_loss)
    objective = mtl.TaskObjective(model, torch.rand(2, 3, 16, 16), targets, criteria)
    before = [head[-1].weight.clone() for head in model.heads.values()] + [model.trunk.conv1.weight.clone()]
    report = mtl.NashMTL(n_sources=2).step(objective, torch.optim.SGD(model.parameters(), lr=1e-2))
    after = [head[-1].weight for head in model.heads.values()] + [model.trunk.conv1.weight]
    assert report.weights.min() > 0
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


# --- weights to start from --------------------------------------------------------------------------------


def state(value: float) -> dict[str, Tensor]:
    """A state dict of torchvision's ResNet-50, every entry the same number, small in a file."""
    with torch.device("meta"):
        shapes = {key: (entry.shape, entry.dtype) for key, entry in resnet50().state_dict().items()}
    return {key: torch.tensor(value).to(dtype).expand(shape) for key, (shape, dtype) in shapes.items()}


def test_weights_of_a_file(tmp_path: Path) -> None:
    torch.save(state(2.0), tmp_path / "resnet50.pt")
    model = DeepLabResNet50({"depth": 1}, encoder_weights=str(tmp_path / "resnet50.pt"))
    assert all((entry == 2).all() for entry in model.trunk.state_dict().values())
    assert not any((p == 2).all() for p in model.heads["depth"].parameters())


def test_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stored(weights: ResNet50_Weights, **_: object) -> dict[str, Tensor]:
        asked.append(weights)
        return state(3.0)

    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", stored)
    model = DeepLabResNet50({"depth": 1}, encoder_weights="IMAGENET1K_V1")
    assert asked == [ResNet50_Weights.IMAGENET1K_V1]
    assert all((entry == 3).all() for entry in model.trunk.state_dict().values())


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", offline)
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for weights, says in {
        "IMAGENET1K_V3": "did you mean 'IMAGENET1K_V[12]'.*no such file",
        "IMAGENET1K_V2": "no connection",
        str(tmp_path / "text.pt"): "cannot load the weights .*text.pt",
        str(tmp_path / "other.pt"): "cannot load the weights .*other.pt",
        str(tmp_path / "list.pt"): "list.pt: a state dict is needed, found a list",
    }.items():
        with pytest.raises(mtl.UsageError, match=f"(?s){says}") as caught:
            DeepLabResNet50({"depth": 1}, encoder_weights=weights)
        assert caught.value.key == ("encoder_weights",)


def test_weights_for_other_channels(tmp_path: Path) -> None:
    torch.save(state(2.0), tmp_path / "resnet50.pt")
    with pytest.raises(mtl.UsageError, match=r"(?s)cannot load the weights.*conv1\.weight"):
        DeepLabResNet50({"depth": 1}, input_shape=(4, 8, 8), encoder_weights=str(tmp_path / "resnet50.pt"))
