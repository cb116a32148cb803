"""Cityscapes from a tiny tree of the official structure: every number followed from the PNG to the array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtlsuite.core.errors import UsageError
from mtlsuite.data import Cityscapes
from mtlsuite.data.prepare_cityscapes import prepare_cityscapes

# (label id, category, train id) as the official table of labels has them; -1: ignored.
OFFICIAL = [
    *((i, -1, -1) for i in range(7)),
    (7, 0, 0), (8, 0, 1), (9, 0, -1), (10, 0, -1),
    (11, 1, 2), (12, 1, 3), (13, 1, 4), (14, 1, -1), (15, 1, -1), (16, 1, -1),
    (17, 2, 5), (18, 2, -1), (19, 2, 6), (20, 2, 7),
    (21, 3, 8), (22, 3, 9),
    (23, 4, 10),
    (24, 5, 11), (25, 5, 12),
    (26, 6, 13), (27, 6, 14), (28, 6, 15), (29, 6, -1), (30, 6, -1), (31, 6, 16), (32, 6, 17), (33, 6, 18),
    (255, -1, -1),
]  # fmt: skip
FRAMES = {
    "train": [("aachen", "aachen_000000_000019"), ("zurich", "zurich_000001_000019")],
    "val": [("lindau", "lindau_000002_000019")],
}


def write_raw(raw: Path, height: int = 16, width: int = 32) -> dict[str, dict[str, np.ndarray]]:
    """A tree like the unpacked downloads; the pixels by frame."""
    rng = np.random.default_rng(1)
    pixels = {}
    for part, frames in FRAMES.items():
        for city, name in frames:
            pictures = {
                ("leftImg8bit", "leftImg8bit"): rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
                ("gtFine", "gtFine_labelIds"): rng.choice(
                    [row[0] for row in OFFICIAL], (height, width)
                ).astype(np.uint8),
                ("disparity", "disparity"): (
                    rng.integers(0, 32258, (height, width)) * rng.integers(0, 2, (height, width))
                ).astype(np.uint16),
            }
            for (package, suffix), picture in pictures.items():
                folder = raw / package / part / city
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / f"{name}_{suffix}.png")
            (raw / "gtFine" / part / city / f"{name}_gtFine_polygons.json").write_text("{}")
            pixels[name] = {package: picture for (package, _), picture in pictures.items()}
    return pixels


def test_every_pixel_at_full_size(tmp_path):
    pixels = write_raw(tmp_path / "raw")
    prepare_cityscapes(tmp_path / "raw", tmp_path / "new", (16, 32))
    seven = {i: category for i, category, _ in OFFICIAL}
    nineteen = {i: train for i, _, train in OFFICIAL}
    for part, frames in FRAMES.items():
        for number, (_, name) in enumerate(frames):
            arrays = {
                kind: np.load(tmp_path / "new" / part / kind / f"{number}.npy")
                for kind in ("image", "label_7", "label_19", "depth")
            }
            raw = pixels[name]
            np.testing.assert_allclose(arrays["image"], raw["leftImg8bit"] / 255, atol=1e-6)
            np.testing.assert_array_equal(arrays["label_7"], np.vectorize(seven.get)(raw["gtFine"]))
            np.testing.assert_array_equal(arrays["label_19"], np.vectorize(nineteen.get)(raw["gtFine"]))
            assert arrays["depth"].shape == (16, 32, 1)
            np.testing.assert_allclose(arrays["depth"][..., 0], raw["disparity"] / 65535, rtol=1e-6)
            assert 0.4 < arrays["depth"].max() < 0.4923
    names = [name for _, name in FRAMES["train"]]
    assert (tmp_path / "new" / "train.txt").read_text().split() == names


def test_the_result_is_the_data_set(tmp_path):
    write_raw(tmp_path / "raw", 64, 128)
    prepare_cityscapes(tmp_path / "raw", tmp_path / "new", (8, 16))
    for labels, classes in {"label_7": 7, "label_19": 19}.items():
        data = Cityscapes(str(tmp_path / "new"), labels=labels)
        assert data.input_shape == (3, 8, 16)
        assert len(data.classes) == data.tasks["segmentation"] == classes
        assert [len(data.split("cityscapes", part)) for part in ("train", "val")] == [2, 1]


def test_smaller_arrays_mix_colours_but_neither_labels_nor_depths(tmp_path):
    """Eight by eight blocks of one value each become one pixel of that value."""
    raw = tmp_path / "raw"
    write_raw(raw)
    ids = np.array([[7, 11, 0, 33], [23, 255, 25, 20]], np.uint8)
    disparities = np.array([[0, 1, 257, 32257], [25601, 0, 0, 2]], np.uint16)
    city, name = FRAMES["val"][0]
    blocks = np.ones((8, 8), np.uint8)
    place = "{}/val/" + city + "/" + name
    Image.fromarray(np.kron(ids, blocks)).save(raw / f"{place.format('gtFine')}_gtFine_labelIds.png")
    Image.fromarray(np.kron(disparities, blocks.astype(np.uint16))).save(
        raw / f"{place.format('disparity')}_disparity.png"
    )
    Image.fromarray(np.full((16, 32, 3), 51, np.uint8)).save(
        raw / f"{place.format('leftImg8bit')}_leftImg8bit.png"
    )
    prepare_cityscapes(raw, tmp_path / "new", (2, 4))
    arrays = {k: np.load(tmp_path / f"new/val/{k}/0.npy") for k in ("image", "label_7", "label_19", "depth")}
    assert arrays["label_7"].tolist() == [[0, 1, -1, 6], [4, -1, 5, 2]]
    assert arrays["label_19"].tolist() == [[0, 2, -1, 18], [10, -1, 12, 7]]
    np.testing.assert_allclose(arrays["depth"][..., 0] * 65535, disparities, rtol=1e-6)
    np.testing.assert_allclose(arrays["image"], 0.2, atol=1e-6)


def test_all_that_is_missing_is_told_at_once(tmp_path):
    raw = tmp_path / "raw"
    with pytest.raises(UsageError) as caught:
        prepare_cityscapes(raw, tmp_path / "new")
    assert caught.value.message.count("no such folder") == 3
    write_raw(raw)
    city, name = FRAMES["train"][1]
    gone = [
        raw / f"leftImg8bit/train/{city}/{name}_leftImg8bit.png",
        raw / "disparity/train/aachen/aachen_000000_000019_disparity.png",
    ]
    for path in gone:
        path.unlink()
    with pytest.raises(UsageError) as caught:
        prepare_cityscapes(raw, tmp_path / "new")
    assert all(f"{path}: no such file" in caught.value.message for path in gone)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("file", "pixels", "words"),
    [
        ("gtFine/{}_gtFine_labelIds.png", np.full((16, 32), 34, np.uint8), r"label ids \[34\]"),
        ("gtFine/{}_gtFine_labelIds.png", np.zeros((16, 32, 3), np.uint8), "one channel of uint8"),
        ("disparity/{}_disparity.png", np.zeros((16, 32), np.uint8), "one channel of uint16, found .* uint8"),
        ("leftImg8bit/{}_leftImg8bit.png", np.zeros((16, 32), np.uint8), "three channels of uint8"),
        ("leftImg8bit/{}_leftImg8bit.png", None, "cannot be read as a picture"),
    ],
)
def test_a_picture_of_another_kind_is_a_clear_error(tmp_path, file, pixels, words):
    raw = tmp_path / "raw"
    write_raw(raw)
    package, _, name = file.partition("/")
    path = raw / package / "val" / "lindau" / name.format("lindau_000002_000019")
    if pixels is None:
        path.write_bytes(b"no picture")
    else:
        Image.fromarray(pixels).save(path)
    with pytest.raises(UsageError, match=words) as caught:
        prepare_cityscapes(raw, tmp_path / "new", (4, 8))
    assert str(path) in caught.value.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"], "nothing half made is left"
