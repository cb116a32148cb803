"""The door of the MTAN layout: everything that is wrong with a folder is told at once, with paths."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mtan_folders import write

from mtlsuite.core.errors import UsageError
from mtlsuite.data import NYUv2
from mtlsuite.data.mtan_check import Folders, LayoutError, check_layout


def changed(path: str, change: Callable) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        np.save(root / path, change(np.load(root / path)))

    return damage


def with_pixel(value: float) -> Callable:
    def change(array: np.ndarray) -> np.ndarray:
        array[2, 3] = value
        return array

    return change


def pickled(root: Path) -> None:
    np.save(root / "val/image/1.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


DAMAGES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "no split": (lambda root: shutil.rmtree(root / "val"), {"val": "no such folder"}),
    "no array folder": (lambda root: shutil.rmtree(root / "train/depth"), {"train/depth": "no such folder"}),
    "empty folder": (
        lambda root: [path.unlink() for path in (root / "val/normal").iterdir()],
        {"val/normal": "no .npy file"},
    ),
    "gap": (
        lambda root: [(root / f"train/label/{i}.npy").unlink() for i in (0, 2, 3)],
        {"train/label": "gap in the numbering: 0, 2..3 missing of 0..3"},
    ),
    "gap in all": (
        lambda root: [
            (root / f"train/{kind}/1.npy").unlink() for kind in ("image", "label", "depth", "normal")
        ],
        {f"train/{kind}": "1 missing of 0..3" for kind in ("image", "label", "depth", "normal")},
    ),
    "odd name": (
        lambda root: (root / "train/image/3.npy").rename(root / "train/image/03.npy"),
        {"train/image/03.npy": "not a plain number", "train/image": "3 missing"},
    ),
    "other size": (
        changed("val/depth/1.npy", lambda a: a[:5]),
        {"val/depth/1.npy": "shape (5, 8, 1), most arrays are 6 x 8 pixels"},
    ),
    "channels first": (
        changed("train/image/0.npy", lambda a: a.transpose(2, 0, 1)),
        {"train/image/0.npy": "shape (3, 6, 8), the layout has (H, W, 3)"},
    ),
    "no channel axis": (
        changed("train/depth/2.npy", lambda a: a[..., 0]),
        {"train/depth/2.npy": "shape (6, 8), the layout has (H, W, 1)"},
    ),
    "label too large": (
        changed("val/label/2.npy", with_pixel(13)),
        {"val/label/2.npy": "labels 13; allowed: whole numbers -1..12"},
    ),
    "label too small": (
        changed("val/label/2.npy", lambda a: with_pixel(-2)(a.astype(np.int8))),
        {"val/label/2.npy": "labels -2; allowed"},
    ),
    "label of 254": (
        changed("val/label/2.npy", lambda a: with_pixel(254)(np.maximum(a, 0).astype(np.uint8))),
        {"val/label/2.npy": "labels 254; allowed"},
    ),
    "half a label": (changed("val/label/0.npy", with_pixel(1.5)), {"val/label/0.npy": "labels 1.5; allowed"}),
    "no label": (changed("val/label/0.npy", with_pixel(np.nan)), {"val/label/0.npy": "labels nan; allowed"}),
    "NaN depth": (
        changed("train/depth/1.npy", with_pixel(np.nan)),
        {"train/depth/1.npy": "NaN or infinite in 1 pixels"},
    ),
    "endless depth": (
        changed("train/depth/1.npy", with_pixel(np.inf)),
        {"train/depth/1.npy": "NaN or infinite in 1 pixels"},
    ),
    "depth in bytes": (
        changed("train/depth/1.npy", lambda a: a.astype(np.uint8)),
        {"train/depth/1.npy": "type uint8, allowed: a float type"},
    ),
    "image in long": (
        changed("train/image/1.npy", lambda a: a.astype(np.int64)),
        {"train/image/1.npy": "type int64, allowed: a float type or uint8"},
    ),
    "pickle": (pickled, {"val/image/1.npy": "Python objects"}),
    "truncated": (
        lambda root: (root / "val/normal/0.npy").write_bytes(
            (root / "val/normal/0.npy").read_bytes()[:200]
        ),
        {"val/normal/0.npy": "not a plain array"},
    ),
    "not an array": (
        lambda root: (root / "val/normal/0.npy").write_text("hello"),
        {"val/normal/0.npy": "not a plain array: no .npy file"},
    ),
    "nothing in a file": (
        lambda root: (root / "val/normal/0.npy").write_bytes(b""),
        {"val/normal/0.npy": "not a plain array"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write(root)
    return root


def folders(root: Path) -> Folders:
    kinds = {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}
    return Folders(root, kinds, 13)


def assert_told(problems: list[str], root: Path, expected: dict[str, str]) -> None:
    assert len(problems) == len(expected), problems
    for path, words in expected.items():
        assert any(problem.startswith(f"{root / path}: ") and words in problem for problem in problems), path


def test_a_sound_folder_passes(sound):
    layout = check_layout(folders(sound))
    assert (layout.size, layout.frames) == ((6, 8), {"train": 4, "val": 3})


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_one_problem_is_told(sound, tmp_path, damage, expected):
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    damage(root)
    with pytest.raises(LayoutError) as caught:
        check_layout(folders(root))
    assert_told(caught.value.problems, root, expected)
    assert caught.value.key == ("root",)


def test_all_problems_are_told_at_once(sound, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    names = ("no array folder", "gap", "other size", "label too large", "half a label", "pickle", "truncated")
    expected = {}
    for name in names:
        damage, words = DAMAGES[name]
        damage(root)
        expected |= words
    with pytest.raises(UsageError) as caught:
        NYUv2(str(root))
    head, *lines = caught.value.message.split("\n  ")
    assert head == f"{root}: 7 problems"
    assert_told(lines, root, expected)


def test_a_long_list_is_cut_in_the_message_alone(tmp_path):
    root = tmp_path / "root"
    write(root, {"train": 30, "val": 1})
    for i in range(30):
        changed(f"train/depth/{i}.npy", with_pixel(np.nan))(root)
    with pytest.raises(LayoutError) as caught:
        check_layout(folders(root))
    assert len(caught.value.problems) == 30
    assert caught.value.message.count("\n") == 21
    assert caught.value.message.endswith("... and 10 more; `mtlsuite data check` shows all")
    assert caught.value.listing(30).count("\n") == 30


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: 1 problem\n  no such folder"):
        NYUv2(str(tmp_path / "nowhere"))


def test_checking_keeps_no_file_open(sound):
    """Thousands of mapped files at a time would be more than a process may open."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc here")
    maps = Path("/proc/self/maps")
    check_layout(folders(sound))
    assert str(sound) not in maps.read_text()
    assert not any(str(sound) in str(link.resolve()) for link in descriptors.iterdir())
