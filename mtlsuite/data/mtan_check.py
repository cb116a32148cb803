"""Is a folder in the layout of the MTAN code? Everything that is wrong with it, at once and with paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError

CHANNELS = {"image": 3, "segmentation": None, "depth": 1, "normals": 3}  # None: no channel axis
IGNORE_BYTE = 255  # "ignore" in labels of type uint8, which has no -1
_SHOWN = 20  # of the problems, in the message
_PLAIN = re.compile(r"0|[1-9][0-9]{0,6}")


@dataclass(frozen=True)
class Folders:
    """Where the arrays of a data set are: ``root/SPLIT/FOLDER/{i}.npy``.

    Attributes:
        arrays: what (``image``, or a task) -> name of its folder.
        n_classes: C.
        train: name of the folder of the split ``train``.
    """

    root: Path
    arrays: Mapping[str, str]
    n_classes: int
    train: str = "train"

    def split(self, part: str) -> Path:
        """The folder of ``train`` or ``val``."""
        return self.root / (self.train if part == "train" else part)


@dataclass(frozen=True)
class Layout:
    """What a checked folder holds: the size (H, W) of all arrays and the number of frames of each part."""

    size: tuple[int, int]
    frames: dict[str, int]


class LayoutError(UsageError):
    """A folder is not in the layout; ``problems`` are all that were found, ``message`` shows the first 20."""

    def __init__(self, root: Path, problems: list[str]) -> None:
        self.root, self.problems = root, problems
        super().__init__(self.listing(_SHOWN), ("root",))

    def listing(self, limit: int) -> str:
        """The first ``limit`` problems, one a line."""
        n = len(self.problems)
        lines = [f"{self.root}: {n} problem{'' if n == 1 else 's'}", *self.problems[:limit]]
        if n > limit:
            lines.append(f"... and {n - limit} more; `mtlsuite data check` shows all")
        return "\n  ".join(lines)


def check_layout(folders: Folders) -> Layout:
    """Look at the names and headers of all arrays, and at the values of all labels and depths.

    Raises:
        LayoutError: a split, a folder or an array is missing, the numbering has a gap, a file is no plain
            array, shapes or types differ from what is allowed, labels lie outside -1 .. C-1, depth is NaN
            or infinite.
    """
    if not folders.root.is_dir():
        hint = (
            "docs/data.md says how to get the data; `mtlsuite data make-scenes --root DIR` writes scenes to "
            "try it out with"
        )
        raise LayoutError(folders.root, [f"no such folder; {hint}"])
    problems: list[str] = []
    frames, files = {}, []
    for part in ("train", "val"):
        names = _numbered(folders, part, problems)
        frames[part] = len(set().union(*names.values()))
        files += [
            (kind, folders.split(part) / folders.arrays[kind] / f"{i}.npy")
            for kind, numbers in names.items()
            for i in sorted(numbers)
        ]
    size = _check_arrays(dict.fromkeys(files), folders.n_classes, problems)
    if problems:
        raise LayoutError(folders.root, list(dict.fromkeys(problems)))
    return Layout(size, frames)


def _check_arrays(files: Iterable[tuple[str, Path]], n_classes: int, problems: list[str]) -> tuple[int, int]:
    """The size that most arrays have; what is wrong with their headers and values goes to ``problems``."""
    sound = []
    for kind, path in files:
        array = _opened(path, problems)
        if array is not None and _form_allowed(kind, path, array, problems):
            sound.append((kind, path, array.shape))
    sizes = Counter(shape[:2] for _, _, shape in sound)
    size = cast("tuple[int, int]", sizes.most_common(1)[0][0] if sizes else (0, 0))
    for kind, path, shape in sound:
        if shape[:2] != size:
            problems.append(f"{path}: shape {shape}, most arrays are {size[0]} x {size[1]} pixels")
        if kind in ("segmentation", "depth"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            problems += [f"{path}: {problem}" for problem in _bad_values(kind, array, n_classes)]
    return size


def _numbered(folders: Folders, part: str, problems: list[str]) -> dict[str, set[int]]:
    """The numbers of the arrays of each kind; adds what is wrong with folders and names to ``problems``."""
    split = folders.split(part)
    if not split.is_dir():
        problems.append(f"{split}: no such folder")
        return {}
    found: dict[str, set[int]] = {}
    for kind, name in folders.arrays.items():
        folder = split / name
        if not folder.is_dir():
            others = (
                sorted(p.name for p in split.glob("label*") if p.is_dir()) if kind == "segmentation" else []
            )
            hint = f"; there is {', '.join(others)} (option labels)" if others else ""
            problems.append(f"{folder}: no such folder{hint}")
            continue
        stems = [path.stem for path in folder.glob("*.npy")]
        odd = sorted(stem for stem in stems if not _PLAIN.fullmatch(stem))
        problems += [f"{folder / stem}.npy: the name is not a plain number 0, 1, 2, ..." for stem in odd]
        found[kind] = {int(stem) for stem in stems if stem not in odd}
        if not stems:
            problems.append(f"{folder}: no .npy file in it")
    count = 1 + max((max(numbers) for numbers in found.values() if numbers), default=-1)
    for kind, numbers in found.items():
        missing = sorted(set(range(count)) - numbers)
        if missing and numbers:
            problems.append(
                f"{split / folders.arrays[kind]}: gap in the numbering: {_ranges(missing)} missing "
                f"of 0..{count - 1}"
            )
    return found


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in few words: ``3, 5..7``."""
    among = set(numbers)
    starts = [n for n in numbers if n - 1 not in among]
    ends = [n for n in numbers if n + 1 not in among]
    return ", ".join(f"{a}..{b}" if a < b else str(a) for a, b in zip(starts, ends, strict=True))


def _opened(path: Path, problems: list[str]) -> NDArray[Any] | None:
    try:
        return cast("NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:  # all that numpy raises on what is no plain array
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "pickled" in reason:  # what numpy takes any other file for; its advice is to trust it
            reason = "no .npy file"
        problems.append(f"{path}: not a plain array: {reason}")
        return None


def _form_allowed(kind: str, path: Path, array: NDArray[Any], problems: list[str]) -> bool:
    channels = CHANNELS[kind]
    tail = () if channels is None else (channels,)
    if array.ndim != 2 + len(tail) or array.shape[2:] != tail or 0 in array.shape:
        layout = "(" + ", ".join(["H", "W", *map(str, tail)]) + ")"
        problems.append(f"{path}: shape {array.shape}, the layout has {layout}")
        return False
    allowed = {"image": "a float type or uint8", "segmentation": "a float or integer type"}
    if not _type_allowed(kind, array.dtype):
        problems.append(f"{path}: type {array.dtype}, allowed: {allowed.get(kind, 'a float type')}")
        return False
    return True


def _type_allowed(kind: str, dtype: np.dtype[Any]) -> bool:
    if kind == "segmentation" and dtype.kind in "iu":
        return True
    return dtype.kind == "f" or (kind == "image" and dtype == np.uint8)


def _bad_values(kind: str, array: NDArray[Any], n_classes: int) -> Iterator[str]:
    if kind == "depth":
        broken = int((~np.isfinite(array)).sum())
        if broken:
            yield f"depth is NaN or infinite in {broken} pixels (invalid is 0)"
        return
    allowed = (array >= -1) & (array < n_classes) & (array == np.floor(array))
    if array.dtype == np.uint8:
        allowed |= array == IGNORE_BYTE
    if not allowed.all():
        wrong = np.unique(array[~allowed])
        shown = ", ".join(f"{i:g}" for i in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        yield f"labels {shown}; allowed: whole numbers -1..{n_classes - 1}"
