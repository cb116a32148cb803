"""What only the models can show: their predictions as pictures, IoU by class, confusion matrices.

Everything is made from the folders of the runs (``config.yaml``, ``checkpoint.pt``, ``results.jsonl``); the
data sets must be where they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .charts import class_bars
from .comparison import Problems, attempt, compare, evaluations, file_name, methods, used
from .confusion import CLASSIFYING, Confusions, Counts, class_iou, class_names, confusions
from .matrices import confusion_pages
from .panels import DENSE, prediction_pages
from .results import RunResult
from .style import save, styled
from .task_table import BASELINE

SAMPLES = 3
Found = Mapping[str, Confusions]  # name of a run -> its confusion matrices
Named = Iterator[tuple[str, Figure]]


def write_gallery(runs: Sequence[RunResult], folder: Path) -> list[str]:
    """Draw the pictures of the finished ``runs`` in ``folder/runs`` into ``folder/figures``.

    Returns:
        A note for every reason for which runs are not in the pictures.
    """
    problems: Problems = {}
    chosen = used(runs)
    found = {}
    for run in chosen:
        if set(run.tasks) & set(CLASSIFYING):
            counted = attempt(confusions, run, folder / "runs" / run.name, problems)
            if counted is not None:
                found[run.name] = counted
    with styled():
        for figures in (
            _predictions(chosen, folder, problems),
            _class_iou(chosen, found),
            _confusion(chosen, found),
        ):
            for name, figure in figures:
                save(figure, folder / "figures" / name)
    return [f"Not in the pictures: {', '.join(names)}: {reason}." for reason, names in problems.items()]


def _predictions(runs: Sequence[RunResult], folder: Path, problems: Problems) -> Named:
    dense = [run for run in runs if set(run.tasks) & set(DENSE)]
    for name, group in evaluations(dense).items():
        comparison = compare(group, folder, SAMPLES, problems)
        for task in comparison.predictions if comparison else ():
            if comparison and task in DENSE:
                yield from _pages(f"predictions_{task}", name, prediction_pages(comparison, task))


def _class_iou(runs: Sequence[RunResult], found: Found) -> Named:
    """One chart a data set; of a seed, the mean over its domains and runs, as in the tables."""
    by_data: dict[str, list[RunResult]] = {}
    for run in runs:
        if run.name in found:
            by_data.setdefault(json.dumps(run.config.get("data"), sort_keys=True), []).append(run)
    for number, group in enumerate(by_data.values(), start=1):
        values = {label: _iou_by_seed(several, found) for label, several in methods(group).items()}
        values = {label: by_seed for label, by_seed in values.items() if len(by_seed)}
        if values:
            n = next(iter(values.values())).shape[1]
            classes = class_names(found[group[0].name].classes, n)
            name = "class_iou" if len(by_data) == 1 else f"class_iou_{number}"
            yield name, class_bars(values, classes, BASELINE)


def _iou_by_seed(runs: Sequence[RunResult], found: Found) -> NDArray[np.float64]:
    """(seeds, C) in percent; NaN where a class occurs in no domain."""
    by_seed: dict[int, list[NDArray[np.float64]]] = {}
    for run in runs:
        for tasks in found[run.name].counts.values():
            if "segmentation" in tasks:
                by_seed.setdefault(run.seed, []).append(100 * class_iou(tasks["segmentation"]))
    return np.array([_nanmean(np.array(values)) for values in by_seed.values()])


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is not NaN; NaN where all is."""
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(axis=0)
    means: NDArray[np.float64] = np.divide(
        sums, known.sum(axis=0), out=np.full(len(sums), np.nan), where=known.any(axis=0)
    )
    return means


def _confusion(runs: Sequence[RunResult], found: Found) -> Named:
    """One picture an evaluation and domain: the counts of all seeds of a label together."""
    counted = [run for run in runs if run.name in found]
    for name, group in evaluations(counted).items():
        for domain in found[group[0].name].counts:
            counts = {label: _sum(several, found, domain) for label, several in methods(group).items()}
            known = {label: matrix for label, matrix in counts.items() if matrix is not None}
            if known:
                n = len(next(iter(known.values())))
                kind = "held-out" if group[0].held_out else "validation images of the"
                seeds = len({run.seed for run in group})
                over = f", {seeds} seeds together" if seeds > 1 else ""
                one = name == file_name(domain)
                if not one and group[0].held_out:
                    over += f", held out: {', '.join(group[0].held_out)}"
                classes = class_names(found[group[0].name].classes, n)
                pages = confusion_pages(known, classes, f"{kind} domain {domain}, after the last step{over}")
                yield from _pages(f"confusion_{file_name(domain)}", "" if one else name, pages)


def _sum(runs: Sequence[RunResult], found: Found, domain: str) -> Counts | None:
    matrices = [found[run.name].counts[domain].get("class") for run in runs]
    known = [matrix for matrix in matrices if matrix is not None]
    return np.sum(known, axis=0) if known else None


def _pages(name: str, group: str, figures: Sequence[Figure]) -> Named:
    for number, figure in enumerate(figures, start=1):
        page = str(number) if len(figures) > 1 else ""
        yield "_".join(filter(None, (name, group, page))), figure
