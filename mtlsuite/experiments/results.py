"""Results on disk: one JSON line per evaluation, one status file per run, and reading them all back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UsageError
from .files import atomic_write

RECORDS = "results.jsonl"
STATUS = "status.json"
CONFIG = "config.yaml"
STATUSES = ("running", "done", "failed")
Scores = dict[str, dict[str, float]]  # split -> "task/quantity" -> value


class ResultFile:
    """The records of one run: a file of JSON lines, kept in memory and rewritten whole at each change.

    Floats come back bit for bit. NaN and infinities are written as ``NaN`` and ``Infinity``, which Python's
    ``json`` reads back but strict JSON does not have.

    Args:
        path: the file; what it already holds is loaded.

    Raises:
        UsageError: a line of the file is not a record, or its step is not above the one before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = load_records(path) if path.exists() else []

    def append(self, record: dict[str, Any]) -> None:
        """Add a record and rewrite the file atomically.

        Raises:
            UsageError: the record has no step, or one that is not above the last; nothing is written.
        """
        _check_step(record, self.records, f"{self.path}: new record")
        self._write([*self.records, record])

    def truncate(self, step: int) -> None:
        """Drop the records after ``step``, for a run that goes on from a checkpoint made there."""
        kept = [record for record in self.records if record["step"] <= step]
        if len(kept) < len(self.records):
            self._write(kept)

    def _write(self, records: list[dict[str, Any]]) -> None:
        atomic_write(self.path, "".join(json.dumps(record) + "\n" for record in records))
        self.records = records


def load_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file of JSON lines.

    Raises:
        UsageError: naming the file and the line that is not JSON, not a mapping, or out of order.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{place}: not a line of JSON ({error.msg}): {line[:60]!r}") from None
        _check_step(record, records, place)
        records.append(record)
    return records


def _check_step(record: Any, before: list[dict[str, Any]], place: str) -> None:
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise UsageError(f"{place}: a record is a mapping with an integer 'step', found {str(record)[:60]!r}")
    if before and record["step"] <= before[-1]["step"]:
        raise UsageError(f"{place}: step {record['step']} does not come after step {before[-1]['step']}")


def write_status(folder: Path, status: str, **extra: Any) -> None:
    """Write the status file of a run: ``running``, ``done`` or ``failed``, and what else there is to say.

    Raises:
        UsageError: another status.
    """
    if status not in STATUSES:
        raise UsageError(f"unknown status {status!r} (allowed: {', '.join(STATUSES)})")
    atomic_write(folder / STATUS, json.dumps({"status": status, **extra}, indent=2) + "\n")


def read_status(folder: Path) -> dict[str, Any]:
    """The status file of a run; ``{"status": "new"}`` for a run that has none yet.

    Raises:
        UsageError: the file is there but is not a status file.
    """
    path = folder / STATUS
    if not path.exists():
        return {"status": "new"}
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(status, dict) or status.get("status") not in STATUSES:
        raise UsageError(f"{path}: 'status' must be one of {', '.join(STATUSES)}, found {status!r}")
    return status


@dataclass(frozen=True)
class RunResult:
    """One run as it stands on disk.

    Attributes:
        label: its row in the tables.
        held_out: domains that were left out of training, in the order of the config.
        tasks: its tasks, in order.
        baseline: whether it is a single-task run, part of the baseline B of delta_m.
        records: one mapping per evaluation.
        status: ``new``, ``running``, ``done`` or ``failed``.
        name: the run id, which is the name of its folder.
        config: the resolved config.
    """

    label: str
    seed: int
    held_out: tuple[str, ...]
    tasks: tuple[str, ...]
    baseline: bool
    records: list[dict[str, Any]]
    status: str
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether it ended well and has something to show."""
        return self.status == "done" and bool(self.records)

    @property
    def plain(self) -> bool:
        """Whether its solver is equal weights without wrappers (ERM, linear scalarisation)."""
        return solver_label(self.config.get("solver")) == "equal"

    @property
    def average_last(self) -> int:
        """Over how many of the last evaluations a value in a table is averaged."""
        return int((self.config.get("evaluation") or {}).get("average_last") or 1)

    def final(self) -> Scores:
        """Split -> metric -> mean over the last ``average_last`` evaluations after step 0."""
        trained = [record for record in self.records if record["step"] > 0] or self.records
        metrics = [record["metrics"] for record in trained[-self.average_last :]]
        return {
            split: {name: sum(m[split][name] for m in metrics) / len(metrics) for name in values}
            for split, values in metrics[-1].items()
        }


def solver_label(spec: Any) -> str:
    """``sage(nash_mtl)`` for SAGE around Nash-MTL, whatever their options."""
    if not isinstance(spec, dict):
        return str(spec)
    base = spec.get("base", spec.get("name"))
    named = (
        [base.get(key) for key in ("aggregator", "scalarizer", "name")] if isinstance(base, dict) else [base]
    )
    label = str(next(filter(None, named), None))
    for wrapper in reversed(spec.get("wrap") or []):
        label = f"{wrapper['name'] if isinstance(wrapper, dict) else wrapper}({label})"
    return label


def collect(folder: Path) -> list[RunResult]:
    """All runs below ``folder/runs``, whatever their status, in the natural order of their ids.

    Raises:
        UsageError: there is no such folder, or a file in it is not what it should be.
    """
    runs = folder / "runs"
    if not runs.is_dir():
        raise UsageError(f"{folder} holds no results: it has no folder 'runs'")
    folders = [path for path in sorted(runs.iterdir(), key=_natural) if path.is_dir()]
    # A run that was killed at its first write leaves a folder without a file of its own.
    return [read_run(folder) for folder in folders if any(folder.glob("[!.]*"))]


def read_run(folder: Path) -> RunResult:
    """One run from its folder.

    Raises:
        UsageError: the config is missing, or a file is not what it should be.
    """
    config = _read_config(folder / CONFIG)
    status = read_status(folder)
    path = folder / RECORDS
    records = load_records(path) if path.exists() else []
    held_out = config.get("held_out") or ()
    names = (name for record in records for split in record["metrics"].values() for name in split)
    measured = dict.fromkeys(name.split("/")[0] for name in names)
    return RunResult(
        label=str(status.get("label") or config.get("label") or solver_label(config.get("solver"))),
        seed=int((status.get("search") or {}).get("trial", config.get("seed", 0))),
        held_out=tuple(map(str, held_out if isinstance(held_out, list | tuple) else [held_out])),
        tasks=tuple(config.get("tasks") or measured),
        baseline=bool(status.get("baseline", False)),
        records=records,
        status=status["status"],
        name=folder.name,
        config=config,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is not the folder of a run: it has no {path.name}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: a config is a mapping, found {config!r}")
    return config


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts run 2 before run 10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
