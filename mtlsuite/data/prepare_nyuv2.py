"""NYU Depth v2 as it is downloaded -> the layout of the MTAN code.

Input: ``nyu_depth_v2_labeled.mat`` (HDF5), with ``images`` (N, 3, 640, 480) uint8, ``depths`` (N, 640, 480)
in metres and ``labels`` (N, 640, 480) with ids 0..894, 0 = unlabelled, as HDF5 sees MATLAB's arrays; and, as
files, what the archive does not hold: the mapping of the 894 labels to classes and the official split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from .surface_normals import Pinhole, normals_from_depth
from .write_mtan import Progress, nearest, new_folder, resized_image, write_frame

Array = NDArray[Any]

# The colour camera of the Kinect, to which `depths` are aligned: camera_params.m of the official toolbox.
KINECT = Pinhole(fx=518.85790, fy=519.46961, cx=325.58245 - 1, cy=253.73617 - 1)  # MATLAB counts from 1
_CAMERA_SIZE = (480, 640)


def prepare_nyuv2(
    raw: Path,
    root: Path,
    classes: Sequence[Path],
    splits: Sequence[Path],
    normals: Path | None = None,
    size: tuple[int, int] = (288, 384),
    progress: Progress = lambda items, *_: items,
) -> None:
    """Write image, label, depth and normal of the frames of both splits as the folder ``root``.

    Images are resized bilinearly with antialiasing to float32; labels and depth take the nearest pixel;
    normals that are not given are computed from the resized depth (see ``surface_normals``), so they are
    derived from it and no independent measurement. ``{train,val}.txt`` in ``root`` hold the number,
    from 1, that each frame has in the archive.

    Args:
        raw: ``nyu_depth_v2_labeled.mat``.
        root: a new or empty folder.
        classes: tables from label to class, applied one after the other: for 13 classes one text file of
            894 numbers, or ``classMapping40.mat`` of the official toolbox and ``class13Mapping.mat``. The
            k-th number is the class of label k, from 1; 0 is "ignored" and becomes -1, class c becomes c - 1.
        splits: ``splits.mat`` (``trainNdxs``, ``testNdxs``), or two text files of numbers from 1: train, val.
        normals: a folder with ``{n}.npy`` (h, w, 3), n the frame's number from 1: unit vectors, zero =
            invalid; they are resized like labels.
        size: (H, W) of the arrays.

    Raises:
        UsageError: a file that is missing, cannot be read or holds something else; a package that is not
            installed.
    """
    table = _class_table(classes)
    numbers = dict(zip(("train", "val"), _split_numbers(splits), strict=True))
    with _archive(raw) as archive, new_folder(root) as folder:
        count = len(archive["images"])
        _check_numbers(numbers, count, splits)
        for part, frames in numbers.items():
            for i, n in enumerate(progress(frames, part, len(frames))):
                label = archive["labels"][n - 1].T
                if label.max(initial=0) >= len(table):
                    raise UsageError(
                        f"{raw}: frame {n} has the label {label.max()}, {classes[0]} ends at {len(table) - 1}"
                    )
                depth = nearest(archive["depths"][n - 1].T.astype(np.float32), size)
                arrays = {
                    "image": resized_image(archive["images"][n - 1].transpose(2, 1, 0), size),
                    "label": nearest(table[label], size),
                    "depth": depth[..., None],
                    "normal": _computed(depth) if normals is None else _given(normals / f"{n}.npy", size),
                }
                write_frame(folder / part, i, arrays)
            (folder / f"{part}.txt").write_text("".join(f"{n}\n" for n in frames), encoding="utf-8")


@contextmanager
def _archive(raw: Path) -> Iterator[Any]:
    """The open archive, its arrays checked against each other."""
    try:
        import h5py
    except ImportError:
        raise UsageError("preparing NYUv2 needs the package h5py: pip install 'mtlsuite[nyuv2]'") from None
    try:
        archive = h5py.File(raw, "r")
    except OSError as error:
        raise UsageError(f"{raw}: cannot be read as an HDF5 file: {error}", ("raw",)) from None
    with archive:
        shapes = {name: archive[name].shape for name in ("images", "depths", "labels") if name in archive}
        n, _, width, height = (*shapes.get("images", ()), 0, 0, 0, 0)[:4]
        wanted = {"images": (n, 3, width, height), "depths": (n, width, height), "labels": (n, width, height)}
        if shapes != wanted:
            described = "images (N, 3, W, H), depths (N, W, H), labels (N, W, H)"
            raise UsageError(f"{raw}: allowed: {described}; found {shapes or 'none of them'}", ("raw",))
        yield archive


def _class_table(files: Sequence[Path]) -> Array:
    """(L + 1,) int8: raw label -> class, -1 = ignored."""
    if not files:
        raise UsageError(
            "which class has which of the 894 labels? The archive does not say: give a text file of 894 "
            "numbers, or classMapping40.mat of the official toolbox and class13Mapping.mat",
            ("classes",),
        )
    tables = [np.concatenate([[0], _integers(file)]) for file in files]
    table = tables[0]
    for file, following in zip(files[1:], tables[1:], strict=True):
        if table.max() >= len(following):
            raise UsageError(
                f"{file}: {len(following) - 1} classes, the table before goes up to {table.max()}"
            )
        table = following[table]
    if table.min() < 0 or table.max() > 127:
        raise UsageError(f"{files[-1]}: classes {table.min()}..{table.max()}; allowed: 0 (ignored), 1..127")
    return (table - 1).astype(np.int8)


def _split_numbers(files: Sequence[Path]) -> list[list[int]]:
    """The frames of train and val, numbered from 1."""
    if len(files) == 1 and files[0].suffix == ".mat":
        content = _mat(files[0])
        if not {"trainNdxs", "testNdxs"} <= set(content):
            raise UsageError(f"{files[0]}: allowed: trainNdxs and testNdxs; found {sorted(content)}")
        return [content[name].astype(np.int64).ravel().tolist() for name in ("trainNdxs", "testNdxs")]
    if len(files) == 2:
        return [_integers(file).tolist() for file in files]
    raise UsageError(
        "which frames are for training? Give splits.mat, or two text files of frame numbers from 1: "
        f"train and val; found {', '.join(map(str, files)) or 'nothing'}",
        ("splits",),
    )


def _check_numbers(numbers: dict[str, list[int]], count: int, files: Sequence[Path]) -> None:
    place = ", ".join(map(str, files))
    for part, frames in numbers.items():
        odd = [n for n in frames if not 1 <= n <= count]
        if odd or not frames or len(set(frames)) < len(frames):
            found = f"frames {odd[:5]}" if odd else "a frame twice" if frames else "no frame"
            raise UsageError(f"{place}: {part}: allowed: frames 1..{count}, each once; found {found}")
    common = sorted(set(numbers["train"]) & set(numbers["val"]))
    if common:
        raise UsageError(f"{place}: frames {common[:5]} are in both splits")


def _integers(file: Path) -> Array:
    """The whole numbers of a text file, or those of the one vector in a .mat file."""
    if file.suffix == ".mat":
        vectors = [v for v in _vectors(list(_mat(file).values())) if v.size > 1]
        if len(vectors) != 1:
            sizes = [v.size for v in vectors]
            raise UsageError(f"{file}: allowed: one vector of numbers; found vectors of {sizes} numbers")
        values = vectors[0].ravel()
    else:
        try:
            values = np.array(file.read_text(encoding="utf-8").replace(",", " ").split(), dtype=np.float64)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{file}: allowed: whole numbers; {error}") from None
    if not len(values) or (values != np.floor(values)).any():
        raise UsageError(f"{file}: allowed: whole numbers, found {values[:5].tolist()}")
    return values.astype(np.int64)


def _vectors(values: list[Any]) -> Iterator[Array]:
    """All numeric vectors in what scipy makes of nested MATLAB structures."""
    for value in values:
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.names:
            yield from _vectors([value[name] for name in value.dtype.names])
        elif value.dtype == object:
            yield from _vectors(list(value.ravel()))
        elif value.dtype.kind in "iuf" and value.size == max(value.shape, default=0):
            yield value


def _mat(file: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise UsageError(f"{file}: cannot be read as a MATLAB file: {error}") from None


def _computed(depth: Array) -> Array:
    return normals_from_depth(depth, KINECT.resized(*_CAMERA_SIZE, *depth.shape))


def _given(file: Path, size: tuple[int, int]) -> Array:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: cannot be read as an array: {error}", ("normals",)) from None
    if vectors.ndim != 3 or vectors.shape[2] != 3 or vectors.dtype.kind != "f":
        found = f"shape {vectors.shape} of {vectors.dtype}"
        raise UsageError(f"{file}: allowed: (h, w, 3) of a float type; found {found}", ("normals",))
    return nearest(vectors.astype(np.float32), size)
