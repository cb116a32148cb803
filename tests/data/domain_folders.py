"""Small folders of images, a folder a domain and a folder a class, made of noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS = ("art", "photo", "sketch")
CLASSES = ("cat", "dog")


def picture(seed: int, height: int = 20, width: int = 24) -> Image.Image:
    """Smooth noise with colours."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write(
    root: Path, domains: Sequence[str] = DOMAINS, classes: Sequence[str] = CLASSES, count: int = 5
) -> list[Path]:
    """``count`` images of each domain and class, PNG and JPEG by turns; their paths."""
    paths = []
    for domain in domains:
        for name in classes:
            folder = root / domain / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                paths.append(folder / f"{i:03d}.{('png', 'jpg')[i % 2]}")
                picture(len(paths)).save(paths[-1])
    return paths


def truncate(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
