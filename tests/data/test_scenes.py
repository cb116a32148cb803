"""The scenes data set: what is in it, that it is reproducible, and its cache."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import build
from mtlsuite.data import Scenes, scenes
from mtlsuite.data.augment import draw_crop, enlarged
from mtlsuite.data.rendering import CLASSES, DOMAINS
from mtlsuite.data.write_mtan import write_scenes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLSUITE_CACHE", str(tmp_path / "cache"))


def small(**options):
    return Scenes(**{"height": 24, "width": 32, "n_train": 3, "n_val": 2, **options})


def same(one, other):
    return all(np.array_equal(one[key], other[key]) for key in one)


def test_items_have_the_agreed_shapes_and_types():
    data = build("dataset", {"name": "scenes", "height": 20, "width": 30, "n_train": 3, "n_val": 2})
    assert data.input_shape == (3, 20, 30)
    assert data.tasks == {"segmentation": 7, "depth": 1, "normals": 3}
    assert data.domains == tuple(DOMAINS)
    assert len(data.domains) >= 5
    assert len(data.classes) == 7
    assert [len(data.split("day", part)) for part in ("train", "val", "all")] == [3, 2, 5]
    image, targets = data.split("day", "train")[1]
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.05
    assert targets["segmentation"].shape == (20, 30)
    assert targets["segmentation"].dtype == torch.int64
    assert targets["depth"].shape == (1, 20, 30)
    assert targets["depth"].dtype == torch.float32
    assert targets["normals"].shape == (3, 20, 30)
    assert targets["normals"].dtype == torch.float32


def test_invalid_is_zero_and_is_the_sky():
    _, targets = small(n_val=8).split("dusk", "val").batch(range(8))
    sky = targets["segmentation"] == CLASSES.index("sky")
    assert sky.any()
    assert torch.equal(targets["depth"][:, 0] == 0, sky)
    length = targets["normals"].norm(dim=1)
    assert torch.equal(length == 0, sky)
    torch.testing.assert_close(length[~sky], torch.ones_like(length[~sky]), atol=1e-6, rtol=0)
    assert targets["depth"].max() < 40


def test_a_batch_is_its_items():
    split = small().split("fog", "all")
    images, targets = split.batch([4, 0, 2])
    for row, index in enumerate([4, 0, 2]):
        image, target = split[index]
        assert torch.equal(image, images[row])
        assert all(torch.equal(target[task], targets[task][row]) for task in target)


def test_all_is_train_then_val():
    data = small()
    joined = data.split("night", "all").batch(range(5))[0]
    parts = [data.split("night", part).batch(range(n))[0] for part, n in (("train", 3), ("val", 2))]
    assert torch.equal(joined, torch.cat(parts))


def test_every_class_occurs_regularly_in_every_domain():
    data = small()
    for domain in data.domains:
        seen = [set(np.unique(data.render(domain, "train", i)["label"])) for i in range(24)]
        for label in range(7):
            assert sum(label in labels for labels in seen) >= 8, (domain, CLASSES[label])


def test_domains_look_different_but_show_the_same_kind_of_scene():
    data = small(height=12, width=16)
    shares, looks = {}, {}
    for domain in data.domains:
        renders = [data.render(domain, "train", i) for i in range(60)]
        labels = np.stack([scene["label"] for scene in renders])
        colours = np.stack([scene["colour"] for scene in renders]) / 255
        shares[domain] = np.bincount(labels.ravel(), minlength=7) / labels.size
        spread = colours.std(axis=1).mean()  # how colourful, beside the mean colour
        looks[domain] = np.array([*colours.mean(axis=(0, 2, 3)), colours.std(), spread])
    for one in data.domains:
        for other in data.domains:
            if one < other:
                assert np.abs(shares[one] - shares[other]).sum() / 2 < 0.12
                assert np.linalg.norm(looks[one] - looks[other]) > 0.1, (one, other)


def test_scenes_differ_between_domains_parts_indices_and_seeds():
    data, other = small(), small(seed=1)
    renders = [data.render(d, p, i)["depth"] for d in data.domains for p in ("train", "val") for i in (0, 1)]
    renders.append(other.render("day", "train", 0)["depth"])
    for i, one in enumerate(renders):
        assert not any(np.array_equal(one, later) for later in renders[i + 1 :])


def test_a_scene_does_not_depend_on_how_many_there_are():
    few, many = small(n_train=2).split("day", "train"), small(n_train=5).split("day", "train")
    assert torch.equal(few.inputs, many.inputs[:2])
    assert all(torch.equal(few.targets[task], many.targets[task][:2]) for task in few.targets)


def test_the_geometry_of_a_scene_does_not_depend_on_the_size():
    one, other = small(height=12, width=16), small(height=36, width=48)
    one, other = (data.render("sketch", "val", 3)["label"] for data in (one, other))
    np.testing.assert_array_equal(one, other[1::3, 1::3])


def test_another_process_renders_the_same_scene():
    code = (
        "import hashlib; from mtlsuite.data import Scenes\n"
        "arrays = Scenes(height=24, width=32, seed=5).render('night', 'val', 7)\n"
        "print(hashlib.sha256(b''.join(arrays[k].tobytes() for k in sorted(arrays))).hexdigest())"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ]
    namespace: dict = {}
    exec(code.replace("print(", "digest = ("), namespace)
    assert outputs[0].strip() == namespace["digest"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 33), (40, 9)])
def test_any_size_works(height, width):
    image, _ = small(height=height, width=width, n_val=1).split("sketch", "val")[0]
    assert image.shape == (3, height, width)
    assert torch.isfinite(image).all()


def test_the_cache_is_used_and_keyed_by_the_options(tmp_path, monkeypatch):
    first = small(cache=str(tmp_path)).split("day", "train")
    assert [path.suffix for path in (tmp_path / "scenes").iterdir()] == [
        ".npz"
    ]  # val not asked for, not made
    monkeypatch.setattr(Scenes, "render", lambda *_: pytest.fail("rendered again"))
    again = small(cache=str(tmp_path)).split("day", "train")
    assert torch.equal(first.inputs, again.inputs)
    for changed in ({"seed": 1}, {"height": 25}, {"width": 33}, {"n_train": 4}):
        with pytest.raises(pytest.fail.Exception):
            small(cache=str(tmp_path), **changed).split("day", "train")
    monkeypatch.setattr(scenes, "RENDERER_VERSION", scenes.RENDERER_VERSION + 1)
    with pytest.raises(pytest.fail.Exception):
        small(cache=str(tmp_path)).split("day", "train")


def test_other_options_leave_the_stored_scenes_alone(tmp_path):
    for changed in ({}, {"seed": 1}, {"height": 25}, {"n_train": 4}):
        small(cache=str(tmp_path), **changed).split("day", "train")
    assert len(list((tmp_path / "scenes").iterdir())) == 4


def test_the_environment_names_the_default_folder(tmp_path):
    small(n_train=1).split("day", "train")
    assert len(list((tmp_path / "cache" / "scenes").glob("day-train-*.npz"))) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "text"])
def test_a_damaged_cache_file_is_rendered_again(tmp_path, damage):
    good = small(cache=str(tmp_path)).split("day", "train")
    (path,) = (tmp_path / "scenes").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        for at in range(200, len(content) - 400, 97):
            content[at] ^= 0xFF
        path.write_bytes(content)
    elif damage == "foreign":
        np.savez(path, colour=np.zeros((3, 3, 24, 32), np.uint8))
    else:
        path.write_bytes(b"" if damage == "empty" else b"not an archive")
    again = small(cache=str(tmp_path)).split("day", "train")
    assert torch.equal(good.inputs, again.inputs)
    assert all(torch.equal(good.targets[task], again.targets[task]) for task in good.targets)
    with np.load(path) as archive:
        assert set(archive.files) == {"colour", "label", "depth", "normals"}


def test_an_interrupted_rendering_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        small(cache=str(tmp_path)).split("day", "train")
    assert list((tmp_path / "scenes").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the cache folder") as caught:
        small(cache=str(tmp_path / "file")).split("day", "train")
    assert caught.value.key == ("cache",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"domains": ["day", "nite"]}, "did you mean 'night'"),
        ({"domains": ["day", "day"]}, "each once"),
        ({"domains": []}, "one or more"),
        ({"height": 0}, "height"),
        ({"n_val": 0}, "n_val"),
        ({"width": 3.5}, "width"),
        ({"seed": -1}, "seed"),
        ({"size": 8}, "unknown option 'size'"),
    ],
)
def test_bad_options_are_clear_errors(options, words):
    with pytest.raises(UsageError, match=words):
        Scenes(**options)


def test_only_the_chosen_domains_are_offered():
    data = small(domains=["night", "day"])
    assert data.domains == ("night", "day")
    with pytest.raises(UsageError, match=r"unknown domain of scenes 'fog'.*day, night"):
        data.split("fog", "train")
    with pytest.raises(UsageError, match=r"unknown part 'test'.*all, train, val"):
        data.split("day", "test")


# --- read from files, and augmented ----------------------------------------------------------------------


def test_written_scenes_are_read_back_as_they_were_rendered(tmp_path):
    rendered = small(domains=["fog", "day"])
    write_scenes(tmp_path / "files", rendered, "label_7")
    read = build("dataset", {"name": "scenes", "root": str(tmp_path / "files"), "labels": "label_7"})
    assert (read.tasks, read.input_shape, read.classes) == (rendered.tasks, (3, 24, 32), rendered.classes)
    assert read.domains == ("scenes",)
    for part, n in (("train", 3), ("val", 2)):
        split = read.split("scenes", part)
        assert len(split) == 2 * n
        for domain, start in (("fog", 0), ("day", n)):
            for i in range(n):
                image, targets = split[start + i]
                expected_image, expected = rendered.split(domain, part)[i]
                assert torch.equal(image, expected_image)
                assert all(torch.equal(targets[task], expected[task]) for task in expected)


@pytest.mark.parametrize("files", [False, True])
def test_augmentation_is_the_published_one_of_the_whole_scene(tmp_path, files):
    options = {"augment": True}
    if files:
        write_scenes(tmp_path / "files", small())
        split = Scenes(root=str(tmp_path / "files"), **options).split("scenes", "train")
    else:
        split = small(**options).split("day", "train")
    image, targets = split[1]
    drawn = set()
    for seed in range(12):
        found_image, found = split.augmented(1, torch.Generator().manual_seed(seed))
        crop = draw_crop(24, 32, torch.Generator().manual_seed(seed))
        rows, columns = crop.window
        cut = {task: target[..., rows, columns] for task, target in targets.items()}
        expected_image, expected = enlarged((image[..., rows, columns], cut), crop, (24, 32))
        assert torch.equal(found_image, expected_image)
        assert all(torch.equal(found[task], expected[task]) for task in expected)
        drawn.add((crop.scale, crop.flip))
    assert len(drawn) >= 4
    again, _ = split[1]
    assert torch.equal(again, image), "the stored scene is as it was"


def test_without_the_option_nothing_is_augmented():
    assert not hasattr(small().split("day", "train"), "augmented")


@pytest.mark.parametrize(
    ("options", "words", "key"),
    [
        (
            {"root": "none"},
            "none: no such folder; `mtlsuite data make-scenes --root none --labels label`",
            "root",
        ),
        ({"root": "none", "height": 50}, "not allowed beside 'root'", "height"),
        ({"root": "none", "domains": ["day"]}, "not allowed beside 'root'", "domains"),
        ({"labels": "label"}, "allowed only with 'root'", "labels"),
    ],
)
def test_options_of_files_and_of_rendering_are_not_mixed(options, words, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        Scenes(**options)
    assert caught.value.key == (key,)


def test_everything_wrong_with_the_files_is_told(tmp_path):
    write_scenes(tmp_path / "files", small())
    (tmp_path / "files" / "val" / "depth" / "1.npy").unlink()
    with pytest.raises(UsageError, match=r"gap in the numbering: 1 missing"):
        Scenes(root=str(tmp_path / "files"))


def test_a_label_folder_of_another_name_is_told(tmp_path):
    write_scenes(tmp_path / "files", small())
    with pytest.raises(UsageError, match=r"files: no label folder label_7; there is label") as caught:
        Scenes(root=str(tmp_path / "files"), labels="label_7")
    assert caught.value.key == ("labels",)
