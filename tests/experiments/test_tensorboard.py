"""TensorBoard: what is logged is what the records hold, also after a resume."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.tensorboard import TensorBoardLog, scalars


def record(step: int, loss: float) -> dict[str, object]:
    metrics = {"val/day": {"class/accuracy": 0.5}}
    return {"step": step, "losses": {"a": loss}, "weights": None, "cosine": 0.25, "metrics": metrics}


def test_tags_are_the_path_to_the_number() -> None:
    assert dict(scalars(record(5, 1.5))) == {
        "losses/a": 1.5,
        "cosine": 0.25,
        "metrics/val/day/class/accuracy": 0.5,
    }


def test_a_resume_purges_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = TensorBoardLog(tmp_path)
    for step in (100, 200, 300):
        first.write(record(step, 1.0))
    first.close()
    second = TensorBoardLog(tmp_path, resume_step=100)
    second.write(record(200, 2.0))
    second.close()
    events = reader.EventAccumulator(str(tmp_path), purge_orphaned_data=True).Reload()
    assert [(event.step, event.value) for event in events.Scalars("losses/a")] == [(100, 1.0), (200, 2.0)]


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"mtlsuite\[tensorboard\]"):
        TensorBoardLog(tmp_path)
