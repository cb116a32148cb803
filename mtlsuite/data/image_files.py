"""Files of images: decoded as RGB, and looked at before a run depends on them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..core.errors import UsageError

# What Pillow raises on damaged files, by its format plugins.
_DAMAGED = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82"}  # of whole JPEGs and PNGs


class BrokenImageError(UsageError):
    """An image is damaged: truncated, or in no known format; ``reason`` is the message without the path."""

    def __init__(self, path: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{path}: damaged image: {reason} (skip_corrupt leaves it out)")


def read_image(path: str) -> Image.Image:
    """An image as RGB; 16-bit greyscale keeps its upper eight bits.

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
            return _rgb(image)
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"{len(data)} bytes in no known format"
        raise BrokenImageError(path, reason) from None


def broken_images(paths: Iterable[str], thorough: bool = True) -> dict[str, str]:
    """The images that are damaged, by path: what is wrong.

    Args:
        paths: of the images.
        thorough: decode all of them. False: only those that do not begin and end as JPEGs or PNGs do, which
            finds truncated and foreign files at the cost of two small reads a file.

    Raises:
        UsageError: a file cannot be read at all.
    """

    def reason(path: str) -> str:
        if not thorough and _looks_whole(path):
            return ""
        try:
            read_image(path)
        except BrokenImageError as error:
            return error.reason
        return ""

    paths = list(paths)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {path: text for path, text in zip(paths, pool.map(reason, paths), strict=True) if text}


def _rgb(image: Image.Image) -> Image.Image:
    """Pillow's conversion, save where it would clip: it takes 0..255 for the range of all greyscale."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode != "I" and not image.mode.startswith("I;"):
        return image.convert("RGB")
    pixels = np.asarray(image.convert("I"))
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("pixels beyond 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")


def _looks_whole(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            file.seek(-8, os.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    return any(head.startswith(first) and tail.endswith(last) for first, last in _ENDS.items())
