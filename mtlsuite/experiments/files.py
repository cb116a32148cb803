"""Files that are either the old ones or the new ones, whole, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path


def atomic_write(path: Path, data: str | bytes) -> None:
    """Replace the content of ``path``; text is written as UTF-8, and missing parent folders are made.

    The data goes to a temporary file in the same folder, is forced to disk and then renamed over ``path``,
    so that a reader, or a run after a crash, finds the old content or the new one and never a part.

    Raises:
        OSError: the folder cannot be written to; ``path`` is as it was, and no temporary file is left.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
