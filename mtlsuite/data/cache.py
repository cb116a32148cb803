"""Arrays kept on disk between runs: written atomically, and made again where a file cannot be trusted."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError

Arrays: TypeAlias = dict[str, NDArray[Any]]


def cache_folder(given: str | None) -> Path:
    """The folder ``given``; else the environment variable MTLSUITE_CACHE; else ~/.cache/mtlsuite."""
    return Path(given or os.environ.get("MTLSUITE_CACHE") or "~/.cache/mtlsuite").expanduser()


def cached(path: Path, like: Arrays, make: Callable[[], Arrays]) -> Arrays:
    """The arrays stored at ``path``, or those of ``make()``, which are then stored there.

    A file that is truncated, damaged (zip checksums), or holds other names, shapes or types than
    ``like`` is replaced.

    Raises:
        UsageError: the folder cannot be written.
    """
    stored = _load(path)
    if stored is not None and _layout(stored) == _layout(like):
        return stored
    arrays = make()
    _store(path, arrays)
    return arrays


def _layout(arrays: Arrays) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None  # all that numpy and zipfile raise on damaged files (RuntimeError: "encrypted")


def _store(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    except OSError as error:
        message = f"cannot write the cache folder {path.parent}: {error.strerror}"
        raise UsageError(message, ("cache",)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **cast(Any, arrays))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
