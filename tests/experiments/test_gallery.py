"""Pictures of real (tiny) runs: the models are the ones evaluated, and what is missing is said."""

from __future__ import annotations

import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from synthetic_runs import write_run
from tiny_runs import DIGITS, run, scenes, without_report, write

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments import confusion, gallery, report
from mtlsuite.experiments.comparison import compare, evaluations, methods
from mtlsuite.experiments.confusion import class_iou, confusions
from mtlsuite.experiments.gallery import write_gallery
from mtlsuite.experiments.report import NOTES, print_report, write_report
from mtlsuite.experiments.restored import fixed_places, restore
from mtlsuite.experiments.results import RunResult, collect, write_status
from mtlsuite.experiments.style import WIDTH

SOLVERS = {"Equal weights": "equal", "FAMO": "famo"}


def trained(folder: Path, config: dict[str, Any]) -> Path:
    """The folder of these runs, without a report."""
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        assert run(write(folder / "c.yaml", config), folder / "out") == 0
    return folder / "out"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and the single-task baseline on one domain, two seeds each."""
    folder = tmp_path_factory.mktemp("dense")
    config = scenes(folder / "cache") | {"sources": "tasks", "domains": ["day"], "single_task": True}
    del config["held_out"], config["solver"]
    config |= {"train": {"steps": 2, "batch_size": 4}, "sweep": {"solver": SOLVERS, "seed": [0, 1]}}
    return trained(folder, config)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two held-out domains, two seeds."""
    config = {key: value for key, value in DIGITS.items() if key != "held_out"}
    config["train"] = {"steps": 2, "batch_size": 4}
    sweep = {"solver": SOLVERS, "held_out": ["15", "30"], "seed": [0, 1]}
    return trained(tmp_path_factory.mktemp("digits"), config | {"sweep": sweep})


@pytest.fixture
def own(dense: Path, tmp_path: Path) -> Path:
    """A copy of the dense runs that a test may spoil."""
    shutil.copytree(dense / "runs", tmp_path / "runs")
    return tmp_path


def of(folder: Path, part: str) -> RunResult:
    """The first run whose name begins like this."""
    return next(run for run in collect(folder) if run.name.startswith(part))


@pytest.mark.parametrize("averaging", [None, "ema"])
def test_a_restored_model_scores_what_was_recorded(tmp_path: Path, averaging: str | None) -> None:
    config = scenes(tmp_path / "cache") | {"train": {"steps": 3, "batch_size": 4}, "evaluation": {"every": 1}}
    folder = trained(tmp_path, config | ({"averaging": averaging} if averaging else {}))
    [found] = collect(folder)
    before = torch.get_rng_state()
    restored = restore(found, folder / "runs" / found.name)
    assert torch.equal(torch.get_rng_state(), before)
    assert restored.problem.evaluate(restored.model) == found.records[-1]["metrics"]
    assert list(restored.splits) == ["fog"]
    assert ("raw_metrics" in found.records[-1]) == (averaging is not None)


def test_a_run_without_a_fitting_checkpoint_is_refused(own: Path) -> None:
    equal, alone = of(own, "Equal"), of(own, "single-task")
    folder = own / "runs" / equal.name
    (folder / "checkpoint.pt").write_bytes((own / "runs" / alone.name / "checkpoint.pt").read_bytes())
    with pytest.raises(UsageError, match=r"checkpoint\.pt does not fit the model"):
        restore(equal, folder)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(UsageError, match=r"^no checkpoint\.pt$"):
        restore(equal, folder)


def test_fixed_places_are_spread_evenly_over_all_domains() -> None:
    assert fixed_places({"a": range(10)}, 3) == [("a", 1), ("a", 5), ("a", 8)]
    assert fixed_places({"a": range(2), "b": range(4)}, 3) == [("a", 1), ("b", 1), ("b", 3)]
    assert fixed_places({"a": range(2)}, 5) == [("a", 0), ("a", 1)]
    assert fixed_places({}, 3) == []


def test_the_methods_are_shown_the_same_images_by_their_own_models(dense: Path) -> None:
    comparison = compare(collect(dense), dense, 2, problems := {})
    assert not problems
    assert comparison is not None
    assert list(comparison.predictions["depth"]) == ["single-task", "Equal weights", "FAMO"]
    assert comparison.seeds == {0}
    assert comparison.places == [("day", 0), ("day", 1)]
    for task, label in [("depth", "single-task"), ("segmentation", "single-task"), ("depth", "FAMO")]:
        candidates = [r for r in collect(dense) if r.name.startswith(label) and task in r.tasks]
        restored = restore(candidates[0], dense / "runs" / candidates[0].name)
        images = torch.stack([restored.splits["day"][i][0] for i in range(2)])
        with torch.no_grad():
            expected = restored.model(images)[task]
        np.testing.assert_allclose(
            np.stack(comparison.predictions[task][label]), expected, rtol=1e-4, atol=1e-5
        )
        image, targets = restored.splits["day"][1]
        np.testing.assert_array_equal(comparison.inputs[1], image)
        np.testing.assert_array_equal(comparison.targets[task][1], targets[task])


def test_counts_agree_with_the_recorded_metrics(dense: Path, digits: Path) -> None:
    for found in collect(digits):
        counts = confusions(found, digits / "runs" / found.name).counts
        [held] = found.held_out
        assert list(counts) == [held]
        matrix = counts[held]["class"]
        recorded = found.records[-1]["metrics"][f"test/{held}"]["class/accuracy"]
        assert matrix.trace() / matrix.sum() == pytest.approx(recorded)
    found = of(dense, "FAMO")
    iou = class_iou(confusions(found, dense / "runs" / found.name).counts["day"]["segmentation"])
    assert np.nanmean(iou) == pytest.approx(found.records[-1]["metrics"]["val"]["segmentation/miou"])


def test_counts_are_kept_as_long_as_the_metrics_are_theirs(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(own, "FAMO")
    folder = own / "runs" / found.name
    first = confusions(found, folder)
    with monkeypatch.context() as patch:
        patch.setattr(confusion, "restore", lambda *_: pytest.fail("counted again"))
        again = confusions(found, folder)
    np.testing.assert_array_equal(again.counts["day"]["segmentation"], first.counts["day"]["segmentation"])
    assert again.classes == first.classes
    path = folder / "confusion.json"
    stale = json.loads(path.read_text())
    stale["counts"]["day"]["segmentation"][0][0] += 1000
    for content in (json.dumps(stale | {"metrics": {}}), "{", "[]"):
        path.write_text(content)
        counts = confusions(found, folder).counts["day"]["segmentation"]
        np.testing.assert_array_equal(counts, first.counts["day"]["segmentation"])


def test_every_picture_of_dense_runs_is_written_and_opens(own: Path) -> None:
    assert write_gallery(collect(own), own) == []
    names = {"predictions_segmentation", "predictions_depth", "class_iou"}
    files = {path.name: path for path in (own / "figures").iterdir()}
    assert set(files) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for name in names:
        with Image.open(files[f"{name}.png"]) as image:
            assert image.width == WIDTH * 200
            assert len(image.convert("RGB").getcolors(1 << 22)) > 10
        assert ElementTree.parse(files[f"{name}.svg"]).getroot().tag.endswith("svg")
    first = {name: path.read_bytes() for name, path in files.items()}
    write_gallery(collect(own), own)
    assert first == {name: path.read_bytes() for name, path in files.items()}


def test_held_out_domains_have_a_confusion_matrix_each_over_all_seeds(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    monkeypatch.setattr(gallery, "save", lambda figure, path: drawn.setdefault(path.name, figure))
    assert write_gallery(collect(digits), digits) == []
    assert list(drawn) == ["confusion_15", "confusion_30"]
    figure = drawn["confusion_30"]
    assert [ax.get_title() for ax in figure.axes[:2]] == ["Equal weights", "FAMO"]
    chosen = [r for r in collect(digits) if r.label == "FAMO" and r.held_out == ("30",)]
    assert len(chosen) == 2
    total = sum(confusions(r, digits / "runs" / r.name).counts["30"]["class"] for r in chosen)
    shares = 100 * total / total.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(figure.axes[1].images[0].get_array()), shares)


def test_failed_runs_and_lost_checkpoints_are_left_out_with_a_note(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "save", lambda *_: None)
    monkeypatch.setattr(report, "write_figures", lambda *_: None)
    lost, failed = of(own, "FAMO"), of(own, "Equal")
    (own / "runs" / lost.name / "checkpoint.pt").unlink()
    write_status(own / "runs" / failed.name, "failed", label=failed.label, baseline=False)
    tables = write_report(own, "t")
    assert (own / NOTES).read_text() == f"Not in the pictures: {lost.name}: no checkpoint.pt.\n"
    assert any(failed.name in note for table in tables for note in table.notes)
    console = Console(width=400, record=True, file=io.StringIO())
    print_report(own, "t", tables, console)
    assert f"{lost.name}: no checkpoint.pt" in console.export_text()
    write_status(own / "runs" / lost.name, "failed", label=lost.label, baseline=False)
    write_report(own, "t")
    assert not (own / NOTES).exists()


def test_records_alone_make_no_pictures_but_a_report(tmp_path: Path) -> None:
    write_run(tmp_path, "0", "A", [{"val": {"segmentation/miou": 0.5, "segmentation/pixel_accuracy": 0.5}}])
    assert write_report(tmp_path, "t")
    assert not list((tmp_path / "figures").glob("predictions*"))
    assert (tmp_path / NOTES).read_text() == "Not in the pictures: 0: no checkpoint.pt.\n"


def test_runs_are_compared_on_the_same_images_only(tmp_path: Path) -> None:
    scores = {"test/a": {"class/accuracy": 0.5}}
    for name, held in [("0", "a/b"), ("1", "a/b"), ("2", "c")]:
        write_run(tmp_path, name, f"m{name}", [scores], held_out=[held])
    groups = evaluations(collect(tmp_path))
    assert {name: [run.name for run in runs] for name, runs in groups.items()} == {
        "a-b": ["0", "1"],
        "c": ["2"],
    }
    assert list(evaluations(groups["c"])) == [""]
    other = [RunResult("m", 0, (), (), False, [], "done", str(i), {"data": {"seed": i}}) for i in range(3)]
    assert list(evaluations(other)) == ["validation", "validation_2", "validation_3"]
    configs = [{"data": {"name": "d", "trial_seed": i}} for i in range(3)]
    trials = [
        RunResult("m", i, (), (), False, [], "done", str(i), config) for i, config in enumerate(configs)
    ]
    assert evaluations(trials) == {"": trials}


def test_the_baseline_comes_first_and_unfinished_runs_not_at_all(tmp_path: Path) -> None:
    metrics = [{"val": {"segmentation/miou": 0.5}}]
    write_run(tmp_path, "0", "A", metrics)
    write_run(tmp_path, "1", "B", metrics, status="failed")
    write_run(tmp_path, "2", "single-task", metrics, baseline=True)
    assert list(methods(collect(tmp_path))) == ["single-task", "A"]
