"""Dense multi-task data sets in the layout of the MTAN code: NYUv2, Cityscapes, and any other like them.

Layout on disk: ``ROOT/{train,val}/{image,label,depth,normal}/{i}.npy``, i = 0 .. N-1 without gaps, with

* ``image`` (H, W, 3): RGB in [0, 1] as floats, or 0..255 as uint8;
* ``label`` (H, W): class ids 0 .. C-1 as floats or integers, -1 (255 in uint8) = ignore;
* ``depth`` (H, W, 1): floats, 0 = invalid;
* ``normal`` (H, W, 3): floats, unit vectors, the zero vector = invalid.

Any size will do, the same for all. A text file ``ROOT/LABELS.txt`` beside the splits, LABELS being the name
of the label folder, may name the classes, one a line. There is no third split: ``val`` is the test set of
the literature, and choosing anything by it is choosing on the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import UsageError
from ..core.registry import register
from ..core.types import Count
from .augment import draw_crop, enlarged
from .base import DataSet, Sample
from .mtan_check import IGNORE_BYTE, Folders, check_layout
from .mtan_classes import CITYSCAPES7, CITYSCAPES19, LABEL_FOLDERS, NYU13, class_names

Array: TypeAlias = NDArray[Any]
Window: TypeAlias = tuple[slice, slice]

_WHOLE = (slice(None), slice(None))


class MTANSplit(Dataset[Sample]):
    """Frames on disk, memory-mapped: of an augmented sample, only the cropped window is read.

    Args:
        folders: the layout, already checked.
        frames: (folder of the split, number) of each frame.
        size: (H, W).
        augment: whether ``augmented`` augments.
    """

    read_ahead = True  # a sample is a function of its arguments, and reading files takes time

    def __init__(
        self, folders: Folders, frames: Sequence[tuple[Path, int]], size: tuple[int, int], augment: bool
    ) -> None:
        self.folders, self.frames, self.size, self.augment = folders, list(frames), size, augment

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        return self._read(index, _WHOLE)

    def augmented(self, index: int, generator: torch.Generator) -> Sample:
        """Sample ``index`` under the published augmentation, drawn from ``generator``; see ``augment``."""
        if not self.augment:
            return self[index]
        crop = draw_crop(*self.size, generator)
        return enlarged(self._read(index, crop.window), crop, self.size)

    def _read(self, index: int, window: Window) -> Sample:
        split, number = self.frames[index]
        arrays = {
            kind: _CONVERT[kind](
                np.load(split / folder / f"{number}.npy", mmap_mode="r", allow_pickle=False)[window]
            )
            for kind, folder in self.folders.arrays.items()
        }
        return arrays.pop("image"), arrays


class MTANFolder(DataSet):
    """What the data sets in this layout share; the layout is checked once, as one is opened.

    Attributes:
        published_size: (H, W) of the published arrays, or None.
        published_frames: number of frames of each part in the literature.
        inverse_depth: whether ``depth`` grows as things come nearer.
    """

    published_size: ClassVar[tuple[int, int] | None] = None
    published_frames: ClassVar[dict[str, int]] = {}
    inverse_depth: ClassVar[bool] = False

    def _open(self, folders: Folders, classes: tuple[str, ...], augment: bool) -> None:
        """Check the layout and fill in the attributes of a data set; ``classes`` may be empty."""
        layout = check_layout(folders)
        self.folders, self.augment = folders, augment
        self.frames = layout.frames
        channels = {"segmentation": folders.n_classes, "depth": 1, "normals": 3}
        self.tasks = {task: n for task, n in channels.items() if task in folders.arrays}
        self.input_shape = (3, *layout.size)
        self.classes = classes
        self.domains = (self.name,)

    def split(self, domain: str, part: str) -> MTANSplit:
        """The frames of a part, ``all`` of them being those of ``train`` and then those of ``val``.

        ``train`` also offers ``augmented``, which training uses; items by index are never augmented.
        """
        self.check(domain, part)
        parts = list(self.frames) if part == "all" else [part]
        frames = [(self.folders.split(each), i) for each in parts for i in range(self.frames[each])]
        return MTANSplit(self.folders, frames, self.input_shape[1:], self.augment)

    def remarks(self) -> list[str]:
        """What differs from the published arrays, in words."""
        found = []
        if self.published_size not in (None, self.input_shape[1:]):
            height, width = self.input_shape[1:]
            published = "{} x {}".format(*self.published_size or ())
            found.append(f"frames of {height} x {width} pixels; the published ones have {published}")
        for part, published_count in self.published_frames.items():
            if self.frames[part] != published_count:
                found.append(f"{self.frames[part]} frames in {part}; the literature has {published_count}")
        return found


@register("dataset", "nyuv2")
class NYUv2(MTANFolder):
    """NYU Depth v2: indoor frames with segmentation (13 classes), depth (metres) and normals, 288 x 384.

    Silberman et al., *Indoor Segmentation and Support Inference from RGBD Images*, ECCV 2012, in the
    arrays of the MTAN code; 795 frames for training and 654 for testing (``val``).

    Args:
        root: the folder that holds ``train`` and ``val``, see the module.
        augment: the published augmentation of training samples; see ``augment``.
        n_classes: C; default: as many as ``ROOT/label.txt`` names, else 13.
        train_folder: the folder trained on; ``val`` lets a download without ``train`` be tried out.

    Raises:
        UsageError: everything that is wrong with the folder, with paths.
    """

    published_size = (288, 384)
    published_frames: ClassVar[dict[str, int]] = {"train": 795, "val": 654}

    def __init__(
        self,
        root: str,
        augment: bool = True,
        n_classes: Count | None = None,
        train_folder: str = "train",
    ) -> None:
        path = Path(root).expanduser()
        classes, count = class_names(path, "label", n_classes, 13, NYU13)
        arrays = {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}
        self._open(Folders(path, arrays, count, train_folder), classes, augment)


@register("dataset", "cityscapes")
class Cityscapes(MTANFolder):
    """Cityscapes: street scenes with segmentation and scaled inverse depth (about 0 to 0.49), 128 x 256.

    Cordts et al., CVPR 2016, in the arrays of the MTAN code; 2,975 frames for training and 500 for testing
    (``val``).

    Args:
        root: the folder that holds ``train`` and ``val``, see the module.
        labels: the label folder: ``label_7`` (the published setting), ``label_19``, ``label_2`` or LibMTL's
            ``label`` (7 classes).
        augment: the published augmentation of training samples; it divides the inverse depth by s, too.
        n_classes: C; default: as many as ``ROOT/LABELS.txt`` names, else those of the label folder.
        train_folder: the folder trained on; ``val`` lets a download without ``train`` be tried out.

    Raises:
        UsageError: everything that is wrong with the folder, with paths.
    """

    published_size = (128, 256)
    published_frames: ClassVar[dict[str, int]] = {"train": 2975, "val": 500}
    inverse_depth = True

    def __init__(
        self,
        root: str,
        labels: Literal["label_7", "label_19", "label_2", "label"] = "label_7",
        augment: bool = True,
        n_classes: Count | None = None,
        train_folder: str = "train",
    ) -> None:
        path = Path(root).expanduser()
        known = {7: CITYSCAPES7, 19: CITYSCAPES19}.get(LABEL_FOLDERS[labels], ())
        classes, count = class_names(path, labels, n_classes, LABEL_FOLDERS[labels], known)
        arrays = {"image": "image", "segmentation": labels, "depth": "depth"}
        self._open(Folders(path, arrays, count, train_folder), classes, augment)


@register("dataset", "mtan")
class MTAN(MTANFolder):
    """Any folder in the layout of the MTAN code, with whichever of label, depth and normal it has.

    Args:
        root: the folder that holds ``train`` and ``val``, see the module.
        labels: the label folder.
        augment: the published augmentation of training samples; see ``augment``.
        n_classes: C; default: as many as ``ROOT/LABELS.txt`` names.
        train_folder: the folder trained on; ``val`` lets a download without ``train`` be tried out.

    Raises:
        UsageError: everything that is wrong with the folder, with paths; no target at all; labels, but
            neither ``n_classes`` nor ``ROOT/LABELS.txt``.
    """

    def __init__(
        self,
        root: str,
        labels: str = "label",
        augment: bool = True,
        n_classes: Count | None = None,
        train_folder: str = "train",
    ) -> None:
        path = Path(root).expanduser()
        splits = [path / train_folder, path / "val"]
        targets = {"segmentation": labels, "depth": "depth", "normals": "normal"}
        arrays = {
            task: name for task, name in targets.items() if any((split / name).is_dir() for split in splits)
        }
        if path.is_dir() and not arrays:
            names = ", ".join(targets.values())
            raise UsageError(
                f"{path}: nothing to learn: none of the folders {names} is in its splits", ("root",)
            )
        classes: tuple[str, ...] = ()
        count = 0
        if "segmentation" in arrays:
            classes, count = class_names(path, labels, n_classes, None, ())
        self._open(Folders(path, {"image": "image", **arrays}, count, train_folder), classes, augment)


def _image(array: Array) -> Tensor:
    return _channels_first(array / np.float32(255) if array.dtype == np.uint8 else array)


def _label(array: Array) -> Tensor:
    ids = array.astype(np.int64)
    if array.dtype == np.uint8:
        ids[ids == IGNORE_BYTE] = -1
    return torch.from_numpy(ids)


def _channels_first(array: Array) -> Tensor:
    return torch.from_numpy(np.array(np.moveaxis(array, -1, 0), dtype=np.float32, order="C"))


_CONVERT: dict[str, Callable[[Array], Tensor]] = {
    "image": _image,
    "segmentation": _label,
    "depth": _channels_first,
    "normals": _channels_first,
}
