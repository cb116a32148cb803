"""Small files in MNIST's format, made of noise."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlsuite.data.mnist_domains import FILES

SIZES = (101, 40)  # of the images for training and for testing


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array as the content of an idx file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, zipped: bool = False) -> tuple[Tensor, Tensor]:
    """The four files; all images and labels."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    images = [rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in SIZES]
    labels = [rng.integers(0, 10, n, dtype=np.uint8) for n in SIZES]
    for name, array in zip(FILES, (images[0], labels[0], images[1], labels[1]), strict=True):
        if zipped:
            (root / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (root / name).write_bytes(idx(array))
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)).long()
