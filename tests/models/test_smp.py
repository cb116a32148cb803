"""Encoders and decoders of segmentation-models-pytorch, against that package's own single-task models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from torch import nn

import mtlsuite as mtl
from mtlsuite import cli
from mtlsuite.experiments import runner
from mtlsuite.models import SMP
from mtlsuite.models.smp import Architecture

TASKS = {"depth": 1, "normals": 3}
FAMILIES = get_args(Architecture)
NARROW = {"decoder_channels": [24, 20, 16, 12, 8]}
OPTIONS = {  # of the families, so that their decoders are small
    "unet": NARROW, "unetplusplus": NARROW, "manet": NARROW, "fpn": {"decoder_pyramid_channels": 32},
    "pspnet": {"psp_out_channels": 32}, "deeplabv3": {"decoder_channels": 16},
    "deeplabv3plus": {"decoder_channels": 16}, "upernet": {"decoder_channels": 16},
    "segformer": {"decoder_segmentation_channels": 16},
    "dpt": {"decoder_intermediate_channels": [8, 8, 8, 8], "decoder_fusion_channels": 8},
}  # fmt: skip
QUICK = ("unet", "dpt")
families = pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)


@pytest.fixture
def package():
    return pytest.importorskip(
        "segmentation_models_pytorch", reason="the extra mtlsuite[smp] is not installed"
    )


needs_package = pytest.mark.usefixtures("package")


def encoder_of(family: str) -> dict:
    if family == "dpt":
        options = {"img_size": list(size_of(family)), "embed_dim": 24, "num_heads": 2}
        return {"encoder_name": "tu-vit_tiny_patch16_224", "encoder_options": options}
    return {"encoder_name": "resnet18"}


def size_of(family: str) -> tuple[int, int]:
    return (128, 160) if family == "pan" else (32, 64)  # pan pools what the encoder gives three times more


def make(family: str = "unet", **options) -> SMP:
    torch.manual_seed(0)
    return SMP(
        TASKS, **{"architecture": family, "options": OPTIONS.get(family, {}), **encoder_of(family), **options}
    )


def test_all_families_of_the_package(package) -> None:
    assert set(FAMILIES) == set(package.MODEL_ARCHITECTURES_MAPPING)


@families
def test_each_task_is_a_model_of_the_package_on_the_common_encoder(package, family: str) -> None:
    """Also backwards: the encoder's gradient is the sum of theirs, no decoder spoils the features."""
    model = make(family).double().eval()
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(1, 3, *size_of(family), generator=draw, dtype=torch.float64)
    found = model(images)
    losses = []
    for task, n in TASKS.items():
        options = encoder_of(family)
        further = {**options.get("encoder_options", {}), **OPTIONS.get(family, {})}
        alone = package.create_model(family, options["encoder_name"], None, classes=n, **further)
        alone.double().eval()
        alone.encoder = model.trunk
        alone.decoder.load_state_dict(model.heads[task].decoder.state_dict())
        alone.segmentation_head.load_state_dict(model.heads[task].last.state_dict())
        wanted = alone(images)
        assert wanted.shape == (1, n, *size_of(family))
        torch.testing.assert_close(found[task], wanted)
        losses.append(wanted.square().sum())
    shared = [p for p in model.shared_parameters() if p.requires_grad]
    total = sum(prediction.square().sum() for prediction in found.values())
    gradients = torch.autograd.grad(total, shared, allow_unused=True, materialize_grads=True)
    by_task = [torch.autograd.grad(x, shared, allow_unused=True, materialize_grads=True) for x in losses]
    for gradient, *parts in zip(gradients, *by_task, strict=True):
        torch.testing.assert_close(gradient, sum(parts))


@families
@needs_package
def test_a_step_of_nash_mtl(family: str) -> None:
    """In training mode; every decoder and head and a part of the encoder move."""
    model = make(family)
    images = torch.rand(2, 3, *size_of(family))
    targets = {task: torch.randn(2, n, *size_of(family)) for task, n in TASKS.items()}
    criteria = dict.fromkeys(TASKS, nn.functional.mse_loss)
    objective = mtl.TaskObjective(model, images, targets, criteria)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = mtl.NashMTL(n_sources=2).step(objective, torch.optim.SGD(model.parameters(), lr=1e-2))
    assert report.weights.min() > 0
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    for part in ("trunk.", *(f"heads.{task}.{which}." for task in TASKS for which in ("decoder", "last"))):
        assert any(name.startswith(part) for name in moved), part


@needs_package
def test_encoder_is_shared_and_run_once() -> None:
    model = make()
    calls = []
    model.trunk.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(2, 3, 32, 64))
    assert calls == [1]
    assert [id(p) for p in model.shared_parameters()] == [id(p) for p in model.trunk.parameters()]
    assert [len(group) for group in model.specific_parameters()] == [
        len(list(head.parameters())) for head in model.heads.values()
    ]
    weights = [model.heads[task].decoder.state_dict()["blocks.0.conv1.0.weight"] for task in TASKS]
    assert not torch.equal(*weights), "each decoder starts from weights of its own"


@needs_package
def test_seed_decides() -> None:
    one, two = make().state_dict(), make().state_dict()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@needs_package
def test_options_reach_encoder_and_decoder() -> None:
    options = {"encoder_depth": 3, "decoder_channels": [20, 12, 8]}
    model = make(options=options, input_shape=(4, 16, 24), encoder_name="mobilenet_v2")
    assert model(torch.rand(2, 4, 16, 24))["normals"].shape == (2, 3, 16, 24)
    last = next(m for m in model.heads["depth"].last if isinstance(m, nn.Conv2d))
    assert last.in_channels == 8
    model = make(encoder_name="tu-resnet18", encoder_options={"output_stride": 32, "block_args": {}})
    assert model(torch.rand(2, 3, 32, 32))["depth"].shape == (2, 1, 32, 32)


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key", "says"),
    [
        ({"architecture": "unett"}, ("architecture",), "'unett'"),
        ({"encoder_name": "resnet81"}, ("encoder_name",), "did you mean 'resnet18'"),
        ({"encoder_name": "tu-resnest18"}, ("encoder_name",), "'tu-resnet18'"),
        ({"encoder_name": "???"}, ("encoder_name",), "unknown encoder"),
        ({"encoder_weights": "imagnet"}, ("encoder_weights",), "did you mean 'imagenet'"),
        ({"encoder_name": "tu-resnet18", "encoder_weights": "imagenet"}, ("encoder_weights",), "a1_in1k"),
        ({"options": {"decoder_chanels": [1]}}, ("options", "decoder_chanels"), "'decoder_channels'"),
        ({"options": {"classes": 3}}, ("options", "classes"), "unknown option of unet"),
        ({"options": {"encoder_depth": 4}}, (), "Unet on resnet18 cannot be made"),
        ({"encoder_options": {"img_size": 3}}, ("encoder_options",), "has none"),
        (
            {"encoder_name": "tu-resnet18", "encoder_options": {"classes": 3}},
            ("encoder_options", "classes"),
            "no option of the encoder",
        ),
        ({"encoder_name": "tu-resnet18", "encoder_options": {"frobs": 3}}, (), "frobs"),
        ({"architecture": "dpt"}, (), "tu-"),
        ({"tasks": {}}, ("tasks",), "tasks"),
    ],
)
@needs_package
def test_what_is_refused(options: dict, key: tuple, says: str) -> None:
    with pytest.raises(mtl.UsageError, match=says.replace("?", r"\?")) as caught:
        SMP(**{"tasks": TASKS, "encoder_name": "resnet18", **options})
    assert caught.value.key == key


@needs_package
def test_sizes_that_do_not_fit() -> None:
    """At once where the data set tells the size, else with the first batch."""
    says = "images of 60 x 90 pixels; this encoder takes multiples of 32, such as 64 x 96"
    with pytest.raises(mtl.UsageError, match=says):
        make("linknet", input_shape=(3, 60, 90))
    with pytest.raises(mtl.UsageError, match=says):
        make("linknet")(torch.rand(2, 3, 60, 90))
    with pytest.raises(mtl.UsageError, match="64 x 96 pixels give predictions of 32 x 48"):
        make("pspnet", input_shape=(3, 64, 96), options={"upsampling": 4})
    with pytest.raises(mtl.UsageError, match="images of 64 x 64 pixels do not fit"):
        make("pan", input_shape=(3, 64, 64))
    with pytest.raises(mtl.UsageError, match="images of 128 x 128 pixels do not fit"):
        make("dpt", input_shape=(3, 128, 128))


@needs_package
def test_unet_takes_any_size() -> None:
    model = make(input_shape=(3, 37, 51))
    assert model(torch.rand(2, 3, 37, 51))["depth"].shape == (2, 1, 37, 51)


@needs_package
def test_trying_a_size_leaves_no_trace() -> None:
    one, two = make().state_dict(), make(input_shape=(3, 32, 32)).state_dict()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert make(input_shape=(3, 32, 32)).training


def test_weights_are_asked_for_once_and_by_name(package, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be downloaded stands ready here: the encoder gets it, whatever the number of tasks."""
    stored = {
        k: v + 1 for k, v in package.Unet("resnet18", encoder_weights=None).encoder.state_dict().items()
    }
    asked = []
    monkeypatch.setattr(package.encoders, "hf_hub_download", lambda repo, **_: asked.append(repo))
    monkeypatch.setattr(package.encoders, "load_file", lambda *_, **__: stored)
    state = make(encoder_weights="swsl").trunk.state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in state.items())
    assert len(asked) == 2, "one configuration, one file"
    assert all("resnet18" in repo and "swsl" in repo for repo in asked)


def test_weights_of_timm_by_name(package, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Recorded(package.encoders.TimmUniversalEncoder):
        def __init__(self, name: str, pretrained: bool, **options) -> None:
            asked.append((name, pretrained))
            super().__init__(name=name, pretrained=False, **options)

    monkeypatch.setattr(package.encoders, "TimmUniversalEncoder", Recorded)
    make(encoder_name="tu-resnet18", encoder_weights="a1_in1k")
    assert asked == [("resnet18.a1_in1k", True), ("resnet18.a1_in1k", False)], "loaded once, for two tasks"


def test_weights_that_cannot_be_downloaded(package, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(package.encoders, "hf_hub_download", offline)
    with pytest.raises(mtl.UsageError, match="weights of resnet18: no connection") as caught:
        make(encoder_weights="imagenet")
    assert caught.value.key == ("encoder_weights",)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(mtl.UsageError, match=r"pip install 'mtlsuite\[smp\]'") as caught:
        SMP(TASKS)
    assert caught.value.key == ("name",)


# --- from YAML --------------------------------------------------------------------------------------------


def run(folder: Path, *options: str, **model: object) -> int:
    config = {
        "threads": 1,
        "device": "cpu",
        "data": {
            "name": "scenes", "height": 32, "width": 32, "n_train": 4, "n_val": 2, "domains": ["day"],
            "cache": str(folder / "cache"),
        },
        "model": {"name": "smp", "encoder_name": "resnet18", **model},
        "sources": "tasks",
        "tasks": ["depth", "normals"],
        "train": {"steps": 2, "batch_size": 2},
    }  # fmt: skip
    path = folder / "smp.yaml"
    path.write_text(yaml.safe_dump(config))
    return cli.main([str(path), "--out", str(folder / "out"), *options])


@needs_package
@pytest.mark.slow
def test_yaml_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "write_report", lambda *_: [])
    monkeypatch.setattr(runner, "print_report", lambda *_: None)
    assert run(tmp_path, options={"decoder_channels": [8, 8, 4, 4, 4]}) == 0
    assert list(tmp_path.rglob("results.jsonl"))


def test_yaml_names_an_unknown_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the door, without the package."""
    assert run(tmp_path, "--dry-run", architecture="unetpluplus") == 2
    error = capsys.readouterr().err
    for part in ("smp.yaml", "architecture", "unetpluplus", "did you mean 'unetplusplus'"):
        assert part in error


@needs_package
def test_yaml_names_an_unknown_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, encoder_name="resnet81") != 0
    error = capsys.readouterr().err
    for part in ("smp.yaml", "model.encoder_name", "resnet81", "did you mean 'resnet18'"):
        assert part in error
