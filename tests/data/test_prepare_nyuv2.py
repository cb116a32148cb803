"""NYUv2 from a tiny archive of the official structure; normals from depth by closed form."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path

import numpy as np
import pytest

from mtlsuite.core.errors import UsageError
from mtlsuite.data import NYUv2
from mtlsuite.data.prepare_nyuv2 import KINECT, prepare_nyuv2
from mtlsuite.data.rendering import View, compose
from mtlsuite.data.surface_normals import Pinhole, normals_from_depth

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

N, HEIGHT, WIDTH = 5, 12, 16
TABLE = [3, 0, 1, 13, 2]  # of the labels 1..5; 0 is "ignored"


@pytest.fixture
def raw(tmp_path) -> dict[str, np.ndarray]:
    """An archive as MATLAB writes it, ``archive.mat``; its arrays as people think of them."""
    rng = np.random.default_rng(2)
    arrays = {
        "images": rng.integers(0, 256, (N, HEIGHT, WIDTH, 3), dtype=np.uint8),
        "depths": rng.uniform(0.7, 9, (N, HEIGHT, WIDTH)).astype(np.float32),
        "labels": rng.integers(0, 6, (N, HEIGHT, WIDTH)).astype(np.uint16),
    }
    with h5py.File(tmp_path / "archive.mat", "w") as file:  # column major: the axes are reversed
        file["images"] = arrays["images"].transpose(0, 3, 2, 1)
        file["depths"] = arrays["depths"].transpose(0, 2, 1)
        file["labels"] = arrays["labels"].transpose(0, 2, 1)
    (tmp_path / "classes.txt").write_text(" ".join(map(str, TABLE)))
    (tmp_path / "train.txt").write_text("5\n2\n")
    (tmp_path / "val.txt").write_text("1, 4\n3")
    return arrays


def prepare(tmp_path: Path, **changed) -> Path:
    options = {
        "raw": tmp_path / "archive.mat",
        "root": tmp_path / "new",
        "classes": [tmp_path / "classes.txt"],
        "splits": [tmp_path / "train.txt", tmp_path / "val.txt"],
        "size": (HEIGHT, WIDTH),
    }
    prepare_nyuv2(**{**options, **changed})
    return tmp_path / "new"


def test_every_array_at_full_size(tmp_path, raw):
    new = prepare(tmp_path)
    to_class = np.array([-1, 2, -1, 0, 12, 1])
    for part, frames in {"train": [5, 2], "val": [1, 4, 3]}.items():
        for i, n in enumerate(frames):
            arrays = {k: np.load(new / part / k / f"{i}.npy") for k in ("image", "label", "depth", "normal")}
            np.testing.assert_allclose(arrays["image"], raw["images"][n - 1] / 255, atol=1e-6)
            np.testing.assert_array_equal(arrays["label"], to_class[raw["labels"][n - 1]])
            np.testing.assert_array_equal(arrays["depth"][..., 0], raw["depths"][n - 1])
        assert (new / f"{part}.txt").read_text().split() == list(map(str, frames))
    data = NYUv2(str(new))
    assert data.tasks == {"segmentation": 13, "depth": 1, "normals": 3}
    assert [len(data.split("nyuv2", part)) for part in ("train", "val")] == [2, 3]


@pytest.mark.usefixtures("raw")
def test_official_files_say_the_same_as_text(tmp_path):
    """Tables chained as 894 -> 40 -> 13, one of them inside a structure; a split in MATLAB's form."""
    first, second = [2, 4, 3, 4, 1], [2, 3, 1, 0]  # 2 -> 3, 4 -> 0, ...
    scipy_io.savemat(tmp_path / "classMapping40.mat", {"mapClass": np.array([first])})
    nested = {"labels13": np.array([second]), "className": np.array(["a", "b"], dtype=object)}
    scipy_io.savemat(tmp_path / "class13Mapping.mat", {"classMapping13": nested})
    scipy_io.savemat(
        tmp_path / "splits.mat", {"trainNdxs": np.array([[5], [2]]), "testNdxs": np.array([[1], [4], [3]])}
    )
    chained = [3, 0, 1, 0, 2]
    (tmp_path / "chained.txt").write_text("\n".join(map(str, chained)))
    prepare(
        tmp_path,
        root=tmp_path / "mat",
        classes=[tmp_path / "classMapping40.mat", tmp_path / "class13Mapping.mat"],
        splits=[tmp_path / "splits.mat"],
    )
    text = prepare(tmp_path, classes=[tmp_path / "chained.txt"])
    files = sorted(path.relative_to(text) for path in text.rglob("*.*"))
    assert len(files) == 5 * 4 + 2
    for file in files:
        assert (tmp_path / "mat" / file).read_bytes() == (text / file).read_bytes(), file


@pytest.mark.usefixtures("raw")
def test_given_normals_are_taken(tmp_path):
    folder = tmp_path / "normals"
    folder.mkdir()
    for n in range(1, N + 1):
        np.save(folder / f"{n}.npy", np.full((HEIGHT, WIDTH, 3), n / 8, np.float32))
    new = prepare(tmp_path, normals=folder)
    assert [np.load(new / f"val/normal/{i}.npy").max() * 8 for i in range(3)] == [1, 4, 3]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": []}, "which class has which of the 894 labels"),
        ({"classes": ["missing.txt"]}, r"missing\.txt: No such file"),
        ({"classes": ["words.txt"]}, r"words\.txt: allowed: whole numbers"),
        ({"classes": ["short.txt"]}, r"frame 5 has the label 5, .*short\.txt ends at 2"),
        ({"classes": ["classes.txt", "short.txt"]}, r"short\.txt: 2 classes, the table before goes up to 13"),
        ({"splits": []}, "which frames are for training"),
        ({"splits": ["short.txt", "short.txt"]}, r"frames \[1, 2\] are in both splits"),
        (
            {"splits": ["classes.txt", "short.txt"]},
            r"allowed: frames 1\.\.5, each once; found frames \[0, 13\]",
        ),
        ({"splits": ["twice.txt", "short.txt"]}, "a frame twice"),
        ({"splits": ["words.mat"]}, r"words\.mat: cannot be read as a MATLAB file"),
        ({"raw": "short.txt"}, r"short\.txt: cannot be read as an HDF5 file"),
        ({"raw": "other.mat"}, "found none of them"),
        ({"raw": "mixed.mat"}, r"found \{'images'"),
        ({"normals": "."}, r"5\.npy: cannot be read as an array"),
    ],
)
@pytest.mark.usefixtures("raw")
def test_wrong_input_is_a_clear_error(tmp_path, changed, words):
    (tmp_path / "short.txt").write_text("1 2")
    (tmp_path / "twice.txt").write_text("3 3")
    (tmp_path / "words.txt").write_text("wall floor")
    (tmp_path / "words.mat").write_text("wall floor")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["x"] = [1]
    with h5py.File(tmp_path / "mixed.mat", "w") as file:
        file["images"] = np.zeros((2, 3, 4, 5), np.uint8)
        file["depths"], file["labels"] = np.zeros((2, 4, 5)), np.zeros((3, 4, 5), np.uint16)
    before = sorted(path.name for path in tmp_path.iterdir())
    paths = {
        key: [tmp_path / name for name in value] if isinstance(value, list) else tmp_path / value
        for key, value in changed.items()
    }
    with pytest.raises(UsageError, match=words):
        prepare(tmp_path, **paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing half made is left"


@pytest.mark.usefixtures("raw")
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.partition(".")[0] == "h5py":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "h5py"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r"h5py: pip install 'mtlsuite\[nyuv2\]'"):
        prepare(tmp_path, classes=[tmp_path / "classes.txt"])


# --- normals from depth ---------------------------------------------------------------------------------

CAMERA = Pinhole(fx=60.0, fy=55.0, cx=19.3, cy=14.8)


def plane_depth(normal: np.ndarray, distance: float, height: int = 30, width: int = 40) -> np.ndarray:
    """Where the rays through the pixel centres meet the plane n . p = -distance."""
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (CAMERA.cy - v) / CAMERA.fy, -np.ones_like(u)], axis=-1)
    depth: np.ndarray = -distance / (rays @ normal)
    return depth


def unit(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


PLANES = {
    "facing": unit(0, 0, 1),
    "floor": unit(0, 1, 0.4),
    "ceiling": unit(0, -1, 0.4),
    "left wall": unit(1, 0, 0.5),
    "tilted": unit(-0.4, 0.3, 0.8),
}


@pytest.mark.parametrize("normal", PLANES.values(), ids=PLANES)
def test_a_tilted_plane_has_its_normal_everywhere(normal):
    depth = plane_depth(normal, 2.0)
    assert (depth > 0).all()
    found = normals_from_depth(depth, CAMERA, tolerance=0.5)
    inner = found[3:-3, 3:-3]
    np.testing.assert_allclose(inner, np.broadcast_to(normal, inner.shape), atol=1e-5)
    assert found.dtype == np.float32
    assert not found[0, 0].any(), "in a corner, most of the window is outside of the image"


def test_an_edge_does_not_bend_the_planes_beside_it():
    left, right = PLANES["tilted"], PLANES["facing"]
    depth = plane_depth(left, 2.0)
    depth[:, 20:] = plane_depth(right, 6.0)[:, 20:]
    found = normals_from_depth(depth, CAMERA, tolerance=0.25)
    for columns, normal in ((slice(3, 20), left), (slice(20, 37), right)):
        inner = found[3:-3, columns]
        np.testing.assert_allclose(inner, np.broadcast_to(normal, inner.shape), atol=1e-5)


def test_holes_stay_holes_and_leave_their_surroundings_alone():
    depth = plane_depth(PLANES["tilted"], 2.0)
    depth[10:12, 10:12] = 0
    depth[:, 30:] = 0
    found = normals_from_depth(depth, CAMERA, tolerance=0.25)
    assert not found[depth == 0].any()
    inner = found[12, 5:25]
    np.testing.assert_allclose(inner, np.broadcast_to(PLANES["tilted"], inner.shape), atol=1e-5)
    assert not normals_from_depth(np.zeros((9, 9)), CAMERA).any()


def test_noise_is_averaged_out():
    rng = np.random.default_rng(0)
    depth = 1 / (1 / plane_depth(PLANES["tilted"], 2.0) + 0.002 * rng.standard_normal((30, 40)))
    errors = []
    for radius in (1, 3):
        found = normals_from_depth(depth, CAMERA, radius, tolerance=0.25)[4:-4, 4:-4]
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
        errors.append(np.degrees(np.arccos((found @ PLANES["tilted"]).clip(-1, 1))).mean())
    assert errors[1] < 0.35 * errors[0]  # in theory (3/7)^2


def test_ray_cast_scenes_have_the_normals_that_their_depth_says():
    """The exact normals of the embedded scenes are another route, axes and signs included."""
    scene = compose(np.random.default_rng(3))
    view = View(scene, 120, 160)
    focal = 160 / (2 * np.tan(scene.camera.field / 2))
    found = normals_from_depth(view.depth, Pinhole(focal, focal, 79.5, 59.5), radius=2)
    both = found.any(axis=-1)
    assert both.mean() > 0.5
    cosines = (found * view.normals).sum(axis=-1)[both]
    assert np.quantile(np.degrees(np.arccos(cosines.clip(-1, 1))), 0.6) < 1


def test_a_resized_picture_has_the_same_rays():
    small = CAMERA.resized(30, 40, 15, 20)
    # the centre of the small pixel (0, 0) is the corner that four large ones share, (0.5, 0.5)
    assert (0 - small.cx) / small.fx == pytest.approx((0.5 - CAMERA.cx) / CAMERA.fx)
    assert (7 - small.cy) / small.fy == pytest.approx((14.5 - CAMERA.cy) / CAMERA.fy)


def test_normals_of_an_archive_are_those_of_its_planes(tmp_path):
    """Through the whole preparation: a floor seen by the Kinect at full size, reduced by 5."""
    height, width = 480, 640
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - KINECT.cx) / KINECT.fx, (KINECT.cy - v) / KINECT.fy, -np.ones_like(u)], axis=-1)
    normal = unit(0.2, 0.5, 0.6)
    depth = (-1.5 / (rays @ normal)).astype(np.float32)
    with h5py.File(tmp_path / "archive.mat", "w") as file:
        file["images"] = np.zeros((2, 3, width, height), np.uint8)
        file["depths"] = np.stack([depth.T, depth.T])
        file["labels"] = np.ones((2, width, height), np.uint16)
    for name, text in {"classes": "1", "train": "1", "val": "2"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    new = prepare(tmp_path, size=(96, 128))
    found = np.load(new / "val" / "normal" / "0.npy")[4:-4, 4:-4]
    assert found.any(axis=-1).mean() > 0.95
    np.testing.assert_allclose(found[found.any(axis=-1)] @ normal, 1, atol=1e-6)
