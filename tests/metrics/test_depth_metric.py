"""Depth errors and loss against numpy, on masked batches of unequal size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.metrics import Depth
from mtlsuite.metrics.base import Averaging

Array = NDArray[np.float32]
SIZE = (1, 6, 7)


def batches(valid_shares: tuple[float, ...] = (0.9, 0.2, 0.6)) -> list[tuple[Array, Array]]:
    random = np.random.default_rng(0)
    pairs = []
    for size, share in zip((3, 1, 2, 2), valid_shares, strict=False):
        truth = random.uniform(0.5, 5, (size, *SIZE)) * (random.uniform(size=(size, *SIZE)) < share)
        pairs.append((random.standard_normal((size, *SIZE)).astype(np.float32), truth.astype(np.float32)))
    return pairs


def errors(prediction: Array, truth: Array) -> NDArray[np.float64]:
    """(2, number of valid pixels): absolute and relative."""
    valid = truth != 0
    absolute = np.abs(prediction[valid].astype(np.float64) - truth[valid])
    return np.stack([absolute, absolute / truth[valid]])


def measure(pairs: list[tuple[Array, Array]], averaging: Averaging) -> list[float]:
    metric = Depth(averaging=averaging)
    for prediction, truth in pairs:
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    found = metric.compute()
    assert list(found) == list(metric.higher_is_better_by) == ["abs_err", "rel_err"]
    return [value.item() for value in found.values()]


def test_mean_over_batches_and_over_pixels() -> None:
    pairs = batches()
    by_batch = np.mean([errors(*pair).mean(axis=1) for pair in pairs], axis=0)
    by_pixel = np.concatenate([errors(*pair) for pair in pairs], axis=1).mean(axis=1)
    assert measure(pairs, "batch") == pytest.approx(list(by_batch), rel=1e-9)
    assert measure(pairs, "pixel") == pytest.approx(list(by_pixel), rel=1e-9)
    assert abs(by_batch - by_pixel).min() > 1e-3  # or the two could not be told apart


@pytest.mark.parametrize("averaging", ["batch", "pixel"])
def test_a_batch_without_a_valid_pixel_is_left_out(averaging: Averaging) -> None:
    pairs = batches((0.9, 0.0, 0.6))
    assert measure(pairs, averaging) == measure([pairs[0], pairs[2]], averaging)
    assert np.isnan(measure([pairs[1]], averaging)).all()


def test_loss_is_the_masked_mean_absolute_error() -> None:
    prediction, truth = batches()[1]
    loss = Depth.loss(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert loss.item() == pytest.approx(errors(prediction, truth)[0].mean(), rel=1e-5)


def test_loss_where_nothing_is_valid_is_a_zero_with_a_graph() -> None:
    prediction = torch.randn(2, *SIZE, requires_grad=True)
    loss = Depth.loss(prediction, torch.zeros(2, *SIZE))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_options_are_checked() -> None:
    assert build("metric", {"name": "depth", "averaging": "pixel"}, n_classes=1).averaging == "pixel"
    with pytest.raises(UsageError, match=r"averaging.*'image'"):
        Depth(averaging="image")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shapes", [((2, 2, 4, 4), (2, 2, 4, 4)), ((2, 1, 4, 4), (2, 4, 4)), ((2, 1, 4, 4), (2, 1, 4, 5))]
)
def test_bad_shapes_are_usage_errors(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    prediction, target = map(torch.ones, shapes)
    with pytest.raises(UsageError, match=r"depth: the .* allowed is"):
        Depth().update(prediction, target)
    with pytest.raises(UsageError, match=r"depth: the .* allowed is"):
        Depth.loss(prediction, target)
