"""Angles of surface normals and their loss against numpy, on masked batches of unequal size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtlsuite.core.errors import UsageError
from mtlsuite.metrics import Normals
from mtlsuite.metrics.base import Averaging

Array = NDArray[np.float32]
NAMES = ["angle_mean", "angle_median", "within_11", "within_22", "within_30"]


def batches(valid_shares: tuple[float, ...] = (0.9, 0.2, 0.6)) -> list[tuple[Array, Array]]:
    random = np.random.default_rng(0)
    pairs = []
    for size, share in zip((3, 1, 2), valid_shares, strict=True):
        truth = random.standard_normal((size, 3, 8, 9))
        truth /= np.linalg.norm(truth, axis=1, keepdims=True)
        noise = random.uniform(0.05, 0.6, (size, 1, 1, 1)) * random.standard_normal(truth.shape)
        lengths = random.uniform(0.1, 9, (size, 1, 8, 9))
        valid = random.uniform(size=(size, 1, 8, 9)) < share
        pairs.append((((truth + noise) * lengths).astype(np.float32), (truth * valid).astype(np.float32)))
    return pairs


def cosines(prediction: Array, truth: Array) -> NDArray[np.float64]:
    valid = np.abs(truth).sum(axis=1) > 0
    unit = prediction.astype(np.float64) / np.linalg.norm(
        prediction.astype(np.float64), axis=1, keepdims=True
    )
    return (unit * truth).sum(axis=1)[valid]


def angles(prediction: Array, truth: Array) -> NDArray[np.float64]:
    return np.degrees(np.arccos(np.clip(cosines(prediction, truth), -1, 1)))


def summary(degrees: NDArray[np.float64]) -> list[float]:
    shares = [np.mean(degrees < limit) for limit in (11.25, 22.5, 30)]
    return [float(value) for value in (np.mean(degrees), np.median(degrees), *shares)]


def measure(pairs: list[tuple[Array, Array]], averaging: Averaging) -> list[float]:
    metric = Normals(averaging=averaging)
    for prediction, truth in pairs:
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    found = metric.compute()
    assert list(found) == list(metric.higher_is_better_by) == NAMES
    return [value.item() for value in found.values()]


def test_mean_over_batches_and_over_pixels() -> None:
    pairs = batches()
    by_batch = np.mean([summary(angles(*pair)) for pair in pairs], axis=0)
    by_pixel = summary(np.concatenate([angles(*pair) for pair in pairs]))
    assert measure(pairs, "batch") == pytest.approx(list(by_batch), rel=1e-5)
    assert measure(pairs, "pixel") == pytest.approx(by_pixel, rel=1e-5)
    assert abs(by_batch - by_pixel).min() > 1e-3  # or the two could not be told apart


@pytest.mark.parametrize("averaging", ["batch", "pixel"])
def test_a_batch_without_a_valid_pixel_is_left_out(averaging: Averaging) -> None:
    pairs = batches((0.9, 0.0, 0.6))
    assert measure(pairs, averaging) == measure([pairs[0], pairs[2]], averaging)
    assert np.isnan(measure([pairs[1]], averaging)).all()


def test_known_angles() -> None:
    degrees = np.array([0.0, 10.0, 20.0, 25.0, 90.0, 180.0])
    radians = np.radians(degrees)
    prediction = np.stack([np.cos(radians), np.sin(radians), 0 * radians])[None, :, :, None].astype(
        np.float32
    )
    truth = np.zeros_like(prediction)
    truth[:, 0] = 1
    expected = [degrees.mean(), 22.5, 2 / 6, 3 / 6, 4 / 6]
    for averaging in ("batch", "pixel"):
        assert measure([(5 * prediction, truth)], averaging) == pytest.approx(expected, abs=1e-4)


def test_a_normal_whose_components_cancel_is_valid() -> None:
    truth = torch.tensor([1.0, -1.0, 0.0]).div(2**0.5).reshape(1, 3, 1, 1)
    metric = Normals()
    metric.update(-truth, truth)
    assert metric.compute()["angle_mean"].item() == pytest.approx(180, abs=0.1)


def test_loss_is_one_minus_the_masked_mean_cosine() -> None:
    prediction, truth = batches()[1]
    loss = Normals.loss(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert loss.item() == pytest.approx(1 - cosines(prediction, truth).mean(), rel=1e-5)


def test_loss_where_nothing_is_valid_is_a_zero_with_a_graph() -> None:
    prediction = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = Normals.loss(prediction, torch.zeros(2, 3, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


@pytest.mark.parametrize(
    "shapes", [((2, 1, 4, 4), (2, 1, 4, 4)), ((2, 3, 4, 4), (2, 3, 4, 5)), ((3, 4, 4), (3, 4, 4))]
)
def test_bad_shapes_are_usage_errors(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    prediction, target = map(torch.ones, shapes)
    with pytest.raises(UsageError, match=r"normals: the .* allowed is"):
        Normals().update(prediction, target)
