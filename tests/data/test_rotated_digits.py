"""The rotated digits: every image once, rotated by what its domain says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.data import RotatedDigits


def test_every_image_is_in_exactly_one_domain_and_part():
    data = RotatedDigits()
    parts = [data.split(domain, part) for domain in data.domains for part in ("train", "val")]
    assert data.domains == ("0", "15", "30", "45", "60", "75")
    assert sum(len(part) for part in parts) == 1797
    labels = torch.cat([part.targets["class"] for part in parts])
    assert torch.equal(torch.bincount(labels), torch.from_numpy(np.bincount(load_digits().target)))
    sizes = [len(data.split(domain, "all")) for domain in data.domains]
    assert max(sizes) - min(sizes) <= 1


def test_without_rotation_and_enlargement_the_images_are_the_originals():
    data = RotatedDigits(size=8)
    originals = {image.tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    images, targets = data.split("0", "all").batch(range(len(data.split("0", "all"))))
    for image, label in zip(images, targets["class"], strict=True):
        assert originals[(image.double() * 16).numpy().tobytes()] == label
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_a_domain_turns_its_images_anticlockwise_about_the_centre():
    data = RotatedDigits(size=64)
    x = torch.arange(64) - 31.5
    blob = torch.exp(-((x[None, :] - 15) ** 2 + x[:, None] ** 2) / 30)[
        None, None
    ]  # to the right of the centre
    small = torch.nn.functional.avg_pool2d(blob, 8)
    for domain in data.domains:
        turned = data._turned(small, int(domain))[0, 0]
        weight = turned / turned.sum()
        right, up = (weight.sum(0) @ x).item(), -(weight.sum(1) @ x).item()
        assert math.degrees(math.atan2(up, right)) == pytest.approx(int(domain), abs=2)


def test_items_are_as_agreed_and_batches_are_their_items():
    data = build("dataset", "rotated_digits")
    split = data.split("30", "train")
    images, targets = split.batch([5, 1])
    image, target = split[1]
    assert data.tasks == {"class": 10}
    assert image.shape == data.input_shape
    assert image.dtype == torch.float32
    assert target["class"].shape == ()
    assert target["class"].dtype == torch.int64
    assert torch.equal(images[1], image)
    assert torch.equal(targets["class"][1], target["class"])
    assert split.inputs.min() >= 0
    assert split.inputs.max() <= 1
    with pytest.raises(IndexError):
        split[len(split)]


def test_the_seed_decides_the_shuffle():
    one, again, other = (RotatedDigits(seed=seed).split("15", "val") for seed in (0, 0, 1))
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize(("holdout", "n_val"), [(0.2, 60), (0.5, 150), (1e-9, 1), (1 - 1e-9, 299)])
def test_holdout_is_the_share_of_val_and_no_part_is_empty(holdout, n_val):
    data = RotatedDigits(holdout=holdout)
    assert len(data.split("0", "val")) == n_val
    assert len(data.split("0", "train")) == 300 - n_val


def test_all_is_train_and_val_together():
    data = RotatedDigits(size=8)
    whole = data.split("45", "all").inputs
    parts = torch.cat([data.split("45", "val").inputs, data.split("45", "train").inputs])
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    "options", [{"size": 7}, {"holdout": 0.0}, {"holdout": 1.0}, {"seed": -1}, {"angle": 3}]
)
def test_bad_options_are_clear_errors(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        RotatedDigits(**options)


def test_unknown_domain_and_part():
    data = RotatedDigits()
    with pytest.raises(UsageError, match=r"unknown domain of rotated_digits '90'.*0, 15, 30, 45, 60, 75"):
        data.split("90", "train")
    with pytest.raises(UsageError, match="unknown part 'valid'; did you mean 'val'"):
        data.split("0", "valid")
