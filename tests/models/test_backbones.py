"""Backbones: the networks of torchvision and timm, the weights they start from, frozen BatchNorm."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn import functional as F

import mtlsuite as mtl
from mtlsuite.core.registry import build
from mtlsuite.models.backbones import MNISTConvNet, ResNet18, ResNet50, ViTB16
from mtlsuite.models.timm_backbone import Timm

TASKS = {"class": 7}
MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def images(n: int = 4, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def randomize_norms(module: nn.Module) -> None:
    """Running statistics and affine maps as after some training."""
    draw = torch.Generator().manual_seed(4)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.running_var):
            nn.init.uniform_(tensor, 0.8, 1.2, generator=draw)
        for tensor in (norm.bias, norm.running_mean):
            nn.init.normal_(tensor, 0, 0.2, generator=draw)


@pytest.fixture(scope="module")
def resnet() -> zoo.ResNet:
    torch.manual_seed(0)
    network = zoo.resnet18()
    randomize_norms(network)
    return network.eval()


@pytest.fixture(scope="module")
def stored(resnet: zoo.ResNet, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with weights for a ResNet-18."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(resnet.state_dict(), path)
    return str(path)


# --- networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "shape", "shared", "features"),
    [
        ("resnet18", (3, 224, 224), 11_689_512 - 513_000, 512),
        ("resnet50", (3, 224, 224), 25_557_032 - 2_049_000, 2048),
        ("vit_b_16", (3, 224, 224), 86_567_656 - 769_000, 768),
        ("resnet18", (2, 28, 28), 11_689_512 - 513_000 - 64 * 49, 512),
        ("mnist_cnn", (1, 28, 28), 640 + 73_856 + 2 * 147_584 + 2 * (64 + 3 * 128), 128),
        ("mnist_cnn", (2, 28, 28), 640 + 576 + 73_856 + 2 * 147_584 + 2 * (64 + 3 * 128), 128),
    ],
)
def test_parameters_and_shapes(spec: str, shape: tuple[int, ...], shared: int, features: int) -> None:
    """torchvision's published counts (1,000 classes), less the classifier."""
    with torch.device("meta"):
        model = build("model", spec, tasks={"class": 7, "other": 2}, input_shape=shape)
        predictions = model(torch.empty(3, *shape))
    assert {task: p.shape for task, p in predictions.items()} == {"class": (3, 7), "other": (3, 2)}
    assert count(model.shared_parameters()) == shared
    assert [count(group) for group in model.specific_parameters()] == [7 * (features + 1), 2 * (features + 1)]


@torch.no_grad()
def test_resnet_is_torchvisions(resnet: zoo.ResNet, stored: str) -> None:
    model = ResNet18({"class": 1000}, weights=stored)
    model.heads["class"].load_state_dict(resnet.fc.state_dict())
    torch.testing.assert_close(model.eval()(images())["class"], resnet(images()))


@pytest.mark.slow
@torch.no_grad()
def test_vit_is_torchvisions_and_its_positions_are_interpolated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = zoo.vit_b_16(image_size=32).eval()
    torch.save(network.state_dict(), tmp_path / "vit.pt")
    model = ViTB16({"class": 1000}, (3, 32, 32), weights=str(tmp_path / "vit.pt"))
    model.heads["class"].load_state_dict(network.heads.head.state_dict())
    torch.testing.assert_close(model.eval()(images())["class"], network(images()))
    larger = ViTB16(TASKS, (3, 64, 64), weights=str(tmp_path / "vit.pt")).trunk.network
    small = network.encoder.pos_embedding[0, 1:].reshape(2, 2, -1)
    large = larger.encoder.pos_embedding[0, 1:].reshape(4, 4, -1)
    torch.testing.assert_close(large[::3, ::3], small)  # corners stay corners
    assert torch.equal(larger.encoder.pos_embedding[0, 0], network.encoder.pos_embedding[0, 0])


@torch.no_grad()
def test_the_network_for_small_images_layer_by_layer() -> None:
    torch.manual_seed(0)
    model = MNISTConvNet({"class": 2}, (2, 28, 28))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    x = images(channels=2, size=28)
    for conv, norm, stride, size in zip(convolutions, norms, (1, 2, 1, 1), (28, 14, 14, 14), strict=True):
        x = F.conv2d(x, conv.weight, conv.bias, stride=stride, padding=1).clamp(min=0)
        x = F.group_norm(x, 8, norm.weight, norm.bias)
        assert x.shape[2:] == (size, size)
    head = model.heads["class"]
    wanted = x.mean(dim=(2, 3)) @ head.weight.T + head.bias
    torch.testing.assert_close(model(images(channels=2, size=28))["class"], wanted)


@torch.no_grad()
def test_images_are_normalized_if_asked(stored: str) -> None:
    plain, normalizing = (ResNet18(TASKS, weights=stored, normalize=normalize) for normalize in (False, True))
    normalizing.load_state_dict(plain.state_dict())
    x = images()
    by_hand = torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalizing(x)["class"], plain(by_hand)["class"])
    with pytest.raises(mtl.UsageError, match="RGB images, found 2 channels"):
        ResNet18(TASKS, (2, 28, 28), normalize=True)


def test_dropout_is_before_the_heads(stored: str) -> None:
    model = ResNet18(TASKS, weights=stored, dropout=0.5)
    torch.manual_seed(0)
    features = model.trunk(images(8))
    whole = model.eval().trunk(images(8))
    there = whole > 0  # after a ReLU and a mean
    assert there.sum() > 1000
    dropped = features[there] == 0
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(features[there][~dropped], 2 * whole[there][~dropped])
    with pytest.raises(mtl.UsageError, match=r"dropout.*found 1\.0"):
        ResNet18(TASKS, dropout=1.0)


# --- frozen BatchNorm -------------------------------------------------------------------------------------


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def step(model: nn.Module) -> None:
    """One of two domains, K = 2."""
    model.train()
    minibatches = [(images(4), torch.arange(4)), (1 - images(3), torch.arange(3))]
    objective = mtl.DomainObjective(model, minibatches, lambda p, y: F.cross_entropy(p["class"], y))
    solver = mtl.build_solver({"base": "equal", "wrap": ["sam"]}, n_sources=2)
    solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_moves_the_statistics_unless_frozen_and_the_affine_maps_anyway(
    stored: str, frozen: bool
) -> None:
    model = ResNet18(TASKS, weights=stored, freeze_bn=frozen)
    before, affine = buffers(model), [norm.weight.detach().clone() for norm in norms(model)]
    biases = [norm.bias.detach().clone() for norm in norms(model)]
    step(model)
    same = {name for name, buffer in model.named_buffers() if torch.equal(buffer, before[name])}
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert len(statistics) == 3 * 20
    assert statistics <= same if frozen else not statistics & same
    for norm, weight, bias in zip(norms(model), affine, biases, strict=True):
        assert not torch.equal(norm.weight, weight)
        assert not torch.equal(norm.bias, bias)


def test_nothing_thaws_a_frozen_norm(stored: str) -> None:
    model = ResNet18(TASKS, weights=stored)
    for again in (model, copy.deepcopy(model)):
        for mode in (again.train, again.trunk.train, again.eval, again.train):
            mode()
            assert not any(norm.training for norm in norms(again))
            assert all(norm.weight.requires_grad for norm in norms(again))
    assert model.training
    assert model.trunk.network.layer1.training
    with torch.no_grad():
        torch.testing.assert_close(model(images())["class"], model.eval()(images())["class"])


def test_norms_are_frozen_where_the_model_starts_from_weights(stored: str) -> None:
    def frozen(**options) -> bool:
        states = {norm.training for norm in norms(ResNet18(TASKS, **options))}
        assert len(states) == 1
        return states == {False}

    assert frozen(weights=stored)
    assert not frozen()
    assert not frozen(weights=stored, freeze_bn=False)
    assert frozen(freeze_bn=True)


# --- weights ----------------------------------------------------------------------------------------------


def constant(network, value: float) -> dict[str, Tensor]:
    """A state dict of that network, every entry the same number."""
    with torch.device("meta"):
        entries = {key: (entry.shape, entry.dtype) for key, entry in network().state_dict().items()}
    return {key: torch.tensor(value).to(dtype).expand(shape) for key, (shape, dtype) in entries.items()}


@pytest.mark.parametrize(
    ("cls", "network", "known"),
    [
        (ResNet18, zoo.resnet18, zoo.ResNet18_Weights),
        (ResNet50, zoo.resnet50, zoo.ResNet50_Weights),
        (ViTB16, zoo.vit_b_16, zoo.ViT_B_16_Weights),
    ],
)
def test_weights_by_name(monkeypatch: pytest.MonkeyPatch, cls: type, network, known) -> None:
    asked = []

    def get(weights, **_: object) -> dict[str, Tensor]:
        asked.append(weights)
        return constant(network, 3.0)

    monkeypatch.setattr(known, "get_state_dict", get)
    model = cls(TASKS, weights="IMAGENET1K_V1")
    assert asked == [known.IMAGENET1K_V1]
    assert all((entry == 3).all() for entry in model.trunk.state_dict().values())
    assert not any((p == 3).all() for p in model.heads.parameters())


@pytest.mark.parametrize("cls", [ResNet18, ViTB16])
def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection")

    known = zoo.ResNet18_Weights if cls is ResNet18 else zoo.ViT_B_16_Weights
    monkeypatch.setattr(known, "get_state_dict", offline)
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    for weights, says in {
        "IMAGENET1K_V2": "did you mean 'IMAGENET1K_V1'.*and there is no such file",
        "IMAGENET1K_V1": "cannot load the weights 'IMAGENET1K_V1': OSError: no connection",
        str(tmp_path / "text.pt"): r"cannot load the weights .*text\.pt",
        str(tmp_path / "other.pt"): r"cannot load the weights .*other\.pt",
        str(tmp_path / "list.pt"): r"list\.pt: a state dict is needed, found a list",
        str(tmp_path / "module.pt"): r"cannot load the weights .*module\.pt",
    }.items():
        with pytest.raises(mtl.UsageError, match=f"(?s){says}") as caught:
            cls(TASKS, weights=weights)
        assert caught.value.key == ("weights",)


def test_weights_for_other_channels(stored: str) -> None:
    with pytest.raises(mtl.UsageError, match=r"(?s)cannot load the weights.*conv1\.weight"):
        ResNet18(TASKS, (1, 28, 28), weights=stored)


@pytest.mark.parametrize("shape", [(3, 40, 40), (3, 32, 48), (1, 32, 32), (32,)])
def test_images_that_a_vision_transformer_does_not_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(mtl.UsageError, match="S a multiple of 16; found"):
        ViTB16(TASKS, shape)


# --- timm -------------------------------------------------------------------------------------------------

timm = pytest.importorskip("timm", reason="the model timm needs timm")
TINY = {"test_resnet": {}, "test_convnext": {}, "test_vit": {"img_size": 32}, "test_efficientnet": {}}


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_backbones_are_timms(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=1000, **TINY[name]).eval()
    randomize_norms(network)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = {"backbone": name, "weights": str(tmp_path / "weights.pt"), "options": TINY[name]}
    model = build("model", {"name": "timm", **options}, tasks={"class": 1000}, input_shape=(3, 32, 32))
    model.heads["class"].load_state_dict(network.get_classifier().state_dict())
    torch.testing.assert_close(model.eval()(images())["class"], network(images()))
    assert not any(norm.training for norm in norms(model.train()))
    assert any(module.training for module in model.trunk.network.children())


def test_a_frozen_backbone_of_timm_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    model = Timm(TASKS, "test_resnet", (3, 32, 32), freeze_bn=True)
    before = buffers(model)
    step(model)
    assert before.keys() == buffers(model).keys()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_other_channels_and_the_default_size() -> None:
    model = Timm(TASKS, "test_resnet", (2, 28, 28))
    assert model(images(channels=2, size=28))["class"].shape == (4, 7)
    assert Timm(TASKS, "test_vit").trunk.network.patch_embed.img_size == (160, 160)


def test_a_tag_is_asked_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = timm.create_model, []

    def create(name: str, pretrained: bool, **options: object):
        asked.append((name, pretrained))
        return original(name.partition(".")[0], **options)

    monkeypatch.setattr(timm, "create_model", create)
    model = Timm(TASKS, "test_resnet", (3, 32, 32), weights="r160_in1k")
    assert asked == [("test_resnet.r160_in1k", True)]
    assert not any(norm.training for norm in norms(model))


@pytest.mark.parametrize(
    ("options", "key", "says"),
    [
        ({"backbone": "resnet5o"}, "backbone", "did you mean 'resnet50'"),
        ({"backbone": "test_resnet", "weights": "r160"}, "weights", "did you mean 'r160_in1k'.*no such file"),
        ({"backbone": "test_resnet", "options": {"img_size": 3}}, "options", "test_resnet cannot be made"),
        ({"backbone": "vit_tiny_patch16_224"}, "options", "images of the shape .3, 32, 32. do not fit"),
    ],
)
def test_a_mistake_is_one_clear_error(options: dict, key: str, says: str) -> None:
    with pytest.raises(mtl.UsageError, match=f"(?s){says}") as caught:
        Timm(TASKS, input_shape=(3, 32, 32), **options)
    assert caught.value.key == (key,)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(mtl.UsageError, match=r"pip install 'mtlsuite\[timm\]'"):
        Timm(TASKS, "resnet50")
