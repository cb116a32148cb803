"""Run folders with made-up numbers, for the tests of results, tables and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mtlsuite.experiments.results import write_status


def write_run(
    root: Path,
    name: str,
    label: str,
    metrics: list[dict[str, dict[str, float]]],
    seed: int = 0,
    held_out: list[str] | None = None,
    tasks: list[str] | None = None,
    solver: Any = "sage",
    average_last: int = 1,
    status: str = "done",
    baseline: bool = False,
    **extra: Any,
) -> Path:
    """One run whose record number i (step 100 * (i + 1)) has ``metrics[i]``; ``extra`` goes into each."""
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    config = {
        "label": label,
        "seed": seed,
        "held_out": held_out or [],
        "tasks": tasks,
        "solver": solver,
        "evaluation": {"average_last": average_last},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    for i, splits in enumerate(metrics):
        record = {"step": 100 * (i + 1), "epoch": 1.0, "losses": None, "weights": None, "solver": {}}
        lines.append(json.dumps({**record, "cosine": None, **extra, "metrics": splits}))
    (folder / "results.jsonl").write_text("".join(line + "\n" for line in lines))
    write_status(folder, status, label=label, baseline=baseline)
    return folder


def accuracy_on(domain: str, accuracy: float) -> dict[str, dict[str, float]]:
    """The metrics of a record of a run that held ``domain`` out."""
    return {"val/other": {"class/accuracy": 0.9}, f"test/{domain}": {"class/accuracy": accuracy}}
