"""DomainBed's transforms, against torchvision's classes (both generations) seeded alike."""

from __future__ import annotations

import threading

import pytest
import torch
import torchvision.transforms as v1
from domain_folders import picture
from torch import Tensor
from torchvision.transforms import v2

from mtlsuite.data.domainbed_transforms import (
    augmented,
    draw_augmentation,
    resized,
    to_pixels,
    to_tensor,
)

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = [(227, 227), (40, 64), (90, 31), (20, 300), (300, 20), (1, 1), (7, 5)]


def published(transforms, size: int):
    """DomainBed's training transform, its constants once more."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(p=0.1),
        ]
    )


def ours(image, seed: int, size: int, normalize: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    draws = draw_augmentation(image.height, image.width, generator)
    return to_tensor(augmented(image, draws, size), normalize)


@pytest.mark.parametrize("transforms", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_training_is_that_of_torchvision_seeded_alike(height, width, transforms):
    """(20, 300) and (300, 20) fit no crop of that area and end in the middle."""
    image = picture(0, height, width)
    images = set()
    for seed in range(25):
        torch.manual_seed(seed)
        wanted = v1.functional.to_tensor(published(transforms, 24)(image))
        wanted = v1.functional.normalize(wanted, MEAN, STD)
        found = ours(image, seed, 24)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
        images.add(tuple(found.flatten().tolist()))
    assert len(images) > 20


def test_all_kinds_of_change_occur():
    draws = [draw_augmentation(50, 60, torch.Generator().manual_seed(seed)) for seed in range(400)]
    grey, flip = (sum(getattr(d, kind) for d in draws) for kind in ("grey", "flip"))
    assert abs(grey - 40) < 4 * (400 * 0.1 * 0.9) ** 0.5
    assert abs(flip - 200) < 4 * (400 * 0.25) ** 0.5
    assert len({d.order for d in draws}) == 24
    for i, center in enumerate((1, 1, 1, 0)):
        factors = [d.factors[i] - center for d in draws]
        assert -0.3 <= min(factors) < -0.28
        assert 0.28 < max(factors) <= 0.3
    areas = [d.height * d.width / 3000 for d in draws]
    assert 0.67 < min(areas) < 0.72
    assert 0.97 < max(areas) <= 1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_evaluation_is_that_of_torchvision(height, width):
    image = picture(1, height, width)
    wanted = v1.Compose([v1.Resize((24, 24)), v1.ToTensor(), v1.Normalize(MEAN, STD)])(image)
    found = to_tensor(resized(image, 24), normalize=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
    assert type(found) is Tensor
    assert (found.dtype, found.shape) == (torch.float32, (3, 24, 24))
    plain = to_tensor(resized(image, 24), normalize=False)
    torch.testing.assert_close(plain, v1.ToTensor()(v1.Resize((24, 24))(image)), rtol=0, atol=1e-6)
    torch.testing.assert_close(to_pixels(found, normalize=True), plain, rtol=0, atol=1e-6)
    assert to_pixels(plain, normalize=False) is plain


def test_nobody_elses_random_numbers_are_touched():
    """Nor does it matter that others draw, in whichever thread."""
    image = picture(2)
    alone = [ours(image, seed, 16) for seed in range(30)]
    before = torch.get_rng_state()
    ours(image, 0, 16)
    assert torch.equal(torch.get_rng_state(), before)
    found: dict[int, Tensor] = {}

    def work(start: int) -> None:
        for seed in range(start, 30, 3):
            torch.rand(3)
            found[seed] = ours(image, seed, 16)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], alone[seed]) for seed in range(30))


def test_the_image_stays_as_it_was():
    image = picture(3)
    before = image.tobytes()
    for seed in range(10):
        ours(image, seed, 16)
    assert image.tobytes() == before
