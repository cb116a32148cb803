"""Options of ``evaluation``: how metrics are averaged, which evaluation a table shows, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.config import validate
from mtlsuite.experiments.problem import Problem
from mtlsuite.experiments.results import RunResult, collect, write_status
from mtlsuite.experiments.scores import best_evaluation, final_scores
from mtlsuite.experiments.summary import summarise

CONFIG: dict[str, Any] = {
    "device": "cpu",
    "data": {"name": "scenes", "height": 8, "width": 12, "n_train": 2, "n_val": 7, "domains": ["day"]},
    "model": {"name": "unet", "widths": [4, 4]},
    "sources": "tasks",
    "train": {"steps": 1},
}


@pytest.mark.parametrize("averaging", ["batch", "pixel"])
def test_scores_under_both_conventions_against_numpy(
    averaging: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTLSUITE_CACHE", str(tmp_path))
    problem = Problem(
        validate({**CONFIG, "evaluation": {"averaging": averaging, "batch_size": 3}}), torch.device("cpu")
    )
    model = problem.model().eval()
    [found] = problem.evaluate(model).values()
    absolute, relative, angles = [], [], []
    split = problem.dataset.split("day", "val")
    for rows in ([0, 1, 2], [3, 4, 5], [6]):  # unequal batches, masks of unequal size
        inputs, targets = split.batch(rows)
        with torch.no_grad():
            predictions = model(inputs)
        truth = targets["depth"].double().numpy()
        error = np.abs(predictions["depth"].double().numpy() - truth)[truth > 0]
        absolute.append(error)
        relative.append(error / truth[truth > 0])
        cosine = (F.normalize(predictions["normals"].double(), dim=1) * targets["normals"]).sum(1)
        angles.append(np.degrees(np.arccos(cosine.clamp(-1, 1).numpy()))[truth[:, 0] > 0])

    def over(values: list[Any], reduce: Any) -> Any:
        if averaging == "pixel":
            return pytest.approx(reduce(np.concatenate(values)), rel=1e-4)
        return pytest.approx(np.mean([reduce(v) for v in values]), rel=1e-4)

    assert found["depth/abs_err"] == over(absolute, np.mean)
    assert found["depth/rel_err"] == over(relative, np.mean)
    assert found["normals/angle_mean"] == over(angles, np.mean)
    assert found["normals/angle_median"] == over(angles, np.median)
    assert found["normals/within_30"] == over(angles, lambda a: np.mean(a < 30))
    by_batch, by_pixel = np.mean([a.mean() for a in absolute]), np.concatenate(absolute).mean()
    assert abs(by_batch - by_pixel) > 1e-3 * by_pixel, "or the two could not be told apart"


@pytest.mark.parametrize(
    ("evaluation", "key", "words"),
    [
        ({"averaging": "image"}, "evaluation.averaging", "'batch' or 'pixel'"),
        ({"select": "bets"}, "evaluation.select", "'best'"),
        ({"baseline": "stl"}, "evaluation.baseline", "'measured' or 'published'"),
        ({"select": "best", "average_last": 3}, "evaluation.average_last", "only with 'select: last'"),
    ],
)
def test_what_is_refused(evaluation: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate({**CONFIG, "evaluation": evaluation})
    assert caught.value.message.startswith(f"{key}: ")
    assert words in caught.value.message


# --- the best evaluation ---------------------------------------------------------------------------------


def scores(miou: float, error: float) -> dict[str, float]:
    return {
        "segmentation/miou": miou,
        "segmentation/pixel_accuracy": 0.5,
        "depth/abs_err": error,
        "depth/rel_err": 0.0,
    }


def run_of(*evaluations: tuple[float, float], **changes: Any) -> RunResult:
    """A run whose evaluation i, after one at step 0 that is better than all, measured mIoU and error."""
    metrics = [scores(9.0, 0.001), *(scores(*evaluation) for evaluation in evaluations)]
    records = [{"step": i, "epoch": float(i), "metrics": {"val": m}} for i, m in enumerate(metrics)]
    values = {
        "label": "A", "seed": 0, "held_out": (), "tasks": ("segmentation", "depth"), "baseline": False,
        "records": records, "status": "done", "config": {"evaluation": {"select": "best"}},
    }  # fmt: skip
    return RunResult(**{**values, **changes})


def test_best_by_hand() -> None:
    # means 0.4 and 2: changes of the mIoU -50 % +50 % 0, of the error -50 % +25 % +25 %
    run = run_of((0.2, 1.0), (0.6, 2.5), (0.4, 2.5))
    # delta_m of the two that move: (50 - 50), (-50 + 25), (0 + 25)
    assert best_evaluation(run) == 2
    assert final_scores(run)["val"] == scores(0.6, 2.5)


def test_best_does_not_depend_on_units() -> None:
    plain = run_of((0.2, 1.0), (0.3, 1.4), (0.25, 0.9))
    scaled = run_of((0.2, 1000.0), (0.3, 1400.0), (0.25, 900.0))
    assert best_evaluation(plain) == best_evaluation(scaled) == 3


def test_the_first_of_equals_and_never_one_that_is_not_finite() -> None:
    assert best_evaluation(run_of((0.2, 1.0), (0.3, 1.0), (0.3, 1.0))) == 2
    assert best_evaluation(run_of((0.2, 1.0), (math.nan, 0.1), (0.3, 1.0), (0.9, math.inf))) == 3
    assert best_evaluation(run_of((math.nan, 1.0), (math.nan, 2.0))) == 2, "the last, if none is finite"
    assert best_evaluation(run_of((0.0, 0.0))) == 1


def test_held_out_scores_are_those_of_the_evaluation_that_validation_chose() -> None:
    records = [
        {
            "step": i,
            "epoch": 1.0,
            "metrics": {
                "val/a": {"class/accuracy": a},
                "val/b": {"class/accuracy": b},
                "test/c": {"class/accuracy": c},
            },
        }
        for i, (a, b, c) in enumerate([(0.1, 0.1, 0.9), (0.5, 0.7, 0.2), (0.9, 0.1, 0.8)], start=1)
    ]
    run = run_of(records=records, tasks=("class",), held_out=("c",))
    assert best_evaluation(run) == 1, "the second record"
    assert final_scores(run)["test/c"] == {"class/accuracy": 0.2}


def write(root: Path, select: dict[str, Any]) -> None:
    folder = root / "runs" / "a"
    folder.mkdir(parents=True)
    run = run_of((0.2, 1.0), (0.6, 2.5), (0.4, 2.5))
    config = {"label": "A", "tasks": list(run.tasks), "evaluation": select, "solver": "famo"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in run.records))
    write_status(folder, "done", label="A")


@pytest.mark.parametrize(
    ("select", "miou", "words"),
    [
        (
            {"select": "best"},
            60.0,
            "the evaluation of each run that is best on the validation data that the table shows",
        ),
        ({"average_last": 2}, 50.0, "mean of the last 2 evaluations of each run"),
        ({"average_last": 10}, 40.0, "mean of the last 3 evaluations of each run"),
        ({}, 40.0, "the last evaluation of each run"),
    ],
)
def test_the_table_shows_and_says_which_evaluation(
    tmp_path: Path, select: dict[str, Any], miou: float, words: str
) -> None:
    write(tmp_path, select)
    [table] = summarise(collect(tmp_path))
    [cell] = [row.cells[0] for row in table.rows]
    assert cell is not None
    assert cell.mean == pytest.approx(miou)
    assert table.notes[0] == f"Values of one seed: {words}."


def test_a_single_task_value_of_zero_is_no_baseline(tmp_path: Path) -> None:
    write(tmp_path, {})
    for task, values in {"segmentation": scores(0.0, 1.0), "depth": scores(0.5, 1.0)}.items():
        folder = tmp_path / "runs" / task
        folder.mkdir()
        alone = {key: value for key, value in values.items() if key.startswith(task)}
        (folder / "config.yaml").write_text(yaml.safe_dump({"tasks": [task], "solver": "equal"}))
        record = {"step": 1, "epoch": 1.0, "metrics": {"val": alone}}
        (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
        write_status(folder, "done", label=f"single-task {task}", baseline=True)
    [table] = summarise(collect(tmp_path))
    assert "delta_m" not in [column.name for column in table.columns]
    words = "the single-task value of segmentation/miou, depth/rel_err is 0 or not finite"
    assert f"No delta_m: {words}." in table.notes
