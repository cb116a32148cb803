"""Targets, predictions and errors as colours: known values at known pixels have known colours."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from mtlsuite.experiments.comparison import Comparison
from mtlsuite.experiments.keys import Bar, Directions, Swatches
from mtlsuite.experiments.panels import MOST, prediction_pages, task_pictures
from mtlsuite.experiments.pictures import (
    CLASS_COLOURS,
    INVALID,
    RIGHT,
    WRONG,
    angle_error,
    class_colours,
    class_picture,
    depth_error,
    input_picture,
    normals_picture,
    scaled_picture,
    wrong_picture,
)
from mtlsuite.experiments.style import WIDTH, styled
from mtlsuite.metrics import Normals

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


def oklab(colour: str, vision: list[list[float]] | None) -> np.ndarray:
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if vision is not None:
        linear = (np.array(vision) @ linear).clip(0, 1)
    lms = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ linear
    )
    return (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ lms
    )


@pytest.mark.parametrize("vision", [None, PROTANOPIA, DEUTERANOPIA], ids=["normal", "protan", "deutan"])
def test_twenty_classes_and_grey_and_white_can_be_told_apart(vision: list[list[float]] | None) -> None:
    colours = [*CLASS_COLOURS, INVALID, RIGHT]
    assert len(CLASS_COLOURS) == 20
    apart = [
        np.linalg.norm(oklab(a, vision) - oklab(b, vision)) for a, b in itertools.combinations(colours, 2)
    ]
    assert min(apart) > 0.07  # a just noticeable difference is about 0.02
    errors = [oklab(colour, vision) for colour in (RIGHT, WRONG, INVALID)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(errors, 2)) > 0.15


def test_any_number_of_classes_has_as_many_colours() -> None:
    assert class_colours(3) == list(CLASS_COLOURS[:3])
    assert len(set(class_colours(65))) == 65


def test_classes_and_wrong_pixels() -> None:
    truth = np.array([[0, 1, -1], [2, 1, 0]])
    predicted = np.array([[0, 2, 2], [2, 1, 1]])
    picture = class_picture(truth, 3)
    assert picture.shape == (2, 3, 3)
    for place, colour in {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 2): 0}.items():
        assert tuple(picture[place]) == to_rgb(CLASS_COLOURS[colour])
    assert tuple(picture[0, 2]) == to_rgb(INVALID)
    expected = [[RIGHT, WRONG, INVALID], [RIGHT, RIGHT, WRONG]]
    wrong = wrong_picture(predicted, truth)
    assert [[tuple(pixel) for pixel in row] for row in wrong] == [
        [to_rgb(c) for c in row] for row in expected
    ]


def test_a_colour_scale_is_cut_at_its_ends() -> None:
    values = np.array([[2.0, 4.0, 3.0], [1.0, 99.0, np.nan]])
    picture = scaled_picture(values, 2.0, 4.0, "viridis")
    low, middle, high = (matplotlib.colormaps["viridis"](share)[:3] for share in (0.0, 0.5, 1.0))
    assert [tuple(pixel) for pixel in picture.reshape(-1, 3)] == [
        low,
        high,
        middle,
        low,
        high,
        to_rgb(INVALID),
    ]
    assert np.isfinite(scaled_picture(np.ones((2, 2)), 1.0, 1.0, "viridis")).all()


def test_normals_of_any_length_in_red_green_and_blue() -> None:
    normals = np.array([[[2.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]])  # (3, 1, 2): along x, and none
    np.testing.assert_allclose(normals_picture(normals), [[(1.0, 0.5, 0.5), to_rgb(INVALID)]])
    np.testing.assert_allclose(normals_picture(-np.roll(normals, 2, axis=0))[0, 0], (0.5, 0.5, 0.0))


def test_depth_errors_leave_out_what_was_not_measured() -> None:
    error = depth_error(np.array([[[1.0, 5.0, 2.0]]]), np.array([[[3.0, 0.0, 2.0]]]))
    np.testing.assert_array_equal(error, [[2.0, np.nan, 0.0]])


def test_angles_by_hand_and_as_the_metric_has_them() -> None:
    truth = np.zeros((3, 1, 4))
    truth[2, 0, :3] = 1
    predicted = np.zeros((3, 1, 4))
    predicted[:, 0, 0] = 0, 0, 7
    predicted[:, 0, 1] = 3, 0, 3
    predicted[:, 0, 2] = 0, 0, -0.1
    np.testing.assert_allclose(angle_error(predicted, truth), [[0, 45, 180, np.nan]], atol=1e-6)
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((3, 6, 5))
    truth = rng.standard_normal((3, 6, 5))
    truth /= np.linalg.norm(truth, axis=0)
    predicted[:, 0], truth[:, 1] = 0, 0
    metric = Normals()
    metric.update(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])
    assert np.nanmean(angle_error(predicted, truth)) == pytest.approx(float(metric.compute()["angle_mean"]))


def test_inputs_of_one_channel_and_normalised_inputs() -> None:
    grey = np.array([[[0.0, 0.25]]])
    np.testing.assert_array_equal(input_picture(grey), [[[0, 0, 0], [0.25, 0.25, 0.25]]])
    stretched = input_picture(np.array([[[-2.0]], [[0.0]], [[2.0]]]))
    np.testing.assert_array_equal(stretched, [[[0, 0.5, 1]]])


def mirrored(truth: list[Any]) -> list[np.ndarray]:
    """The truth of two images."""
    return [np.array(truth), np.array(truth)[..., ::-1]]


def comparison(labels: list[str], classes: tuple[str, ...] = ("a", "b")) -> Comparison:
    """Two images of 2 x 4, the second one's truth mirrored.

    The first method says class 1 everywhere, depth 3, and a normal along z; no other one says the same.
    """
    rng = np.random.default_rng(0)
    shown = Comparison(
        held_out=(),
        places=[("day", 0), ("day", 7)],
        inputs=[rng.random((3, 2, 4)) for _ in range(2)],
        targets={
            "segmentation": mirrored([[0, 1, 1, -1]] * 2),
            "depth": mirrored([[[1.0, 2.0, 3.0, 0.0]] * 2]),
            "normals": mirrored([[[0.0] * 4] * 2, [[0.0] * 4] * 2, [[1.0, 1.0, 1.0, 0.0]] * 2]),
        },
        channels={"segmentation": 2, "depth": 1, "normals": 3},
        classes=classes,
        inverse_depth=False,
        seeds={0},
    )
    scores = np.stack([np.zeros((2, 4)), np.ones((2, 4))])
    upright = np.stack([np.zeros((2, 4)), np.zeros((2, 4)), np.ones((2, 4))])
    predictions = {"segmentation": scores, "depth": np.full((1, 2, 4), 3.0), "normals": upright}
    shown.predictions = {
        task: {label: [np.roll(p, k, axis=0) + k] * 2 for k, label in enumerate(labels)}
        for task, p in predictions.items()
    }
    return shown


def test_each_task_knows_its_truth_its_errors_and_its_units() -> None:
    shown = comparison(["A"])
    segmentation = task_pictures(shown, "segmentation")
    assert [tuple(p) for p in segmentation.errors["A"][0][0]] == [
        to_rgb(c) for c in (WRONG, RIGHT, RIGHT, INVALID)
    ]
    names = [entry for key in segmentation.keys for entry in key.entries]
    assert names[:3] == [("a", CLASS_COLOURS[0]), ("b", CLASS_COLOURS[1]), ("no label", INVALID)]
    depth = task_pictures(shown, "depth")
    assert (tuple(depth.truth[0][0, 3]), tuple(depth.errors["A"][0][0, 3])) == (to_rgb(INVALID),) * 2
    far = matplotlib.colormaps["viridis_r"](1.0)[:3]
    np.testing.assert_allclose(depth.truth[1][1, 1], far)
    np.testing.assert_allclose(depth.predictions["A"][0], np.broadcast_to(far, (2, 4, 3)))
    np.testing.assert_allclose(depth.errors["A"][0][0, 2], matplotlib.colormaps["magma_r"](0.0)[:3])
    bar, error, _ = depth.keys
    assert isinstance(bar, Bar)
    assert isinstance(error, Bar)
    assert (bar.label, error.label) == ("depth (m)", "error: |prediction \N{MINUS SIGN} truth| (m)")
    assert (bar.low, error.low) == (pytest.approx(1.0, abs=0.05), 0.0)
    normals = task_pictures(shown, "normals")
    assert isinstance(normals.keys[0], Directions)
    assert normals.keys[0].towards
    np.testing.assert_allclose(normals.errors["A"][0][0, 0], matplotlib.colormaps["magma_r"](0.0)[:3])


def test_inverse_depth_has_no_metres_and_unnamed_classes_have_numbers() -> None:
    shown = comparison(["A"], classes=())
    shown.inverse_depth = True
    bar, error, _ = task_pictures(shown, "depth").keys
    assert isinstance(bar, Bar)
    assert isinstance(error, Bar)
    assert bar.label == "inverse depth"
    assert "(m)" not in error.label
    key = task_pictures(shown, "segmentation").keys[0]
    assert isinstance(key, Swatches)
    assert [name for name, _ in key.entries] == ["class 0", "class 1", "no label"]


@pytest.mark.parametrize("task", ["segmentation", "depth", "normals"])
def test_a_page_holds_the_pictures_where_they_belong(task: str) -> None:
    shown = comparison(["A", "B"])
    with styled():
        [figure] = prediction_pages(shown, task)
    pictures = task_pictures(shown, task)
    expected = []
    for i in range(2):
        expected += [input_picture(shown.inputs[i]), pictures.truth[i]]
        expected += [p for label in "AB" for p in (pictures.predictions[label][i], pictures.errors[label][i])]
    axes = [ax for ax in figure.axes if ax.images][: len(expected)]
    for ax, picture in zip(axes, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), picture)
        box = ax.get_position()
        size = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
        assert size[0] == pytest.approx(2 * size[1]), "pixels are square"
    left = {round(ax.get_position().x0, 6) for ax in axes}
    assert len(left) == 3
    assert figure.get_figwidth() == WIDTH


@pytest.mark.parametrize("n_methods", [1, 5, 6, 10, 11])
def test_methods_are_spread_over_pages(n_methods: int) -> None:
    labels = [f"method {number}" for number in range(n_methods)]
    with styled():
        pages = prediction_pages(comparison(labels), "segmentation")
    shown = [[t.get_text() for t in page.texts if t.get_text().startswith("method")] for page in pages]
    assert [label for page in shown for label in page] == labels
    assert max(map(len, shown)) <= MOST
    assert max(map(len, shown)) - min(map(len, shown)) <= 1


@pytest.mark.parametrize(("n_methods", "n_classes"), [(1, 1), (5, 20)])
@pytest.mark.parametrize("task", ["segmentation", "depth", "normals"])
def test_no_words_overlap_and_all_stay_on_the_page(task: str, n_methods: int, n_classes: int) -> None:
    labels = [f"sage(gradient_equilibrium({number}))" for number in range(n_methods)]
    shown = comparison(labels, tuple(f"class_{k} with a name" for k in range(n_classes)))
    shown.channels["segmentation"] = n_classes
    shown.targets["segmentation"] = [np.zeros((2, 4), int)] * 2
    with styled():
        [figure] = prediction_pages(shown, task)
        figure.draw_without_rendering()
        boxes = [(t.get_text(), t.get_window_extent()) for t in figure.texts if t.get_text()]
        for ax in figure.axes:
            boxes.append(("picture", ax.get_tightbbox()))
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.width + 1, name
        assert box.y1 <= figure.bbox.height + 1, name
        for other, second in boxes[i + 1 :]:
            shared_x = min(box.x1, second.x1) - max(box.x0, second.x0)
            shared_y = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert shared_x < 1 or shared_y < 1, (name, other)
