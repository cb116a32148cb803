"""Segmentation metrics and loss against per-class counts in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.metrics import Segmentation

Array = NDArray[np.generic]


def batches(n_classes: int, seed: int, labels_up_to: int | None = None) -> list[tuple[Array, Array]]:
    random = np.random.default_rng(seed)
    return [
        (
            random.standard_normal((size, n_classes, 6, 5)).astype(np.float32),
            random.integers(-1, labels_up_to or n_classes, (size, 6, 5)),
        )
        for size in (3, 1, 2)
    ]


def expected(pairs: list[tuple[Array, Array]], n_classes: int) -> tuple[float, float]:
    predicted = np.concatenate([scores.argmax(axis=1).ravel() for scores, _ in pairs])
    truth = np.concatenate([labels.ravel() for _, labels in pairs])
    predicted, truth = predicted[truth >= 0], truth[truth >= 0]
    ious = []
    for label in range(n_classes):
        union = ((predicted == label) | (truth == label)).sum()
        if union:
            ious.append(((predicted == label) & (truth == label)).sum() / union)
    return float(np.mean(ious)), float(np.mean(predicted == truth))


def measure(pairs: list[tuple[Array, Array]], n_classes: int) -> dict[str, float]:
    metric = Segmentation(n_classes)
    for scores, labels in pairs:
        metric.update(torch.from_numpy(scores), torch.from_numpy(labels))
    return {key: value.item() for key, value in metric.compute().items()}


@pytest.mark.parametrize("n_classes", [2, 7, 13])
def test_one_confusion_matrix_over_unequal_batches(n_classes: int) -> None:
    pairs = batches(n_classes, seed=n_classes)
    miou, accuracy = expected(pairs, n_classes)
    assert measure(pairs, n_classes) == pytest.approx({"miou": miou, "pixel_accuracy": accuracy}, rel=1e-12)


def test_a_class_that_does_not_occur_is_left_out() -> None:
    pairs = batches(6, seed=0, labels_up_to=4)
    for scores, _ in pairs:
        scores[:, 3:] = -100  # class 3 occurs in targets only, classes 4 and 5 nowhere
    miou, accuracy = expected(pairs, 6)
    found = measure(pairs, 6)
    assert found == pytest.approx({"miou": miou, "pixel_accuracy": accuracy}, rel=1e-12)
    assert 0 < found["miou"] < 1


def test_nothing_valid_is_nan() -> None:
    found = measure([(np.zeros((1, 3, 2, 2), np.float32), np.full((1, 2, 2), -1))], 3)
    assert all(np.isnan(value) for value in found.values())


def test_loss_is_the_mean_log_likelihood_of_valid_pixels() -> None:
    scores, labels = batches(5, seed=3)[0]
    shifted = scores.astype(np.float64)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    chosen = np.take_along_axis(log_p, labels.clip(0)[:, None], axis=1)[:, 0]
    truth = torch.from_numpy(labels)
    loss = Segmentation.loss(torch.from_numpy(scores), truth)
    assert loss.item() == pytest.approx(-chosen[labels >= 0].mean(), rel=1e-5)
    assert Segmentation.loss(torch.from_numpy(log_p), truth).item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.equal(Segmentation.loss(torch.from_numpy(scores), truth.float()), loss)


def test_loss_where_nothing_is_valid_is_a_zero_with_a_graph() -> None:
    prediction = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = Segmentation.loss(prediction, torch.full((2, 4, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_the_number_of_classes_comes_from_the_context() -> None:
    assert build("metric", "segmentation", n_classes=13).n_classes == 13
    with pytest.raises(UsageError, match="n_classes"):
        Segmentation(0)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.ones(2, 4, 5, 5), torch.zeros(2, 5, 5).long(), r"\(2, 4, 5, 5\), allowed is \(B, 3, H, W\)"),
        (torch.ones(2, 3, 5, 5), torch.zeros(2, 1, 5, 5).long(), r"\(2, 1, 5, 5\), allowed is \(2, 5, 5\)"),
        (torch.ones(2, 3, 5, 5), torch.full((2, 5, 5), 3), "labels from 3 to 3, allowed are -1 to 2"),
        (torch.ones(2, 3, 5, 5), torch.full((2, 5, 5), 255, dtype=torch.uint8), "255, allowed are -1 to 2"),
        (torch.ones(2, 3, 5, 5), torch.full((2, 5, 5), -2), "labels from -2"),
    ],
)
def test_bad_tensors_are_usage_errors(prediction: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Segmentation(3).update(prediction, target)


def test_labels_are_looked_at_again_once_they_changed() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    scores = torch.zeros(1, 3, 2, 2)
    for _ in range(2):
        Segmentation.loss(scores, labels)
    labels[0, 0, 0] = 3
    with pytest.raises(UsageError, match="labels from 0 to 3"):
        Segmentation.loss(scores, labels)
    labels[0, 0, 0] = 2
    Segmentation.loss(scores, labels)
    with pytest.raises(
        UsageError, match="labels from 0 to 2, allowed are -1 to 1"
    ):  # of another number of classes
        Segmentation.loss(scores[:, :2], labels)
    with torch.inference_mode():
        Segmentation.loss(scores, labels.clone())
