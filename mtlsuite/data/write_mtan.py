"""Arrays written in the layout of the MTAN code (see ``mtan``): a whole folder, or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..core.errors import UsageError
from .scenes import Scenes

Array = NDArray[Any]
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]  # (items, title, count) -> the items


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``root`` at the end; it is removed where an exception passes.

    Raises:
        UsageError: there is something at ``root`` already, or its parent cannot be written to.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root}: there is something already; give a new or empty folder", ("root",))
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    except OSError as error:
        raise UsageError(f"cannot write to {root.parent}: {error.strerror}", ("root",)) from error
    try:
        yield folder
        folder.chmod(0o755)  # a temporary folder is closed to others
        if root.is_dir():
            root.rmdir()
        folder.rename(root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_frame(split: Path, number: int, arrays: Mapping[str, Array]) -> None:
    """Store the arrays of one frame, folder -> array, as ``split/FOLDER/{number}.npy``."""
    for name, array in arrays.items():
        (split / name).mkdir(parents=True, exist_ok=True)
        np.save(split / name / f"{number}.npy", array, allow_pickle=False)


def write_names(root: Path, labels: str, names: Sequence[str]) -> None:
    """Store the names of the classes of a label folder, one a line."""
    (root / f"{labels}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_scenes(root: Path, scenes: Scenes, labels: str = "label") -> None:
    """Store scenes of every domain, one domain after the other, as the folder ``root``.

    Images, depth and normals are float32, labels int8; read back, they are the scenes bit for bit.

    Args:
        labels: name of the label folder, ``label_7`` for the data set ``cityscapes``.

    Raises:
        UsageError: ``root`` is not new or empty, or cannot be written.
    """
    with new_folder(root) as folder:
        for part in ("train", "val"):
            splits = [scenes.split(domain, part) for domain in scenes.domains]
            samples = ((split[i] for i in range(len(split))) for split in splits)
            for number, (image, targets) in enumerate(sample for each in samples for sample in each):
                arrays = {
                    "image": image.permute(1, 2, 0).numpy(),
                    labels: targets["segmentation"].numpy().astype(np.int8),
                    "depth": targets["depth"].permute(1, 2, 0).numpy(),
                    "normal": targets["normals"].permute(1, 2, 0).numpy(),
                }
                write_frame(folder / part, number, arrays)
        write_names(folder, labels, scenes.classes)


def resized_image(pixels: Array, size: tuple[int, int]) -> Array:
    """uint8 (h, w, 3) as float32 (H, W, 3) in [0, 1], bilinear and smoothed against aliasing."""
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
    small = F.interpolate(channels_first, size, mode="bilinear", align_corners=False, antialias=True)
    array: Array = small[0].permute(1, 2, 0).clamp(0, 1).contiguous().numpy()
    return array


def nearest(values: Array, size: tuple[int, int]) -> Array:
    """(h, w, ...) at the size (H, W): each pixel takes the value at its centre, nothing is mixed."""
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(np.int64) for n, old in zip(size, values.shape, strict=False)
    )
    picked: Array = values[rows[:, None], columns[None, :]]
    return picked
