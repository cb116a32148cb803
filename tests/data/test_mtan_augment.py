"""The published augmentation, against a pixel-by-pixel reading of its description; and its random draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mtan_folders import frame, write
from torch.utils.data import Dataset

from mtlsuite.core.oracle import Oracle
from mtlsuite.data import Cityscapes, NYUv2
from mtlsuite.data.augment import SCALES, Crop, draw_crop, enlarged
from mtlsuite.data.base import Sample, TensorSplit
from mtlsuite.data.sampling import BatchStream, gather, pooled
from mtlsuite.experiments.config import validate
from mtlsuite.experiments.problem import Problem


def sample_of(height: int, width: int, seed: int = 0) -> Sample:
    arrays = frame(np.random.default_rng(seed), height, width)
    image, depth, normals = (
        torch.from_numpy(arrays[k]).permute(2, 0, 1) for k in ("image", "depth", "normal")
    )
    label = torch.from_numpy(arrays["label"]).long()
    return image, {"segmentation": label, "depth": depth, "normals": normals}


def bilinear(values: np.ndarray, y: float, x: float) -> float:
    """Between the four pixels around (y, x) of one channel."""
    top, left = min(int(y), values.shape[0] - 1), min(int(x), values.shape[1] - 1)
    bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
    fy, fx = y - top, x - left
    upper = (1 - fx) * values[top, left] + fx * values[top, right]
    lower = (1 - fx) * values[bottom, left] + fx * values[bottom, right]
    return (1 - fy) * upper + fy * lower


def slowly(sample: Sample, scale: float, top: int, left: int, flip: bool) -> dict[str, np.ndarray]:
    """Crop, resize, divide depth, flip: one output pixel after the other, in float64."""
    image, targets = sample
    arrays = {k: v.double().numpy() for k, v in {"image": image, **targets}.items()}
    height, width = arrays["segmentation"].shape
    h, w = int(height / scale), int(width / scale)
    result = {k: np.zeros_like(v) for k, v in arrays.items()}
    for i, j in itertools.product(range(height), range(width)):
        y = i * (h - 1) / (height - 1)  # corners stay corners
        x = j * (w - 1) / (width - 1)
        near = (top + math.floor(i * h / height), left + math.floor(j * w / width))
        at = (i, width - 1 - j if flip else j)
        for kind in ("image", "normals"):
            for c in range(3):
                window = arrays[kind][c, top : top + h, left : left + w]
                sign = -1 if flip and kind == "normals" and c == 0 else 1
                result[kind][(c, *at)] = sign * bilinear(window, y, x)
        result["segmentation"][at] = arrays["segmentation"][near]
        result["depth"][(0, *at)] = arrays["depth"][(0, *near)] / scale
    return result


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_each_pixel_is_what_the_protocol_says(scale, flip):
    height, width = 13, 18
    sample = sample_of(height, width)
    h, w = int(height / scale), int(width / scale)
    top, left = (height - h), (width - w) // 2
    crop = Crop(scale, top, left, h, w, flip)
    rows, columns = crop.window
    image, targets = sample
    window = image[:, rows, columns], {task: v[..., rows, columns] for task, v in targets.items()}
    found_image, found = enlarged(window, crop, (height, width))
    expected = slowly(sample, scale, top, left, flip)
    np.testing.assert_allclose(found_image, expected["image"], atol=2e-6)
    np.testing.assert_allclose(found["normals"], expected["normals"], atol=2e-6)
    np.testing.assert_allclose(found["depth"], expected["depth"], rtol=1e-6)
    np.testing.assert_array_equal(found["segmentation"], expected["segmentation"])
    assert found["segmentation"].dtype == torch.int64


def test_nothing_drawn_is_nothing_changed():
    image, targets = sample_of(9, 7)
    found_image, found = enlarged((image, dict(targets)), Crop(1.0, 0, 0, 9, 7, False), (9, 7))
    assert torch.equal(found_image, image)
    assert all(torch.equal(found[task], targets[task]) for task in targets)


def test_flipping_twice_is_nothing_changed():
    sample = sample_of(6, 8)
    crop = Crop(1.0, 0, 0, 6, 8, True)
    image, targets = enlarged(enlarged(sample, crop, (6, 8)), crop, (6, 8))
    assert torch.equal(image, sample[0])
    assert all(torch.equal(targets[task], sample[1][task]) for task in targets)


def test_draws_are_uniform_and_reach_every_corner():
    generator = torch.Generator().manual_seed(0)
    crops = [draw_crop(9, 12, generator) for _ in range(6000)]
    sizes = {1.0: (9, 12), 1.2: (7, 10), 1.5: (6, 8)}
    for scale, (h, w) in sizes.items():
        mine = [crop for crop in crops if crop.scale == scale]
        assert abs(len(mine) - 2000) < 5 * math.sqrt(6000 * 2 / 9)
        assert {(crop.height, crop.width) for crop in mine} == {(h, w)}
        places = {(crop.top, crop.left) for crop in mine}
        assert places == set(itertools.product(range(9 - h + 1), range(12 - w + 1)))
    assert abs(sum(crop.flip for crop in crops) - 3000) < 5 * math.sqrt(6000 / 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)])
def test_tiny_images_survive(size):
    for seed in range(20):
        crop = draw_crop(*size, torch.Generator().manual_seed(seed))
        image, targets = sample_of(*size)
        rows, columns = crop.window
        window = image[:, rows, columns], {task: v[..., rows, columns] for task, v in targets.items()}
        found, _ = enlarged(window, crop, size)
        assert found.shape == (3, *size)
        assert found.isfinite().all()


# --- from the files to the batches ----------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> NYUv2:
    write(tmp_path, {"train": 7, "val": 3})
    return NYUv2(str(tmp_path))


def flat(batch: Sample) -> torch.Tensor:
    image, targets = batch
    return torch.cat([v.flatten().double() for v in (image, *targets.values())])


def test_an_augmented_sample_is_the_augmentation_of_the_sample(data):
    """Reading the window alone makes no difference."""
    split = data.split("nyuv2", "train")
    for seed in range(12):
        found_image, found = split.augmented(2, torch.Generator().manual_seed(seed))
        crop = draw_crop(6, 8, torch.Generator().manual_seed(seed))
        expected = slowly(split[2], crop.scale, crop.top, crop.left, crop.flip)
        np.testing.assert_allclose(found_image, expected["image"], atol=2e-6)
        np.testing.assert_allclose(found["depth"], expected["depth"], rtol=1e-6)
        np.testing.assert_array_equal(found["segmentation"], expected["segmentation"])


def test_a_training_batch_is_a_function_of_seed_name_and_step(data):
    """Whatever was asked before, read ahead or not: so a resumed run sees the same pixels."""
    split = data.split("nyuv2", "train")

    def stream(seed: int = 0, name: str = "train/all") -> BatchStream:
        return BatchStream(split, 3, seed, name, augment=True)

    before = torch.get_rng_state()
    straight = stream()
    batches = [flat(straight.batch(step)) for step in range(6)]
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    torch.rand(3)
    jumping = stream()
    for step in (4, 1, 2, 2, 5, 0, 3):
        assert torch.equal(flat(jumping.batch(step)), batches[step])
    for other in (stream(seed=1), stream(name="train/other")):
        assert not any(torch.equal(flat(other.batch(step)), batches[step]) for step in (0, 1))


def test_a_sample_is_augmented_anew_in_every_epoch_and_place(data):
    split = data.split("nyuv2", "train")
    views = {tuple(flat(gather(split, [5, 5], (0, "train", step))).tolist()) for step in range(8)}
    assert len(views) == 8
    image, _ = gather(split, [5] * 8, (0, "train", 0))
    assert len({tuple(one.flatten().tolist()) for one in image}) > 4


def test_only_streams_that_augment_do(data, tmp_path):
    split = data.split("nyuv2", "train")
    plain = BatchStream(split, 3, 0, "cosine/all")
    images, _ = plain.batch(1)
    assert torch.equal(images, torch.stack([split[i][0] for i in plain.indices(1)]))
    unchanged = NYUv2(str(tmp_path), augment=False).split("nyuv2", "train")
    assert torch.equal(flat(gather(unchanged, [4, 1], (0, "train", 0))), flat(gather(unchanged, [4, 1])))


def test_several_splits_as_one_augment_like_each_alone(data):
    train, val = data.split("nyuv2", "train"), data.split("nyuv2", "val")
    whole = pooled([train, val])
    image, _ = gather(whole, [6, 7, 9], (1, "a", 2))
    expected = [
        gather(split, [*[0, 0, 0][:k], i], (1, "a", 2))[0][k]
        for k, (split, i) in enumerate([(train, 6), (val, 0), (val, 2)])
    ]
    assert torch.equal(image, torch.stack(expected))


def test_data_without_augmentation_is_gathered_as_ever():
    split = TensorSplit(torch.arange(6.0)[:, None], {"y": torch.arange(6)})
    mixed: list[Dataset[Sample]] = [split, split]
    assert torch.equal(gather(split, [3, 1], (0, "a", 0))[0], gather(split, [3, 1])[0])
    assert gather(pooled(mixed), [8, 1], (0, "a", 0))[1]["y"].tolist() == [2, 1]


def test_an_error_while_reading_ahead_is_told_when_its_batch_is_asked_for(data, tmp_path):
    stream = BatchStream(data.split("nyuv2", "train"), 7, 0, "a")
    stream.batch(0)
    stream._next[1].result()
    (tmp_path / "train" / "depth" / "0.npy").unlink()
    stream.batch(1)  # was read before the file went
    with pytest.raises(FileNotFoundError):
        stream.batch(2)


def test_inverse_depth_is_divided_by_the_scale_too(tmp_path):
    """As published, although nearer things have a larger inverse depth."""
    write(tmp_path, names={"label": "label_7"}, classes=7)
    split = Cityscapes(str(tmp_path)).split("cityscapes", "train")
    _, plain = split[0]
    seeds = (s for s in range(100) if draw_crop(6, 8, torch.Generator().manual_seed(s)).scale == 1.5)
    _, targets = split.augmented(0, torch.Generator().manual_seed(next(seeds)))
    values = set(targets["depth"].flatten().tolist()) - {0.0}
    known = torch.tensor(sorted(set((plain["depth"] / 1.5).flatten().tolist())))
    assert all((known - value).abs().min() < 1e-6 for value in values)


def test_a_run_augments_what_it_trains_on_and_nothing_else(data, tmp_path):
    config = {
        "data": {"name": "nyuv2", "root": str(tmp_path)},
        "model": {"name": "unet", "widths": [4]},
        "sources": "tasks",
        "solver": {"base": "equal"},
        "train": {"steps": 2, "batch_size": 7},
    }
    problem = Problem(validate(config), torch.device("cpu"))
    seen: list[torch.Tensor] = []
    model = problem.model()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def shown(look: Callable[[], object]) -> set[tuple[float, ...]]:
        seen.clear()
        look()
        return {tuple(image.flatten().tolist()) for batch in seen for image in batch}

    stored = {
        part: {
            tuple(image.flatten().tolist())
            for image, _ in map(data.split("nyuv2", part).__getitem__, range(n))
        }
        for part, n in {"train": 7, "val": 3}.items()
    }
    trained = shown(lambda: Oracle(problem.objective(model, 0)).losses())
    assert len(trained) == 7
    assert not trained <= stored["train"]
    assert shown(lambda: problem.cosine(model)) == stored["train"]
    assert shown(lambda: problem.evaluate(model)) == stored["val"]
