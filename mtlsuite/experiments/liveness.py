"""Whether the process that trains a run is still there: a run that is not done may be interrupted."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .results import STATUS, read_status

BEAT = 20.0  # seconds between two signs of life
SILENCE = 120.0  # without one for so long, a process on another machine is taken for dead


def mark() -> dict[str, Any]:
    """What identifies this process in the status file of the run that it trains."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


@contextlib.contextmanager
def beating(folder: Path) -> Iterator[None]:
    """Inside, the status file of a run is touched regularly, for those who look from other machines."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(folder / STATUS)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def state(folder: Path) -> str:
    """``done``, ``failed``, ``running``, ``interrupted``, or ``missing`` for a run that never began.

    Raises:
        UsageError: the status file is not one.
    """
    status = read_status(folder)
    if status["status"] == "running":
        return "running" if _alive(folder, status) else "interrupted"
    return "missing" if status["status"] == "new" else str(status["status"])


def _alive(folder: Path, status: Mapping[str, Any]) -> bool:
    if "pid" not in status:
        return False
    if status["host"] == socket.gethostname():
        started = _started(status["pid"])
        return started is not None and started == status["started"]
    try:
        return time.time() - (folder / STATUS).stat().st_mtime < SILENCE
    except FileNotFoundError:
        return False


def _started(pid: int) -> str | None:
    """When a process started, which tells it from a later one of its number; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)  # no sign: it only asks whether there is such a process
        except PermissionError:
            return ""
        except OSError:
            return None
        return ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks
    return None if fields[0] in "ZX" else fields[19]
