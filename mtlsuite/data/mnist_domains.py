"""RotatedMNIST and ColoredMNIST, made of the files of MNIST as DomainBed makes them.

Layout on disk: the four files of MNIST, gzipped (``.gz``) or not, in ROOT or in ROOT/MNIST/raw, where
torchvision puts them; nothing is downloaded. All images, those for testing too, are shuffled, and of n
domains domain i gets images i, i + n, i + 2 n, ... The splits are DomainBed's (see ``domainbed_split``), and
a held-out domain is tested on its in-split.

DomainBed makes its draws from torch's global generator: the shuffle, then domain by domain. Here the same
draws, in the same order, come from a generator of their own.
"""

from __future__ import annotations

import abc
import gzip
import math
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from ..core.errors import UsageError
from ..core.registry import register
from .base import DataSet, TensorSplit
from .domainbed_split import Holdout, TrialSeed, split_keys
from .folder_check import class_sheet

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
N_IMAGES = 70_000
_SIDE = 28
_BYTES = 0x08  # idx's code of the type uint8

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class LabelledSplit(TensorSplit):
    """A split in memory whose classes can be asked for."""

    @property
    def labels(self) -> Tensor:
        """(N,) the class of every image."""
        return self.targets["class"]


class MNISTDomains(DataSet):
    """What both data sets share.

    Args:
        root: the folder with the files of MNIST, see the module.
        seed: of the random draws that make the domains.
        trial_seed: of the split, as in DomainBed.
        holdout_fraction: part of each domain that is ``val``, rounded down to whole images.

    Raises:
        UsageError: files that are missing or damaged, by name; too few images for the domains.
    """

    def __init__(
        self,
        root: str,
        seed: Seed = 0,
        trial_seed: TrialSeed = 0,
        holdout_fraction: Holdout = 0.2,
    ) -> None:
        self.tasks = {"class": len(self.classes)}
        self.trial_seed, self.holdout_fraction = trial_seed, holdout_fraction
        images, labels = _read(Path(root).expanduser())
        self.n_images = len(images)
        if int(holdout_fraction * (len(images) // len(self.domains))) < 1:
            raise UsageError(
                f"{root}: {len(images)} images are too few for {len(self.domains)} domains", ("root",)
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        n = len(self.domains)
        self._data = {
            domain: self._made(images[order[i::n]], labels[order[i::n]], domain, generator)
            for i, domain in enumerate(self.domains)
        }

    @abc.abstractmethod
    def _made(
        self, images: Tensor, labels: Tensor, domain: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """From (N, 28, 28) uint8 and (N,) digits to uint8 images (N, C, 28, 28) and classes of a domain."""

    def split(self, domain: str, part: str) -> LabelledSplit:
        """The images of a part in DomainBed's order, in [0, 1]."""
        self.check(domain, part)
        images, labels = self._data[domain]
        if part != "all":
            environment = self.domains.index(domain)
            keys = split_keys(len(images), environment, self.trial_seed, self.holdout_fraction)
            rows = torch.tensor(keys[0] if part == "train" else keys[1])
            images, labels = images[rows], labels[rows]
        return LabelledSplit(images.float().div_(255), {"class": labels})

    def test(self, domain: str) -> LabelledSplit:
        """What a held-out domain is tested on: its in-split, ``train``."""
        return self.split(domain, "train")

    def remarks(self) -> list[str]:
        """What differs from MNIST."""
        return [] if self.n_images == N_IMAGES else [f"{self.n_images} images; MNIST has {N_IMAGES}"]

    def draw_sheet(self, path: str | Path, samples: int) -> Path:
        """Draw a contact sheet: a row a domain, a column a class; see ``class_sheet``."""
        return class_sheet(self, path, samples)


@register("dataset", "rotated_mnist")
class RotatedMNIST(MNISTDomains):
    """RotatedMNIST: ten digits, 28 x 28, in six domains: rotated anticlockwise by 0 to 75 degrees.

    Ghifary et al., *Domain Generalization for Object Recognition with Multi-task Autoencoders*, ICCV 2015, in
    DomainBed's variant: each image is in one domain; rotated bilinearly in whole grey levels.
    """

    domains = ("0", "15", "30", "45", "60", "75")
    input_shape = (1, _SIDE, _SIDE)
    classes = tuple(map(str, range(10)))

    def _made(
        self,
        images: Tensor,
        labels: Tensor,
        domain: str,
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        turned = [
            Image.fromarray(image).rotate(int(domain), Image.Resampling.BILINEAR) for image in images.numpy()
        ]
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in turned])[:, None]), labels


@register("dataset", "colored_mnist")
class ColoredMNIST(MNISTDomains):
    """ColoredMNIST: digits below 5 or not, 28 x 28, in three domains that differ in what the colour tells.

    Arjovsky et al., *Invariant Risk Minimization*, 2019, section 5.1, in DomainBed's variant: class 1 are the
    digits below 5, each label flipped with probability 0.25; the colour (the one channel that is not black)
    is the flipped label, flipped with the probability that names the domain: ``"0.1"``, ``"0.2"``, ``"0.9"``,
    which DomainBed calls +90%, +80% and -90%.
    """

    domains = ("0.1", "0.2", "0.9")
    input_shape = (2, _SIDE, _SIDE)
    classes = ("5 to 9", "0 to 4")

    def _made(
        self, images: Tensor, labels: Tensor, domain: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        def flips(probability: float) -> Tensor:
            return torch.rand(len(labels), generator=generator) < probability

        noisy = (labels < 5) ^ flips(0.25)
        colours = noisy ^ flips(float(domain))
        channels = torch.stack([~colours, colours], dim=1)
        return images[:, None] * channels[:, :, None, None], noisy.long()


def _read(root: Path) -> tuple[Tensor, Tensor]:
    """All images (N, 28, 28) uint8 and digits (N,) int64: those for training, then those for testing."""
    below = root / "MNIST" / "raw"
    folder = below if below.is_dir() else root
    problems: list[str] = []
    arrays = [_array(folder, name, problems) for name in FILES]
    for i in (0, 2):
        n_images, n_labels = map(len, arrays[i : i + 2])
        if not problems and n_images != n_labels:
            problems.append(f"{n_images} images in {FILES[i]}, but {n_labels} labels in {FILES[i + 1]}")
    if problems:
        needed = f"needed in {root} or {below}, as they are or with .gz: {', '.join(FILES)}"
        raise UsageError("\n  ".join([f"{root}: not the files of MNIST", *problems, needed]), ("root",))
    images, labels = np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def _array(folder: Path, name: str, problems: list[str]) -> NDArray[np.uint8]:
    """What a file of MNIST holds; empty where it is none."""
    shape = (_SIDE, _SIDE) if "images" in name else ()
    plain, zipped = folder / name, folder / f"{name}.gz"
    path = zipped if zipped.is_file() and not plain.is_file() else plain
    try:
        data = path.read_bytes()
        array = _parsed(gzip.decompress(data) if path == zipped else data, shape)
        if not shape and array.max(initial=0) > 9:
            raise ValueError(f"labels up to {array.max()}; digits are 0..9")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        problems.append(f"{path}: {reason}")
        return np.zeros((0, *shape), np.uint8)
    return array


def _parsed(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The uint8 array (N, *shape) of an idx file: type and rank, the sizes (all big-endian), the values."""
    rank = 1 + len(shape)
    start = 4 * (1 + rank)
    header = np.frombuffer(data[: min(start, len(data) // 4 * 4)], ">u4").tolist()
    if header[:1] != [_BYTES << 8 | rank] or tuple(header[2:]) != shape:
        raise ValueError(f"no idx file of {'images of 28 x 28 pixels' if shape else 'labels'}")
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=start)
    if len(values) != math.prod(header[1:]):
        raise ValueError(f"{len(values)} bytes of values, its header says {math.prod(header[1:])}")
    array: NDArray[np.uint8] = values.reshape(header[1:])
    return array
