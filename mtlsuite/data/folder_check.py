"""Is a folder of images what the literature calls by its name, and what does it look like?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..core.errors import UsageError
from .base import DataSet

_TILE = 72  # pixels of an image on the sheet
_GAP = 6  # pixels between domains
_COLUMNS = 24  # classes on the sheet
_SHOWN = 5


@dataclass(frozen=True)
class Published:
    """What the literature says of a data set.

    Attributes:
        directory: DomainBed's name of its folder.
        domains: names of their folders -> number of images, or None where only ``total`` is known.
        n_classes: number of classes.
        classes: their names; empty where they are not listed here.
        total: number of images; 0: the sum over the domains.
    """

    directory: str
    domains: Mapping[str, int | None]
    n_classes: int
    classes: tuple[str, ...] = ()
    total: int = 0

    @property
    def n_images(self) -> int:
        """Number of images in all domains."""
        return self.total or sum(count or 0 for count in self.domains.values())


def foreign(published: Published, domains: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What makes it another data set than the published one, in words: its domains and, where the names of
    the published classes are listed, how many classes it has."""
    found = _other_domains(published, domains)
    return [*found, *_other_classes(published, classes)] if published.classes else found


def _other_domains(published: Published, domains: Sequence[str]) -> list[str]:
    if set(domains) == set(published.domains):
        return []
    return [f"domains {shown(domains)}; the published ones are {', '.join(published.domains)}"]


def _other_classes(published: Published, classes: Sequence[str]) -> list[str]:
    if len(classes) == published.n_classes:
        return []
    return [f"{len(classes)} classes ({shown(classes)}); the literature has {published.n_classes}"]


def differences(
    published: Published, found: Mapping[str, Sequence[object]], classes: Sequence[str]
) -> list[str]:
    """All that differs from the published data set, in words.

    Args:
        found: domain -> its images.
        classes: names of the classes.
    """
    remarks = _other_domains(published, list(found)) + _other_classes(published, classes)
    if len(classes) == published.n_classes and published.classes and set(classes) != set(published.classes):
        remarks.append(f"classes {', '.join(classes)}; the published ones are {', '.join(published.classes)}")
    for domain, count in published.domains.items():
        if count is not None and domain in found and len(found[domain]) != count:
            remarks.append(f"{len(found[domain])} images in {domain}; the literature has {count}")
    total = sum(map(len, found.values()))
    if total != published.n_images:
        remarks.append(f"{total} images in all; the literature has {published.n_images}")
    return remarks


def shown(items: Sequence[str]) -> str:
    """The first few items and how many more there are."""
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def class_sheet(
    dataset: DataSet, path: str | Path, samples: int, pixels: Callable[[Tensor], Tensor] = lambda image: image
) -> Path:
    """Draw a contact sheet of classified images: a row a domain, a column a class.

    A cell shows the first ``samples`` images of the domain and class, one below the other; a damaged one is
    red, a missing one white. Of many classes, ``_COLUMNS`` are shown, evenly spread.

    Args:
        dataset: its splits have ``labels``.
        path: where the picture goes; its ending (``.png``, ``.pdf``, ...) says the format.
        pixels: from the image of a sample to (C, H, W) in [0, 1].

    Returns:
        ``path``.
    """
    n = len(dataset.classes)
    chosen = np.unique(np.linspace(0, n - 1, min(n, _COLUMNS)).round().astype(int))
    rows = [_row(dataset, domain, chosen, samples, pixels) for domain in dataset.domains]
    gap = np.ones((_GAP, rows[0].shape[1], 3))
    sheet = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    figure = Figure(figsize=(sheet.shape[1] / 100 + 1.5, sheet.shape[0] / 100 + 1), layout="constrained")
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest")
    axis.set_xticks(_TILE * (np.arange(len(chosen)) + 0.5), [dataset.classes[k] for k in chosen], rotation=90)
    axis.set_yticks((samples * _TILE + _GAP) * np.arange(len(rows)) + samples * _TILE / 2, dataset.domains)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)
    if len(chosen) < n:
        axis.set_xlabel(f"{len(chosen)} of {n} classes", fontsize=8)
    figure.savefig(path, dpi=100)
    return Path(path)


def _row(
    dataset: DataSet, domain: str, classes: NDArray[Any], samples: int, pixels: Callable[[Tensor], Tensor]
) -> NDArray[Any]:
    """The images of one domain, (samples * tile, classes * tile, 3)."""
    split = cast(Any, dataset.split(domain, "all"))
    labels = torch.as_tensor(split.labels)
    columns = []
    for k in classes:
        indices = (labels == int(k)).nonzero().flatten().tolist()[:samples]
        tiles = [_tile(split, i, pixels) for i in indices]
        tiles += [np.ones((_TILE, _TILE, 3))] * (samples - len(tiles))
        columns.append(np.concatenate(tiles))
    return np.concatenate(columns, axis=1)


def _tile(split: Any, index: int, pixels: Callable[[Tensor], Tensor]) -> NDArray[Any]:
    try:
        image = pixels(split[index][0])
    except UsageError:
        return np.full((_TILE, _TILE, 3), (0.8, 0.1, 0.1))
    channels = {1: [0, 0, 0], 2: [0, 1, 2], 3: [0, 1, 2]}[len(image)]
    colours = torch.cat([image, torch.zeros_like(image[:1])])[channels]  # two channels: red and green
    small: Tensor = F.resize(colours, [_TILE - 2, _TILE - 2], antialias=True).clamp(0, 1)
    framed: Tensor = F.pad(small, [1], fill=1.0)
    return framed.permute(1, 2, 0).numpy()
