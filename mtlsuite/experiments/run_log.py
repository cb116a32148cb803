"""What a run writes down at each evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .results import ResultFile
from .tensorboard import TensorBoardLog


class RunLog:
    """The records of a run on disk, and for TensorBoard where that is asked for.

    Args:
        folder: of the run.
        step: of the checkpoint from which the run goes on; what was recorded after it is dropped. None:
            everything is.
        tensorboard: whether to log there, too.

    Raises:
        UsageError: a file is not what it should be, or TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int | None, tensorboard: bool) -> None:
        self._results = ResultFile(folder / "results.jsonl")
        self._timing = ResultFile(folder / "timing.jsonl")
        for file in (self._results, self._timing):
            file.truncate(-1 if step is None else step)
        self._board = TensorBoardLog(folder, step) if tensorboard else None

    def write(self, record: dict[str, Any], seconds: float) -> None:
        """Add the record of an evaluation, and the seconds of training before it."""
        self._results.append(record)
        self._timing.append({"step": record["step"], "training_seconds": seconds})
        if self._board:
            self._board.write(record)

    def close(self) -> None:
        """Nothing more will come."""
        if self._board:
            self._board.close()
