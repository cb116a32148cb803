"""Confusion matrices of finished runs, counted from their predictions and kept in the folder of each run.

Layout on disk: ``confusion.json`` beside ``results.jsonl``, ``{"metrics": ..., "classes": [names], "counts":
{domain: {task: C rows of C counts}}}``. It stands as long as ``metrics`` are those of the last record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import atomic_write
from .restored import Restored, restore
from .results import RunResult

CONFUSION = "confusion.json"
CLASSIFYING = ("class", "segmentation")  # the tasks whose targets are classes

Counts: TypeAlias = NDArray[np.int64]  # (C, C): row = true class, column = predicted class


@dataclass(frozen=True)
class Confusions:
    """The confusion matrices of a run: domain -> task -> counts, and the names of the classes, if any."""

    counts: dict[str, dict[str, Counts]]
    classes: tuple[str, ...]


def class_names(classes: Sequence[str], n: int) -> list[str]:
    """The names of ``n`` classes; their numbers where the data set does not name them."""
    return list(classes) if len(classes) == n else [str(number) for number in range(n)]


def confusions(run: RunResult, folder: Path) -> Confusions:
    """The confusion matrices of a run on each domain that it is evaluated on; ``folder`` is the run's.

    Raises:
        UsageError: they have to be counted, and the run cannot be restored.
    """
    metrics = run.records[-1]["metrics"]
    found = _read(folder / CONFUSION)
    if found is None or found["metrics"] != metrics:
        restored = restore(run, folder)
        counts = {
            domain: {task: matrix.tolist() for task, matrix in tasks.items()}
            for domain, tasks in count(restored).items()
        }
        found = {"metrics": metrics, "classes": list(restored.problem.dataset.classes), "counts": counts}
        atomic_write(folder / CONFUSION, json.dumps(found) + "\n")
    counts = {
        domain: {task: np.array(rows, np.int64) for task, rows in tasks.items()}
        for domain, tasks in found["counts"].items()
    }
    return Confusions(counts, tuple(found["classes"]))


def _read(path: Path) -> dict[str, Any] | None:
    """What the file holds, or None where nothing can be made of it: it can always be counted anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(found, dict) and {"metrics", "classes", "counts"} <= set(found)
    return found if whole else None


def count(restored: Restored) -> dict[str, dict[str, Counts]]:
    """Domain -> task -> counts, over every image that is evaluated, a batch at a time."""
    return {domain: _count(restored, domain, len(split)) for domain, split in restored.splits.items()}


def _count(restored: Restored, domain: str, images: int) -> dict[str, Counts]:
    tasks = {task: n for task, n in restored.problem.tasks.items() if task in CLASSIFYING}
    counts = {task: torch.zeros(n, n, dtype=torch.int64) for task, n in tasks.items()}
    for start in range(0, images if tasks else 0, restored.batch_size):
        indices = range(start, min(start + restored.batch_size, images))
        _, targets, predictions = restored.predict(domain, indices)
        for task, n in tasks.items():
            counts[task] += confusion_matrix(predictions[task], targets[task], n).cpu()
    return {task: matrix.numpy() for task, matrix in counts.items()}


def confusion_matrix(prediction: Tensor, target: Tensor, n_classes: int) -> Tensor:
    """(C, C) counts, row = true class, column = predicted class; targets of -1 do not count.

    Args:
        prediction: scores (B, C) or (B, C, H, W).
        target: classes (B,) or (B, H, W).
        n_classes: C.
    """
    valid = target >= 0
    pairs = target[valid].long() * n_classes + prediction.argmax(dim=1)[valid]
    return pairs.bincount(minlength=n_classes**2).view(n_classes, n_classes)


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """(C,) intersection over union of each class; NaN where it neither occurs nor is predicted."""
    hits = counts.diagonal().astype(np.float64)
    unions = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return _quotient(hits, unions)


def row_shares(counts: Counts) -> NDArray[np.float64]:
    """(C, C) each row divided by its sum: where the images of a class went; NaN where it has none."""
    sums = counts.sum(axis=1, keepdims=True)
    return _quotient(counts, np.broadcast_to(sums, counts.shape))


def _quotient(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """NaN where ``below`` is 0."""
    found: NDArray[np.float64] = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found
