"""Cityscapes as it is downloaded -> the layout of the MTAN code.

Input: the folders of the official packages ``leftImg8bit_trainvaltest``, ``gtFine_trainvaltest`` and
``disparity_trainvaltest``, unpacked side by side::

    RAW/leftImg8bit/{train,val}/CITY/FRAME_leftImg8bit.png
    RAW/gtFine/{train,val}/CITY/FRAME_gtFine_labelIds.png
    RAW/disparity/{train,val}/CITY/FRAME_disparity.png
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..core.errors import UsageError
from .mtan_classes import CITYSCAPES7, CITYSCAPES19
from .write_mtan import Progress, nearest, new_folder, resized_image, write_frame, write_names

Array = NDArray[Any]

# Official label ids, grouped by category in the order of CITYSCAPES7; the rest (0..6) is void.
_CATEGORIES = (
    range(7, 11),
    range(11, 17),
    range(17, 21),
    range(21, 23),
    range(23, 24),
    range(24, 26),
    range(26, 34),
)
# The official label id of each class of CITYSCAPES19, in the order of the official train ids.
_TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VOID = (*range(7), 255)  # 255: the id -1 in a file of uint8
_UNKNOWN = -2


class Frame(NamedTuple):
    """One frame as three files; ``name`` is CITY_SEQUENCE_NUMBER."""

    name: str
    image: Path
    label: Path
    disparity: Path


def prepare_cityscapes(
    raw: Path, root: Path, size: tuple[int, int] = (128, 256), progress: Progress = lambda items, *_: items
) -> None:
    """Write image, label_7, label_19 and depth of all frames below ``raw`` as the folder ``root``.

    Images are resized bilinearly with antialiasing to float32; labels and disparities take the nearest pixel.
    ``label_7`` are the official categories without void (parking is flat, a caravan is a vehicle),
    ``label_19`` the official train ids; a label id that is in neither is -1. ``{train,val}.txt`` in ``root``
    name the frame of each number: they are numbered by city and name.

    ``depth`` is scaled inverse depth, p / 65535 with p the 16-bit value in the PNG: 0 stays "invalid", and
    p > 0 means a disparity of (p - 1) / 256 pixels. How the published arrays were scaled is not documented;
    the scale is inferred from their range, about 0 to 0.49: disparities up to 126 pixels give 0.492. A
    disparity of zero becomes 1.5e-5, valid and tiny, which fits the large published relative errors.

    Args:
        raw: see the module.
        root: a new or empty folder.
        size: (H, W) of the arrays.

    Raises:
        UsageError: files or folders that are missing or cannot be read, or hold something else.
    """
    parts = {part: _frames(raw, part) for part in ("train", "val")}
    with new_folder(root) as folder:
        for part, frames in parts.items():
            for number, frame in enumerate(progress(frames, part, len(frames))):
                write_frame(folder / part, number, _arrays(frame, size))
            names = "".join(f"{frame.name}\n" for frame in frames)
            (folder / f"{part}.txt").write_text(names, encoding="utf-8")
        write_names(folder, "label_7", CITYSCAPES7)
        write_names(folder, "label_19", CITYSCAPES19)


def _frames(raw: Path, part: str) -> list[Frame]:
    """All frames of a split; every missing file is told at once."""
    suffixes = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_labelIds", "disparity": "disparity"}
    folders = [raw / package / part for package in suffixes]
    absent = [f"{folder}: no such folder" for folder in folders if not folder.is_dir()]
    if absent:
        raise UsageError("\n  ".join([f"{raw} is not Cityscapes as it is downloaded", *absent]), ("raw",))
    found: dict[tuple[str, str], set[str]] = {}
    for (package, suffix), folder in zip(suffixes.items(), folders, strict=True):
        for path in folder.glob(f"*/*_{suffix}.png"):
            found.setdefault((path.parent.name, path.name[: -len(f"_{suffix}.png")]), set()).add(package)
    if not found:
        raise UsageError(f"{folders[0]}: no CITY/*_leftImg8bit.png in it", ("raw",))
    frames, missing = [], []
    for city, name in sorted(found):
        files = [raw / p / part / city / f"{name}_{suffix}.png" for p, suffix in suffixes.items()]
        missing += [f"{file}: no such file" for file in files if not file.is_file()]
        frames.append(Frame(name, *files))
    if missing:
        shown = missing[:20] + ([f"... and {len(missing) - 20} more"] if len(missing) > 20 else [])
        raise UsageError("\n  ".join([f"{raw}: {len(missing)} files are missing", *shown]), ("raw",))
    return frames


def _arrays(frame: Frame, size: tuple[int, int]) -> dict[str, Array]:
    ids = nearest(_read(frame.label, 2, np.uint8), size)
    labels = {name: table[ids] for name, table in _TABLES.items()}
    if (labels["label_7"] == _UNKNOWN).any():
        odd = sorted(set(ids[labels["label_7"] == _UNKNOWN].tolist()))
        raise UsageError(f"{frame.label}: label ids {odd}; the official ones are 0..33 and 255", ("raw",))
    disparity = nearest(_read(frame.disparity, 2, np.uint16), size)
    return {
        "image": resized_image(_read(frame.image, 3, np.uint8), size),
        **labels,
        "depth": (disparity / np.float32(65535)).astype(np.float32)[..., None],
    }


def _read(path: Path, ndim: int, dtype: type[np.unsignedinteger[Any]]) -> Array:
    try:
        with Image.open(path) as picture:
            pixels: Array = np.array(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{path}: cannot be read as a picture: {error}", ("raw",)) from None
    if pixels.dtype == np.int32 and dtype == np.uint16:  # how some versions of Pillow hold 16 bits
        pixels = pixels.astype(np.uint16)
    if pixels.ndim != ndim or pixels.dtype != dtype:
        what = {2: f"one channel of {np.dtype(dtype)}", 3: "three channels of uint8"}[ndim]
        raise UsageError(f"{path}: allowed: {what}, found shape {pixels.shape} of {pixels.dtype}", ("raw",))
    return pixels


def _table(groups: Iterable[Iterable[int]]) -> Array:
    """(256,) int8: official label id -> class, -1 = ignored, -2 = no official id."""
    table = np.full(256, _UNKNOWN, np.int8)
    table[[*range(34), 255]] = -1
    for k, ids in enumerate(groups):
        table[list(ids)] = k
    return table


_TABLES = {"label_7": _table(_CATEGORIES), "label_19": _table((i,) for i in _TRAIN_IDS)}
