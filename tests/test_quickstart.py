"""The quickstart: what it promises is in the file, and a shortened one goes all the way to figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlsuite import cli
from mtlsuite.data.rotated_digits import ANGLES
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.results import collect
from mtlsuite.experiments.runner import check_runs
from mtlsuite.experiments.sweep import Experiment, expand

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
SHORT = {
    "experiments.digits.sweep.held_out": '["75"]',
    "experiments.digits.model": "{name: mlp, width: 8}",
    "experiments.digits.train.steps": "2",
    "experiments.digits.evaluation.every": "1",
    "experiments.scenes.data.n_train": "8",
    "experiments.scenes.data.n_val": "3",
    "experiments.scenes.data.height": "12",
    "experiments.scenes.data.width": "16",
    "experiments.scenes.model": "{name: unet, widths: [4, 4]}",
    "experiments.scenes.train.steps": "2",
    "experiments.scenes.evaluation.every": "1",
}
METHODS = ["Equal weights", "Nash-MTL", "FAMO", "SAGE(Nash-MTL)", "SAGE(FAMO)"]


@pytest.fixture(scope="module")
def experiments() -> dict[str, Experiment]:
    return {experiment.name: experiment for experiment in expand(read(QUICKSTART))}


def test_it_is_valid_as_a_whole(experiments: dict[str, Experiment], tmp_path: Path) -> None:
    assert list(experiments) == ["digits", "scenes"]
    check_runs(list(experiments.values()), tmp_path)
    assert not any(tmp_path.iterdir())


def test_digits_leave_every_domain_out_once_a_method_and_seed(experiments: dict[str, Experiment]) -> None:
    runs = experiments["digits"].runs
    found = sorted((run.label, run.config.held_out, run.config.seed) for run in runs)
    domains = sorted(map(str, ANGLES))
    assert found == [(m, (d,), s) for m in ("ERM", "SAGE", "SAM") for d in domains for s in (0, 1)]
    wraps = {run.label: [w["name"] for w in run.config.solver.wrap] for run in runs}
    assert wraps == {"ERM": [], "SAM": ["sam"], "SAGE": ["sage"]}
    assert {run.config.solver.base["name"] for run in runs} == {"equal"}
    assert {(run.config.data["name"], run.config.sources) for run in runs} == {("rotated_digits", "domains")}


def test_scenes_compare_five_methods_with_a_model_a_task(experiments: dict[str, Experiment]) -> None:
    runs = experiments["scenes"].runs
    methods = {
        run.label: ([w["name"] for w in run.config.solver.wrap], run.config.solver.base["name"])
        for run in runs
        if not run.baseline
    }
    assert methods == dict(
        zip(
            METHODS,
            [
                ([], "equal"),
                ([], "nash_mtl"),
                ([], "famo"),
                (["sage"], "nash_mtl"),
                (["sage"], "famo"),
            ],
            strict=True,
        )
    )
    tasks = [run.config.tasks for run in runs if not run.baseline]
    assert set(tasks) == {("segmentation", "depth")}
    assert len(tasks) == 2 * len(METHODS), "two seeds"
    alone = sorted((*(run.config.tasks or ()), run.config.seed) for run in runs if run.baseline)
    assert alone == [("depth", 0), ("depth", 1), ("segmentation", 0), ("segmentation", 1)]
    assert (
        len({(str(run.config.train), str(run.config.optimizer), str(run.config.model)) for run in runs}) == 1
    )


@pytest.mark.slow
def test_a_shortened_one_goes_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTLSUITE_CACHE", str(tmp_path / "cache"))
    words = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "out"
    assert cli.main([str(QUICKSTART), "--out", str(out), *words]) == 0
    shown = capsys.readouterr().out
    for name, methods in {"digits": ["ERM", "SAM", "SAGE"], "scenes": METHODS}.items():
        runs = collect(out / name)
        assert {run.status for run in runs} == {"done"}
        assert {run.label for run in runs if not run.baseline} == set(methods)
        assert {len(run.records) for run in runs} == {3}
        for suffix in ("md", "csv", "tex"):
            text = (out / name / f"table.{suffix}").read_text()
            assert all(method in text for method in methods)
        figures = {path.stem for path in (out / name / "figures").iterdir()}
        assert {path.suffix for path in (out / name / "figures").iterdir()} == {".png", ".svg"}
        assert len(figures) >= 4, "learning curves, losses, weights, cosine"
        assert all(method in shown for method in methods)
    assert "worst" in (out / "digits" / "table.md").read_text()
    assert "delta_m" in (out / "scenes" / "table.csv").read_text()
    [record] = {json.dumps(sorted(run.records[-1]["losses"])) for run in collect(out / "digits")}
    assert record == '["0", "15", "30", "45", "60"]'
