"""A handful of steps on real photographs, drawings and RGB-D frames, where a folder with them is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import mtlsuite as mtl
from mtlsuite.models import ConvNet, UNet

DATA = Path(__file__).parents[2] / "shared" / "data"
DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def folder(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"no folder {name} among the shared data beside the repository")
    return path


@pytest.fixture(scope="module")
def pacs() -> list[tuple[Tensor, Tensor]]:
    """One minibatch a domain: three images a class, 32x32, in [-1, 1]."""
    root = folder("pacs_mini")

    def read(path: Path) -> Tensor:
        image = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1

    batches = []
    for domain in DOMAINS:
        files = [(f, k) for k, c in enumerate(CLASSES) for f in sorted((root / domain / c).glob("*.jpg"))[:3]]
        assert len(files) == 21
        batches.append((torch.stack([read(f) for f, _ in files]), torch.tensor([k for _, k in files])))
    return batches


def criterion(prediction: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(prediction["class"], target)


def convnet(norm: str = "group") -> ConvNet:
    torch.manual_seed(0)
    return ConvNet({"class": 7}, (3, 32, 32), widths=[8, 16, 16], norm=norm)


SPECS = {"sage": {"base": "equal", "wrap": ["sage"]}, "nash": {"base": "nash_mtl"}}


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_pacs_domains_train(pacs, spec: dict, norm: str) -> None:
    model = convnet(norm)
    solver = mtl.build_solver(spec, n_sources=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    reports = [
        solver.step(mtl.DomainObjective(model, pacs, criterion, DOMAINS), optimizer) for _ in range(15)
    ]
    losses = torch.stack([report.losses for report in reports])
    assert losses.isfinite().all()
    assert losses[-1].mean() < losses[0].mean() - 0.02
    if "sage/cosine" in reports[0].metrics:
        assert all(-1 <= report.metrics["sage/cosine"] <= 1 for report in reports)


def test_pacs_joint_and_separate_graphs_agree(pacs) -> None:
    """Uneven minibatches, as the last ones of an epoch are."""
    model = convnet().double()
    uneven = [(x[: 21 - 4 * d].double(), y[: 21 - 4 * d]) for d, (x, y) in enumerate(pacs)]
    joint, separate = (
        mtl.Oracle(mtl.DomainObjective(model, uneven, criterion, DOMAINS, graph)).jacobian().rows
        for graph in ("joint", "separate")
    )
    torch.testing.assert_close(joint, separate, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def rgbd() -> tuple[Tensor, dict[str, Tensor]]:
    """Six frames at 36x48: every fourth pixel, so that labels and holes stay what they are."""
    root = folder("rgbd_objects") / "train"

    def read(kind: str) -> Tensor:
        arrays = [np.load(root / kind / f"{i}.npy", allow_pickle=False) for i in range(6)]
        return torch.from_numpy(np.stack(arrays).astype(np.float32))[:, ::4, ::4]

    targets = {
        "segmentation": read("label").long(),
        "depth": read("depth").permute(0, 3, 1, 2),
        "normals": read("normal").permute(0, 3, 1, 2),
    }
    return read("image").permute(0, 3, 1, 2), targets


def depth_loss(prediction: Tensor, target: Tensor) -> Tensor:
    valid = (target > 0).float()
    return ((prediction - target).abs() * valid).sum() / valid.sum()


def normals_loss(prediction: Tensor, target: Tensor) -> Tensor:
    valid = (target.norm(dim=1) > 0.5).float()
    return ((1 - F.cosine_similarity(prediction, target, dim=1)) * valid).sum() / valid.sum()


CRITERIA = {
    "segmentation": lambda prediction, target: F.cross_entropy(prediction, target, ignore_index=-1),
    "depth": depth_loss,
    "normals": normals_loss,
}


@pytest.mark.parametrize(
    "spec",
    [{"base": "nash_mtl"}, {"base": "famo"}, {"base": "nash_mtl", "wrap": [{"name": "sage", "rho": 0.01}]}],
    ids=["nash", "famo", "sage(nash)"],
)
def test_rgbd_tasks_train(rgbd, spec: dict) -> None:
    inputs, targets = rgbd
    torch.manual_seed(0)
    model = UNet({"segmentation": 6, "depth": 1, "normals": 3}, (3, 36, 48), widths=[8, 12, 16])
    solver = mtl.build_solver(spec, n_sources=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    reports = [solver.step(mtl.TaskObjective(model, inputs, targets, CRITERIA), optimizer) for _ in range(12)]
    losses = torch.stack([report.losses for report in reports])
    assert losses.isfinite().all()
    assert (losses[-1] < losses[0]).all()
    assert (torch.stack([report.weights for report in reports]) > 0).all()
