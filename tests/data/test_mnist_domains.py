"""RotatedMNIST and ColoredMNIST from small files in MNIST's format, each step once more by hand."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from mnist_files import SIZES, idx, write_mnist
from torchvision.datasets import MNIST

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.data.mnist_domains import FILES, ColoredMNIST, RotatedMNIST


@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_files_are_read_wherever_and_however_they_lie(tmp_path: Path, folder: str, zipped: bool) -> None:
    images, labels = write_mnist(tmp_path / folder, zipped)
    data = build("dataset", {"name": "rotated_mnist", "root": str(tmp_path)})
    order = torch.randperm(141, generator=torch.Generator().manual_seed(0))
    split = data.split("0", "all")
    assert torch.equal(split.inputs[:, 0], images[order[::6]].float() / 255)
    assert torch.equal(split.targets["class"], labels[order[::6]])
    assert data.remarks() == ["141 images; MNIST has 70000"]


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path / "MNIST" / "raw")
    stored = [MNIST(str(tmp_path), train=train) for train in (True, False)]
    assert torch.equal(torch.cat([part.data for part in stored]), images)
    assert torch.equal(torch.cat([part.targets for part in stored]), labels)


def by_hand(count: int, environment: int, trial: int) -> tuple[list[int], list[int]]:
    """In-split and out-split from DomainBed's formula."""
    seed = int(hashlib.md5(f"({trial}, {environment})".encode()).hexdigest(), 16) % 2**31
    keys = np.random.RandomState(seed).permutation(count).tolist()
    return keys[count // 5 :], keys[: count // 5]


@pytest.mark.parametrize("seed", [0, 5])
def test_rotated_mnist_by_hand(tmp_path: Path, seed: int) -> None:
    """From torch's global generator, as in DomainBed."""
    images, labels = write_mnist(tmp_path)
    data = RotatedMNIST(str(tmp_path), seed=seed)
    torch.manual_seed(seed)
    order = torch.randperm(len(images))
    assert data.domains == ("0", "15", "30", "45", "60", "75")
    assert (data.tasks, data.input_shape) == ({"class": 10}, (1, 28, 28))
    assert sum(len(data.split(domain, "all")) for domain in data.domains) == 141
    to_image, bilinear = v1.ToPILImage(), v1.InterpolationMode.BILINEAR
    for i, domain in enumerate(data.domains):
        wanted = torch.stack(
            [
                v1.functional.to_tensor(
                    v1.functional.rotate(to_image(image), 15 * i, interpolation=bilinear, fill=(0,))
                )
                for image in images[order][i::6]
            ]
        )
        whole = data.split(domain, "all")
        torch.testing.assert_close(whole.inputs, wanted, rtol=0, atol=1e-7)
        assert torch.equal(whole.targets["class"], labels[order][i::6])
        for part, rows in zip(("train", "val"), by_hand(len(wanted), i, 0), strict=True):
            torch.testing.assert_close(data.split(domain, part).inputs, wanted[rows], rtol=0, atol=1e-7)
            assert torch.equal(data.split(domain, part).targets["class"], labels[order][i::6][rows])


def test_rotation_is_anticlockwise(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    blob = np.zeros((SIZES[0], 28, 28), np.uint8)
    blob[:, 13:15, 20:24] = 200  # to the right of the centre
    (tmp_path / FILES[0]).write_bytes(idx(blob))
    (tmp_path / FILES[2]).write_bytes(idx(blob[: SIZES[1]]))
    data = RotatedMNIST(str(tmp_path))
    place = torch.arange(28) - 13.5
    for domain in data.domains:
        image = data.split(domain, "all").inputs[0, 0]
        right, up = float(image.sum(0) @ place), -float(image.sum(1) @ place)
        assert math.degrees(math.atan2(up, right)) == pytest.approx(int(domain), abs=3)


@pytest.mark.parametrize("seed", [0, 7])
def test_colored_mnist_by_hand(tmp_path: Path, seed: int) -> None:
    """Image by image, from torch's global generator, as in DomainBed."""
    images, digits = write_mnist(tmp_path)
    data = ColoredMNIST(str(tmp_path), seed=seed, trial_seed=1)
    torch.manual_seed(seed)
    order = torch.randperm(len(images))
    assert data.domains == ("0.1", "0.2", "0.9")
    assert (data.tasks, data.input_shape) == ({"class": 2}, (2, 28, 28))
    for i, probability in enumerate((0.1, 0.2, 0.9)):
        mine = order[i::3]
        label_noise, colour_noise = torch.rand(len(mine)), torch.rand(len(mine))
        whole = data.split(str(probability), "all")
        assert len(whole) == 47
        for j, k in enumerate(mine):
            label = int(digits[k] < 5)
            if label_noise[j] < 0.25:
                label = 1 - label
            colour = label
            if colour_noise[j] < probability:
                colour = 1 - colour
            assert int(whole.targets["class"][j]) == label
            assert torch.equal(whole.inputs[j, colour], images[k] / 255)
            assert not whole.inputs[j, 1 - colour].any()
        for part, rows in zip(("train", "val"), by_hand(47, i, 1), strict=True):
            assert torch.equal(data.split(str(probability), part).inputs, whole.inputs[rows])


def test_colours_tell_the_label_as_often_as_their_domain_says(tmp_path: Path) -> None:
    n = 30_000
    for name in FILES:
        shape = (n, 28, 28) if "images" in name else (n,)
        (tmp_path / name).write_bytes(idx(np.full(shape, 3, np.uint8)))
    data = ColoredMNIST(str(tmp_path))
    for domain in data.domains:
        split = data.split(domain, "all")
        labels, colours = split.targets["class"], split.inputs[:, 1].any(dim=(1, 2)).long()
        deviation = 4 * (0.25 / len(split)) ** 0.5
        assert abs((labels == 1).float().mean() - 0.75) < deviation
        assert abs((labels != colours).float().mean() - float(domain)) < deviation


@pytest.mark.parametrize("cls", [RotatedMNIST, ColoredMNIST])
def test_draws_are_a_function_of_the_seed(tmp_path: Path, cls: type) -> None:
    write_mnist(tmp_path)
    before = torch.get_rng_state()
    one, again, other = (cls(str(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    domain = one.domains[-1]
    inputs = [data.split(domain, "train").inputs for data in (one, again, other)]
    assert torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[0], inputs[2])
    assert torch.equal(one.test(domain).inputs, inputs[0])


@pytest.mark.parametrize("cls", [RotatedMNIST, ColoredMNIST])
def test_sheet(tmp_path: Path, cls: type) -> None:
    write_mnist(tmp_path)
    data = cls(str(tmp_path))
    pixels = matplotlib.image.imread(data.draw_sheet(tmp_path / "sheet.png", 2))[..., :3]
    assert pixels.shape[0] > 2 * 72 * len(data.domains)
    coloured = (np.ptp(pixels, axis=-1) > 0.3).mean()
    assert (coloured > 0.2) == (cls is ColoredMNIST)


def test_no_files_names_all_four(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError) as caught:
            RotatedMNIST(str(root))
        assert caught.value.key == ("root",)
        for name in FILES:
            assert f"{root / name}: No such file" in caught.value.message
        assert str(root / "MNIST" / "raw") in caught.value.message
        assert ".gz" in caught.value.message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (FILES[0], b"", "no idx file of images of 28 x 28 pixels"),
        (FILES[0], b"<html>not found</html>", "no idx file of images"),
        (FILES[0], idx(np.zeros((101, 32, 32), np.uint8)), "no idx file of images of 28 x 28"),
        (FILES[0], idx(np.zeros(101, np.uint8)), "no idx file of images"),
        (
            FILES[2],
            idx(np.zeros((40, 28, 28), np.uint8))[:-5],
            "31355 bytes of values, its header says 31360",
        ),
        (FILES[1], idx(np.zeros((101, 28, 28), np.uint8)), "no idx file of labels"),
        (FILES[1], idx(np.zeros(101, np.uint8))[:6], FILES[1]),
        (FILES[1], idx(np.zeros(99, np.uint8)), "101 images in .*, but 99 labels in"),
        (FILES[3], idx(np.full(40, 11, np.uint8)), "labels up to 11; digits are 0..9"),
        (f"{FILES[3]}.gz", b"no gzip", "Not a gzipped file"),
        (f"{FILES[0]}.gz", gzip.compress(idx(np.zeros((101, 28, 28), np.uint8)))[:-9], f"{FILES[0]}.gz: "),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        ColoredMNIST(str(tmp_path))
    assert caught.value.message.count("\n") == 2, "one problem, and which files are needed"


def test_too_few_images(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for name in FILES:
        shape = (13, 28, 28) if "images" in name else (13,)
        (tmp_path / name).write_bytes(idx(np.zeros(shape, np.uint8)))
    with pytest.raises(UsageError, match="26 images are too few for 6 domains"):
        RotatedMNIST(str(tmp_path))
    assert len(ColoredMNIST(str(tmp_path)).split("0.1", "val")) == 1
