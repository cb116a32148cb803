"""A contact sheet: look at a data set before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from .base import DataSet

_CELL = 1.5  # inches


def contact_sheet(dataset: DataSet, path: str | Path, samples: int = 3, part: str = "val") -> Path:
    """Draw the first images of each domain with their targets into one picture.

    One row a domain; in it, each of the ``samples`` images (fewer where there are fewer) is followed by
    its dense targets: classes in colours (ignored: black), depth or inverse depth (near is bright, invalid
    black), normals as colours (invalid: grey). A class label stands above its image.

    Args:
        path: where the picture goes; its ending (``.png``, ``.pdf``, ...) says the format.
        part: ``train``, ``val`` or ``all``.

    Returns:
        ``path``.

    Raises:
        UsageError: no such part.
    """
    dense = [task for task in dataset.tasks if task != "class"]
    inverse = getattr(dataset, "inverse_depth", False)
    rows, columns = len(dataset.domains), samples * (1 + len(dense))
    height, width = dataset.input_shape[1:]
    size = (_CELL * columns * max(width / height, 0.6), (_CELL + 0.25) * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, domain in zip(axes, dataset.domains, strict=True):
        split = dataset.split(domain, part)
        for j in range(min(samples, len(cast(Any, split)))):
            image, targets = split[j]
            first, *others = row[j * (1 + len(dense)) : (j + 1) * (1 + len(dense))]
            label = f": {int(targets['class'])}" if "class" in targets else ""
            _show(first, _channels_last(image), domain + label)
            for axis, task in zip(others, dense, strict=True):
                _show(axis, _picture(targets[task], dataset.tasks[task], inverse), task)
    if "segmentation" in dense and dataset.classes:
        patches = [
            Patch(color=colour, label=name)
            for colour, name in zip(_palette(len(dataset.classes)), dataset.classes, strict=True)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    figure.savefig(path, dpi=100)
    return Path(path)


def _show(axis: Any, picture: NDArray[Any], title: str) -> None:
    axis.imshow(picture, cmap="gray", interpolation="nearest")
    axis.set_title(title, fontsize=8, pad=2)


def _channels_last(image: Tensor) -> NDArray[Any]:
    pixels: NDArray[Any] = image.permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _picture(target: Tensor, n_channels: int, inverse: bool = False) -> NDArray[Any]:
    """A target as colours, told apart by its shape: class ids (H, W), depth (1, H, W), normals (3, H, W)."""
    if target.ndim == 2:
        colours: NDArray[Any] = np.vstack([_palette(n_channels), np.zeros(3)])[target.numpy()]
        return colours
    if len(target) == 3:
        return _channels_last(target) / 2 + 0.5
    depth: NDArray[Any] = target[0].numpy()
    if inverse:
        return depth.clip(min=0) / max(float(depth.max()), 1e-9)
    valid = depth > 0
    nearest = depth[valid].min(initial=np.inf)
    return np.where(valid, nearest / np.where(valid, depth, 1.0), 0.0)


def _palette(n: int) -> NDArray[Any]:
    name = "tab10" if n <= 10 else "tab20"
    colours = [matplotlib.colormaps[name](i % 20)[:3] for i in range(n)]
    return np.array(colours)
