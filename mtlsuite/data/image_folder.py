"""Images in a folder a domain and a folder a class: ``ROOT/DOMAIN/CLASS/*``, read as DomainBed reads them.

Domains, classes and images are sorted by name, as torchvision's ImageFolder sorts them; images may lie deeper
within the folder of their class. A file whose name does not end in one of ``EXTENSIONS`` is no image, and is
left alone, and so is a folder of a domain or a class whose name begins with a dot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from .base import Sample
from .domainbed_transforms import augmented, draw_augmentation, resized, to_tensor
from .folder_check import shown
from .mtan_check import LayoutError
from .sampling import derived_seed

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
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


def read_tree(root: Path) -> ImageTree:
    """The images below ``root``; they are not opened.

    Raises:
        LayoutError: everything that is wrong: no such folder, no domain, a domain without classes, a class
            without images, domains with different classes, links that lead nowhere or in a circle.
    """
    found: list[str] = []
    strays: list[str] = []
    if not root.is_dir():
        raise LayoutError(root, ["no such folder"])
    domains = _folders(root, strays, found)
    if not domains:
        inside = f" but {shown(strays)}" if strays else ""
        raise LayoutError(root, [*found, f"no domains in it{inside}; the layout is ROOT/DOMAIN/CLASS/*"])
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
    """Names of the folders in a folder, sorted; its files and hidden folders are strays."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() and not entry.name.startswith(".") for entry in entries}
    except OSError as error:
        problems.append(f"{folder}: cannot be read: {error.strerror}")
        return []
    others = [folder / name for name in sorted(names) if not names[name]]
    problems += [
        f"{path}: a link to {os.readlink(path)}, which is not there" for path in others if _dangling(path)
    ]
    strays += map(str, others)
    return [name for name in sorted(names) if names[name]]


def _dangling(path: Path) -> bool:
    return path.is_symlink() and not os.path.exists(path)


def _images(folder: Path, strays: list[str], problems: list[str]) -> list[str]:
    """Paths of the images below the folder of a class, in the order of torchvision's ImageFolder."""

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    before = len(problems)
    places: list[tuple[str, list[str]]] = []
    for place, below, names in os.walk(folder, onerror=unreadable, followlinks=True):
        circles = [name for name in below if _leads_back(os.path.join(place, name))]
        problems += [f"{os.path.join(place, name)}: a link to a folder that it lies in" for name in circles]
        below[:] = [name for name in below if name not in circles]
        places.append((place, names))
    images: list[str] = []
    for place, names in sorted(places):
        for name in sorted(names):
            path = os.path.join(place, name)
            (images if name.lower().endswith(EXTENSIONS) else strays).append(path)
    if not images and len(problems) == before:
        problems.append(f"{folder}: no images in it (their names end in {', '.join(EXTENSIONS)})")
    return images


def _leads_back(path: str) -> bool:
    """Whether a folder is a link to one that it lies in, so that a walk would never end."""
    if not os.path.islink(path):
        return False
    return Path(os.path.realpath(path)) in Path(os.path.realpath(os.path.dirname(path)), "x").parents


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
