"""Augmented views: fixed by their key, drawn image by image, and nobody else's random numbers are touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtlsuite.data.rotated_digits import RotatedDigits
from mtlsuite.data.views import random_views


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return RotatedDigits().split("0", "train").inputs[:40]


def test_equal_keys_give_equal_views(digits: Tensor) -> None:
    torch.manual_seed(1)
    first = [view(digits) for view in random_views(3, 2, (0, "train", 5))]
    torch.manual_seed(2)
    again = random_views(3, 2, (0, "train", 5))
    for k in (2, 0, 1):  # in any order
        assert torch.equal(again[k](digits), first[k])


def test_other_keys_and_other_views_differ(digits: Tensor) -> None:
    views = [view(digits) for key in ((0, 5), (0, 6), (1, 5)) for view in random_views(3, 2, key)]
    for i, view in enumerate(views):
        assert view.shape == digits.shape
        assert view.dtype == digits.dtype
        assert view.isfinite().all()
        assert not torch.equal(view, digits)
        assert not any(torch.equal(view, other) for other in views[:i])


def test_every_image_is_augmented_by_its_own_draws(digits: Tensor) -> None:
    same = digits[:1].expand(30, -1, -1, -1)
    [view] = random_views(1, 2, 0)
    assert len({tuple(image.flatten().tolist()) for image in view(same)}) > 10


def test_more_operations_change_more(digits: Tensor) -> None:
    def unchanged(ops: int) -> float:
        views = [view(digits) for view in random_views(10, ops, 0)]
        return float(
            torch.stack([(view == digits).flatten(1).all(1).float().mean() for view in views]).mean()
        )

    # RandAugment has 14 operations, one of them the identity, and the colour ones leave grey images as
    # they are; with more operations an image is left as it is more rarely.
    assert 1 > unchanged(1) > unchanged(3)


def test_the_global_generator_stays_where_it_was(digits: Tensor) -> None:
    before = torch.get_rng_state()
    views = random_views(2, 2, 0)
    for view in views:
        view(digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_batch_itself_stays_as_it_was(digits: Tensor) -> None:
    copy = digits.clone()
    for view in random_views(5, 3, 0):
        view(digits)
    assert torch.equal(digits, copy)


def test_colour_images_too() -> None:
    images = torch.rand(6, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    for view in random_views(3, 2, 0):
        assert view(images).shape == images.shape


def test_a_share_of_the_batch_has_its_share_of_the_views(digits: Tensor) -> None:
    whole = [view(digits) for view in random_views(2, 2, 0)]
    for rank in range(3):
        share = random_views(2, 2, 0, range(rank, len(digits), 3))
        for view, expected in zip(share, whole, strict=True):
            assert torch.equal(view(digits[rank::3]), expected[rank::3])
