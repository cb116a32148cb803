"""Data sets in the layout of the MTAN code: what is read is what is stored, in whatever allowed type."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mtan_folders import KINDS, write

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.data import MTAN, Cityscapes, NYUv2, Scenes
from mtlsuite.data.write_mtan import write_scenes


def test_samples_are_the_stored_arrays_channels_first(tmp_path):
    frames = write(tmp_path)
    data = build("dataset", {"name": "nyuv2", "root": str(tmp_path)})
    assert data.domains == ("nyuv2",)
    assert data.tasks == {"segmentation": 13, "depth": 1, "normals": 3}
    assert data.input_shape == (3, 6, 8)
    assert len(data.classes) == 13
    for part, rows in {"train": range(4), "val": range(3)}.items():
        split = data.split("nyuv2", part)
        assert len(split) == len(rows)
        for i in rows:
            stored = frames[part, i]
            image, targets = split[i]
            np.testing.assert_array_equal(image, stored["image"].transpose(2, 0, 1))
            np.testing.assert_array_equal(targets["segmentation"], stored["label"])
            np.testing.assert_array_equal(targets["depth"], stored["depth"].transpose(2, 0, 1))
            np.testing.assert_array_equal(targets["normals"], stored["normal"].transpose(2, 0, 1))
            assert [v.dtype for v in (image, *targets.values())] == [
                torch.float32,
                torch.int64,
                torch.float32,
                torch.float32,
            ]
            assert all(values.is_contiguous() for values in (image, *targets.values()))
    whole = data.split("nyuv2", "all")
    assert len(whole) == 7
    assert torch.equal(whole[3][0], data.split("nyuv2", "train")[3][0])
    assert torch.equal(whole[4][0], data.split("nyuv2", "val")[0][0])


def test_samples_may_be_written_into(tmp_path):
    write(tmp_path)
    split = NYUv2(str(tmp_path)).split("nyuv2", "val")
    image, targets = split[0]
    for values in (image, *targets.values()):
        values.zero_()
    assert split[0][0].abs().sum() > 0, "the files are as they were"


def test_other_types_hold_the_same_values(tmp_path):
    """float64 and float16; uint8 images in 0..255 and uint8 labels with 255 for "ignore"."""
    frames = write(tmp_path)
    stored = frames["val", 0]
    before = NYUv2(str(tmp_path)).split("nyuv2", "val")[0]
    folder = tmp_path / "val"
    pixels = (255 * stored["image"]).round().astype(np.uint8)
    np.save(folder / "image" / "0.npy", pixels)
    np.save(folder / "label" / "0.npy", stored["label"].astype(np.int64).astype(np.uint8))
    np.save(folder / "depth" / "0.npy", stored["depth"].astype(np.float64))
    np.save(folder / "normal" / "0.npy", stored["normal"].astype(np.float16))
    image, targets = NYUv2(str(tmp_path)).split("nyuv2", "val")[0]
    np.testing.assert_allclose(image, pixels.transpose(2, 0, 1) / 255, rtol=1e-6)
    assert torch.equal(targets["segmentation"], before[1]["segmentation"])
    assert (targets["segmentation"] == -1).any()
    assert torch.equal(targets["depth"], before[1]["depth"])
    torch.testing.assert_close(targets["normals"], before[1]["normals"], atol=1e-3, rtol=0)
    assert {values.dtype for values in (image, targets["depth"], targets["normals"])} == {torch.float32}


@pytest.mark.parametrize(
    ("labels", "classes"), [("label_7", 7), ("label_19", 19), ("label_2", 2), ("label", 7)]
)
def test_cityscapes_reads_the_label_folder_it_is_told(tmp_path, labels, classes):
    frames = write(tmp_path, names={"label": labels}, classes=classes)
    data = Cityscapes(str(tmp_path), labels=labels)
    assert data.tasks == {"segmentation": classes, "depth": 1}
    assert len(data.classes) == (0 if classes == 2 else classes)
    _, targets = data.split("cityscapes", "train")[1]
    np.testing.assert_array_equal(targets["segmentation"], frames["train", 1]["label"])
    if labels != "label_7":
        with pytest.raises(
            UsageError, match=rf"label_7: no such folder; there is {labels} \(option labels\)"
        ):
            Cityscapes(str(tmp_path))


def test_a_file_of_names_says_how_many_classes_there_are(tmp_path):
    write(tmp_path, classes=3)
    with pytest.raises(UsageError, match=r"give n_classes, or name the classes in .*label\.txt"):
        MTAN(str(tmp_path))
    assert MTAN(str(tmp_path), n_classes=3).classes == ()
    (tmp_path / "label.txt").write_text("wall\nfloor\nlamp\n")
    for data in (MTAN(str(tmp_path)), NYUv2(str(tmp_path)), NYUv2(str(tmp_path), n_classes=3)):
        assert data.tasks["segmentation"] == 3
        assert data.classes == ("wall", "floor", "lamp")
    with pytest.raises(UsageError, match="names 3 classes, found 13"):
        NYUv2(str(tmp_path), n_classes=13)


def test_any_folder_offers_the_tasks_that_it_has(tmp_path):
    write(tmp_path)
    for missing in ("normal", "label"):
        for split in ("train", "val"):
            for path in (tmp_path / split / missing).iterdir():
                path.unlink()
            (tmp_path / split / missing).rmdir()
        data = MTAN(str(tmp_path), n_classes=13)
        assert "normals" not in data.tasks
    assert data.tasks == {"depth": 1}
    (tmp_path / "val" / "depth").rename(tmp_path / "val" / "deep")
    with pytest.raises(UsageError, match=r"val/depth: no such folder"):
        MTAN(str(tmp_path))
    (tmp_path / "train" / "depth").rename(tmp_path / "train" / "deep")
    with pytest.raises(UsageError, match="nothing to learn"):
        MTAN(str(tmp_path))


def test_a_download_without_training_frames_can_be_tried_out(tmp_path):
    write(tmp_path, {"val": 2})
    with pytest.raises(UsageError, match=r"train: no such folder"):
        NYUv2(str(tmp_path))
    data = NYUv2(str(tmp_path), train_folder="val")
    assert torch.equal(data.split("nyuv2", "train")[1][0], data.split("nyuv2", "val")[1][0])


def test_what_differs_from_the_published_arrays_is_said(tmp_path):
    write(tmp_path, {"train": 3, "val": 2})
    remarks = "\n".join(NYUv2(str(tmp_path)).remarks())
    assert re.findall(r"\d+", remarks) == ["6", "8", "288", "384", "3", "795", "2", "654"]
    assert MTAN(str(tmp_path), n_classes=13).remarks() == []


def test_arrays_are_mapped_and_never_unpickled(tmp_path, monkeypatch):
    write(tmp_path)
    split = NYUv2(str(tmp_path)).split("nyuv2", "train")
    calls = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: calls.append(kwargs) or load(*args, **kwargs))
    split.augmented(0, torch.Generator().manual_seed(0))
    assert calls == [{"mmap_mode": "r", "allow_pickle": False}] * len(KINDS)


def test_scenes_come_back_bit_for_bit(tmp_path):
    scenes = Scenes(24, 32, 3, 2, ["day", "fog"], cache=str(tmp_path / "cache"))
    write_scenes(tmp_path / "new" / "folder", scenes)
    data = MTAN(str(tmp_path / "new" / "folder"))
    assert (data.tasks, data.input_shape, data.classes) == (scenes.tasks, scenes.input_shape, scenes.classes)
    for part in ("train", "val"):
        expected = [sample for domain in scenes.domains for sample in scenes.split(domain, part)]
        split = data.split("mtan", part)
        assert len(split) == len(expected)
        for i, (image, targets) in enumerate(expected):
            found, others = split[i]
            assert torch.equal(found, image)
            assert all(torch.equal(others[task], targets[task]) for task in scenes.tasks)


def test_scenes_are_not_written_over_anything(tmp_path, monkeypatch):
    scenes = Scenes(8, 8, 1, 1, ["day"], cache=str(tmp_path / "cache"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "work.txt").write_text("mine")
    with pytest.raises(UsageError, match="something already"):
        write_scenes(tmp_path / "full", scenes)
    with pytest.raises(UsageError, match="cannot write to"):
        write_scenes(tmp_path / "full" / "work.txt" / "new", scenes)
    (tmp_path / "empty").mkdir()
    write_scenes(tmp_path / "empty", scenes)
    monkeypatch.setattr(np, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "half", scenes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "empty", "full"]


REAL = Path(__file__).parents[3] / "shared" / "data"


def real(name: str) -> str:
    if not (REAL / name).is_dir():
        pytest.skip(f"no folder {name} among the shared data beside the repository")
    return str(REAL / name)


def test_real_frames_of_objects_are_read():
    data = MTAN(real("rgbd_objects"), n_classes=6)
    assert data.input_shape == (3, 144, 192)
    assert [len(data.split("mtan", part)) for part in ("train", "val", "all")] == [22, 8, 30]
    for i, (image, targets) in enumerate(data.split("mtan", "val")):
        if i == 8:
            break
        assert 0 <= image.min() < 0.2
        assert 0.8 < image.max() <= 1
        lengths = targets["normals"].norm(dim=0)
        assert (((lengths - 1).abs() < 5e-3) | (lengths == 0)).all()
        assert targets["depth"].max() < 1.2, "metres"
    augmented = data.split("mtan", "train").augmented(0, torch.Generator().manual_seed(0))
    assert all(values.isfinite().all() for values in (augmented[0], *augmented[1].values()))


def test_real_frames_of_nyu_depth_are_read():
    root = real("nyud_two")
    data = NYUv2(root, n_classes=40, train_folder="val")
    (_, first), (_, second) = (data.split("nyuv2", "val")[i] for i in range(2))
    assert 1 < first["depth"][first["depth"] > 0].median() < 6, "metres"
    assert not second["normals"].any(), "this frame comes without normals"
    with pytest.raises(UsageError, match=r"3 problems\n.*train: no such folder\n.*labels 21, 37, 38, 39;"):
        NYUv2(root)
