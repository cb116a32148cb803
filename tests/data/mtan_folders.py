"""Small folders in the layout of the MTAN code, made of noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("image", "label", "depth", "normal")
SIZES = {"train": 4, "val": 3}


def frame(rng: np.random.Generator, height: int = 6, width: int = 8, classes: int = 13) -> dict[str, Any]:
    """The arrays of one frame, as a careful person would store them."""
    normal = rng.standard_normal((height, width, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal[rng.random((height, width)) < 0.2] = 0
    depth = rng.uniform(0.5, 9, (height, width, 1)) * (rng.random((height, width, 1)) > 0.2)
    return {
        "image": rng.random((height, width, 3)).astype(np.float32),
        "label": rng.integers(-1, classes, (height, width)).astype(np.float32),
        "depth": depth.astype(np.float32),
        "normal": normal.astype(np.float32),
    }


def write(
    root: Path, sizes: Mapping[str, int] = SIZES, names: Mapping[str, str] | None = None, **options: int
) -> dict[tuple[str, int], dict[str, NDArray[Any]]]:
    """A sound folder; the frames that it holds, by (split, number).

    Args:
        names: kind -> folder, for those that are called otherwise.
    """
    rng = np.random.default_rng(0)
    frames = {(split, i): frame(rng, **options) for split, n in sizes.items() for i in range(n)}
    for (split, i), arrays in frames.items():
        for kind, array in arrays.items():
            folder = root / split / (names or {}).get(kind, kind)
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{i}.npy", array)
    return frames
