"""Images in a folder a domain and a folder a class: ``ROOT/DOMAIN/CLASS/*``, read as DomainBed reads them.

Domains, classes and images are sorted by name, as torchvision's ImageFolder sorts them; images may lie deeper
within the folder of their class. A file whose name does not end in one of ``EXTENSIONS`` is no image, and is
left alone.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset, default_collate

from ..core.errors import UsageError
from .base import Sample
from .domainbed_transforms import augmented, draw_augmentation, resized, to_tensor
from .mtan_check import LayoutError
from .sampling import derived_seed

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# What Pillow raises on damaged files, by its format plugins.
_DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip

File = tuple[str, int]  # path, number of the class
Reader = Callable[[str], Image.Image]


@dataclass(frozen=True)
class ImageTree:
    """What a folder holds.

    Attributes:
        classes: their names, sorted.
        domains: by name, sorted: the images, class by class.
        strays: files that are no images of a class, or not by their names.
    """

    classes: tuple[str, ...]
    domains: dict[str, tuple[File, ...]]
    strays: tuple[str, ...]


class BrokenImageError(UsageError):
    """An image is damaged: truncated, or in no known format."""


def read_tree(root: Path) -> ImageTree:
    """The images below ``root``; they are not opened.

    Raises:
        LayoutError: everything that is wrong: no such folder, no domain, a domain without classes, a class
            without images, domains with different classes.
    """
    found: list[str] = []
    strays: list[str] = []
    if not root.is_dir():
        raise LayoutError(root, ["no such folder"])
    domains = _folders(root, strays, found)
    if not domains:
        raise LayoutError(root, [*found, "no domains in it; the layout is ROOT/DOMAIN/CLASS/*"])
    folders = {domain: _folders(root / domain, strays, found) for domain in domains}
    for domain, names in folders.items():
        if not names:
            found.append(f"{root / domain}: no class folders in it")
    classes = sorted({name for names in folders.values() for name in names})
    found += _differences({domain: set(names) for domain, names in folders.items() if names}, classes)
    number = {name: i for i, name in enumerate(classes)}
    files = {
        domain: tuple(
            (path, number[name]) for name in names for path in _images(root / domain / name, strays, found)
        )
        for domain, names in folders.items()
    }
    if found:
        raise LayoutError(root, found)
    return ImageTree(tuple(classes), files, tuple(strays))


def read_image(path: str) -> Image.Image:
    """An image as RGB.

    Raises:
        BrokenImageError: it is damaged.
        UsageError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            rgb: Image.Image = image.convert("RGB")
        return rgb
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"{len(data)} bytes in no known format"
        raise BrokenImageError(f"{path}: damaged image: {reason} (skip_corrupt leaves it out)") from None


def broken_images(files: Iterable[File]) -> dict[str, str]:
    """The images that are damaged, by path: what is wrong; all of them are decoded.

    Raises:
        UsageError: a file cannot be read at all.
    """

    def reason(path: str) -> str:
        try:
            read_image(path)
        except BrokenImageError as error:
            return error.message
        return ""

    paths = [path for path, _ in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {path: text for path, text in zip(paths, pool.map(reason, paths), strict=True) if text}


class FolderSplit(Dataset[Sample]):
    """Images of one domain, decoded as they are asked for.

    Args:
        files: path and class of each image.
        read: from a path to an RGB image.
        size: S; samples are (3, S, S).
        normalize: by ImageNet's mean and standard deviation, instead of [0, 1].
        augment: whether ``augmented`` augments.
    """

    read_ahead = True  # a sample is a function of its arguments, and decoding takes time

    def __init__(
        self, files: Sequence[File], read: Reader, size: int, normalize: bool, augment: bool
    ) -> None:
        self.files, self.read = list(files), read
        self.size, self.normalize, self.augment = size, normalize, augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index]
        return self._sample(resized(self.read(path), self.size), label)

    def augmented(self, index: int, generator: torch.Generator) -> Sample:
        """Sample ``index`` under DomainBed's augmentation, drawn from ``generator``."""
        if not self.augment:
            return self[index]
        path, label = self.files[index]
        image = self.read(path)
        draws = draw_augmentation(image.height, image.width, generator)
        return self._sample(augmented(image, draws, self.size), label)

    def batch(self, indices: Sequence[int]) -> Sample:
        """The samples at ``indices``, stacked; several threads decode."""
        return _stacked(self.__getitem__, indices)

    @property
    def labels(self) -> list[int]:
        """The class of every image."""
        return [label for _, label in self.files]

    def _sample(self, image: Image.Image, label: int) -> Sample:
        return to_tensor(image, self.normalize), {"class": torch.tensor(label)}


class AugmentedOnce(Dataset[Sample]):
    """A split whose items are augmented, each by draws that depend on ``key`` and its number alone.

    Args:
        split: with ``augmented``.
        key: another one gives other draws.
    """

    def __init__(self, split: FolderSplit, key: tuple[object, ...]) -> None:
        self.split, self.key = split, key

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        return self.split.augmented(index, torch.Generator().manual_seed(derived_seed(*self.key, index)))

    def batch(self, indices: Sequence[int]) -> Sample:
        """The samples at ``indices``, stacked; several threads decode."""
        return _stacked(self.__getitem__, indices)


def _stacked(sample: Callable[[int], Sample], indices: Sequence[int]) -> Sample:
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return default_collate(list(pool.map(sample, indices)))  # type: ignore[no-any-return]


def _folders(folder: Path, strays: list[str], problems: list[str]) -> list[str]:
    """Names of the folders in a folder, sorted; its files are strays."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries}
    except OSError as error:
        problems.append(f"{folder}: cannot be read: {error.strerror}")
        return []
    strays += [str(folder / name) for name in sorted(names) if not names[name]]
    return [name for name in sorted(names) if names[name]]


def _images(folder: Path, strays: list[str], problems: list[str]) -> list[str]:
    """Paths of the images below the folder of a class, in the order of torchvision's ImageFolder."""

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    images: list[str] = []
    for place, _, names in sorted(os.walk(folder, onerror=unreadable, followlinks=True)):
        for name in sorted(names):
            path = os.path.join(place, name)
            (images if name.lower().endswith(EXTENSIONS) else strays).append(path)
    if not images:
        problems.append(f"{folder}: no images in it (their names end in {', '.join(EXTENSIONS)})")
    return images


def _differences(folders: dict[str, set[str]], classes: list[str]) -> list[str]:
    """One line for all classes that the same domains lack."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name in classes:
        without = tuple(domain for domain, names in folders.items() if name not in names)
        if without:
            lacking.setdefault(without, []).append(name)
    return [
        f"the domains differ in their classes: {', '.join(without)} without {', '.join(names)}, which "
        f"{', '.join(domain for domain in folders if domain not in without)} "
        f"{'has' if len(folders) - len(without) == 1 else 'have'}"
        for without, names in lacking.items()
    ]
