"""The image data sets of DomainBed: PACS, VLCS, OfficeHome, TerraIncognita, DomainNet, and others like them.

Layout on disk: ``ROOT/DIRECTORY/DOMAIN/CLASS/*``, DIRECTORY being DomainBed's name of the data set (``PACS``,
``VLCS``, ``office_home``, ``terra_incognita``, ``domain_net``); the option ``root`` is ROOT or
ROOT/DIRECTORY. See ``image_folder`` for what counts as an image, and in which order.

The splits are DomainBed's, image for image: of each domain, ``train`` is the in-split (80 %) and ``val`` the
out-split (20 %) of the trial ``trial_seed``. DomainBed tests a held-out domain on its in-split, and so does
``test``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image
from torch.utils.data import Dataset

from ..core.errors import UsageError
from ..core.registry import register
from ..core.types import Count
from .base import PARTS, DataSet, Sample
from .domainbed_split import Holdout, TrialSeed, split_keys
from .domainbed_transforms import to_pixels
from .folder_check import Published, class_sheet, differences, foreign, shown
from .image_files import broken_images, read_image
from .image_folder import AugmentedOnce, File, FolderSplit, ImageTree, read_tree
from .mtan_check import LayoutError

_INSPECTING = ContextVar("inspecting", default=False)


@contextlib.contextmanager
def inspecting() -> Iterator[None]:
    """Data sets opened meanwhile are only looked at: what a run should not be trained on is no error."""
    token = _INSPECTING.set(True)
    try:
        yield
    finally:
        _INSPECTING.reset(token)


class DomainFolders(DataSet):
    """What the data sets in this layout share; names are read as one is opened, images as they are needed.

    Args:
        root: the folder that holds DomainBed's folders, or the folder of this data set itself.
        trial_seed: of the split, as in DomainBed.
        holdout_fraction: part of each domain that is ``val``, rounded down to whole images.
        size: height and width of the samples in pixels.
        protocol: ``domainbed``: training domains are validated on augmented images, each always under the
            same draws; ``swad``: on images as they are.
        augment: DomainBed's augmentation of training images; see ``domainbed_transforms``.
        normalize: by ImageNet's mean and standard deviation; false: images in [0, 1], for ``sources: views``.
        skip_corrupt: leave out damaged images, of which there is a warning; all images are decoded once to
            find them, and the others stay in their splits. False: they are an error, at once where a file is
            truncated or no image at all, else when it is met.
        cache: ``memory`` keeps decoded images, 3 bytes a pixel of the files.

    Raises:
        UsageError: everything that is wrong with the folder, with paths; damaged images; other domains than
            the published ones or, where these are listed, another number of classes; too few images to hold
            one out.

    Attributes:
        published: what the literature says is in it, or None.
    """

    published: ClassVar[Published | None] = None

    def __init__(
        self,
        root: str,
        trial_seed: TrialSeed = 0,
        holdout_fraction: Holdout = 0.2,
        size: Count = 224,
        protocol: Literal["domainbed", "swad"] = "domainbed",
        augment: bool = True,
        normalize: bool = True,
        skip_corrupt: bool = False,
        cache: Literal["none", "memory"] = "none",
    ) -> None:
        self.root, tree = self._open(Path(root).expanduser())
        self.files, self.strays = tree.domains, tree.strays
        self.domains, self.classes = tuple(tree.domains), tree.classes
        self.tasks = {"class": len(tree.classes)}
        self.input_shape = (3, size, size)
        self.trial_seed, self.protocol, self.augment, self.normalize = (
            trial_seed,
            protocol,
            augment,
            normalize,
        )
        if not _INSPECTING.get():
            self._refuse(skip_corrupt)
        self.skipped = self._find_damaged() if skip_corrupt else {}
        self._memory: dict[str, Image.Image] | None = {} if cache == "memory" else None
        self._parts = {
            domain: self._shared_out(domain, i, holdout_fraction) for i, domain in enumerate(self.domains)
        }
        self._splits: dict[tuple[str, str], FolderSplit] = {}

    def split(self, domain: str, part: str) -> FolderSplit:
        """The images of a part, in DomainBed's order; of ``all``, in the order of their names.

        Items by index are as DomainBed evaluates them; ``augmented`` is for training.
        """
        self.check(domain, part)
        if (domain, part) not in self._splits:
            files = self._parts[domain][part]
            self._splits[domain, part] = FolderSplit(
                files, self._read, self.input_shape[1], self.normalize, self.augment
            )
        return self._splits[domain, part]

    def validation(self, domain: str) -> Dataset[Sample]:
        """What a training domain is validated on: ``val``, augmented where the protocol says so."""
        split = self.split(domain, "val")
        if self.protocol == "swad" or not self.augment:
            return split
        return AugmentedOnce(split, ("validation", self.trial_seed, domain))

    def test(self, domain: str) -> FolderSplit:
        """What a held-out domain is tested on: its in-split, ``train``, as it is."""
        return self.split(domain, "train")

    def remarks(self) -> list[str]:
        """What differs from the published data set, which files were ignored, which images are left out."""
        found = differences(self.published, self.files, self.classes) if self.published else []
        if self.strays:
            found.append(f"ignored, since they are no images of a class: {shown(self.strays)}")
        return found + [f"left out: {path}: {reason}" for path, reason in self.skipped.items()]

    def draw_sheet(self, path: str | Path, samples: int) -> Path:
        """Draw a contact sheet: a row a domain, a column a class; see ``class_sheet``."""
        return class_sheet(self, path, samples, lambda image: to_pixels(image, self.normalize))

    def _open(self, root: Path) -> tuple[Path, ImageTree]:
        """The folder of the data set and what is in it."""
        if self.published is None:
            return root, read_tree(root)
        if not root.is_dir():
            raise LayoutError(root, ["no such folder"])
        below = root / self.published.directory
        if below.is_dir():
            return below, read_tree(below)
        try:
            return root, read_tree(root)
        except LayoutError as error:
            also = f"{below}: no such folder, so {root} itself should hold the domains"
            raise LayoutError(root, [also, *error.problems]) from None

    def _refuse(self, skip_corrupt: bool) -> None:
        """Raise where this is not the published data set of the name, or images are damaged."""
        others = foreign(self.published, self.domains, self.classes) if self.published else []
        if others:
            raise LayoutError(self.root, [*others[:-1], f"{others[-1]} (image_folders takes any folder)"])
        if not skip_corrupt and (damaged := broken_images(self._paths(), thorough=False)):
            raise UsageError(
                f"{self.root}: {_counted(damaged)} (skip_corrupt leaves them out, data check lists all)",
                ("root",),
            )

    def _find_damaged(self) -> dict[str, str]:
        damaged = broken_images(self._paths())
        if damaged:
            warnings.warn(f"{self.root}: left out: {_counted(damaged)}", stacklevel=3)
        return damaged

    def _paths(self) -> list[str]:
        return [path for files in self.files.values() for path, _ in files]

    def _shared_out(self, domain: str, environment: int, holdout_fraction: float) -> dict[str, list[File]]:
        """The images of each part; those left out are so after the split, which stays DomainBed's."""
        files = self.files[domain]
        train, val = split_keys(len(files), environment, self.trial_seed, holdout_fraction)
        keys = {"train": train, "val": val, "all": range(len(files))}
        parts = {
            part: [files[key] for key in keys[part] if files[key][0] not in self.skipped] for part in PARTS
        }
        if not all(parts.values()):
            sizes = f"{len(parts['train'])} in train and {len(parts['val'])} in val"
            raise UsageError(
                f"{self.root / domain}: {len(files)} images are too few, with {holdout_fraction:g} of them "
                f"held out: {sizes}",
                ("holdout_fraction",),
            )
        return parts

    def _read(self, path: str) -> Image.Image:
        if self._memory is None:
            return read_image(path)
        if path not in self._memory:
            self._memory[path] = read_image(path)
        return self._memory[path]


def _counted(damaged: dict[str, str]) -> str:
    several = "s" if len(damaged) > 1 else ""
    return f"{len(damaged)} damaged image{several}: {shown([': '.join(item) for item in damaged.items()])}"


@register("dataset", "pacs")
class PACS(DomainFolders):
    """PACS: 7 classes of objects as art paintings, cartoons, photos and sketches; DIRECTORY is ``PACS``.

    Li et al., *Deeper, Broader and Artier Domain Generalization*, ICCV 2017; 9,991 images.
    """

    published = Published(
        "PACS",
        {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
        7,
        ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
    )


@register("dataset", "vlcs")
class VLCS(DomainFolders):
    """VLCS: 5 classes of objects from four collections of photos; DIRECTORY is ``VLCS``.

    Fang, Xu and Rockmore, *Unbiased Metric Learning*, ICCV 2013; 10,729 images.
    """

    published = Published(
        "VLCS",
        {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
        5,
        ("bird", "car", "chair", "dog", "person"),
    )


@register("dataset", "office_home")
class OfficeHome(DomainFolders):
    """OfficeHome: 65 classes of things as art, cliparts, products and photos; DIRECTORY is ``office_home``.

    Venkateswara et al., *Deep Hashing Network for Unsupervised Domain Adaptation*, CVPR 2017; 15,588 images.
    """

    published = Published(
        "office_home", {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357}, 65
    )


@register("dataset", "terra_incognita")
class TerraIncognita(DomainFolders):
    """TerraIncognita: 10 classes of animals before four camera traps; DIRECTORY is ``terra_incognita``.

    Beery, Van Horn and Perona, *Recognition in Terra Incognita*, ECCV 2018, in DomainBed's selection; 24,788
    images.
    """

    published = Published(
        "terra_incognita",
        dict.fromkeys(("location_100", "location_38", "location_43", "location_46")),
        10,
        (
            "bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel",
        ),
        24_788,
    )  # fmt: skip


@register("dataset", "domain_net")
class DomainNet(DomainFolders):
    """DomainNet: 345 classes of things in six styles; DIRECTORY is ``domain_net``.

    Peng et al., *Moment Matching for Multi-Source Domain Adaptation*, ICCV 2019; 586,575 images.
    """

    published = Published(
        "domain_net",
        {
            "clipart": 48_129,
            "infograph": 51_605,
            "painting": 72_266,
            "quickdraw": 172_500,
            "real": 172_947,
            "sketch": 69_128,
        },
        345,
    )


@register("dataset", "image_folders")
class ImageFolders(DomainFolders):
    """Any images in folders ROOT/DOMAIN/CLASS, split and transformed as DomainBed's data sets are."""
