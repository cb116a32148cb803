"""The configs of NYUv2 and Cityscapes: every constant; the whole path on written scenes and real frames."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from mtlsuite import cli
from mtlsuite.data.commands import main as data_command
from mtlsuite.experiments import report
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.results import collect
from mtlsuite.experiments.sweep import expand
from mtlsuite.experiments.yaml_file import load

pytest.importorskip("torchjd", reason="FairGrad, CAGrad, UW and DWA come from TorchJD")

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
REAL = ROOT.parent / "shared" / "data"
TINY = ["device=cpu", "threads=1", "model.widths=[4, 4]"]

# --- the protocol, written a second time -------------------------------------------------------------------

COMMON = {
    "model": "segnet_mtan",
    "sources": "tasks",
    "optimizer": {"name": "Adam", "lr": 1e-4},
    "scheduler": {"name": "StepLR", "step_size": 100, "gamma": 0.5, "interval": "epoch"},
}
PROTOCOL = {
    "nyuv2": {
        **COMMON,
        "data": {"name": "nyuv2", "root": "data/nyuv2", "augment": True},
        "tasks": ["segmentation", "depth", "normals"],
        "train": {"epochs": 200, "batch_size": 2},
    },
    "cityscapes": {
        **COMMON,
        "data": {"name": "cityscapes", "root": "data/cityscapes", "labels": "label_7", "augment": True},
        "tasks": ["segmentation", "depth"],
        "train": {"epochs": 200, "batch_size": 8},
    },
}
EVALUATION = {"every": 1, "averaging": "batch", "average_last": 10, "baseline": "published"}
SEEDS = [0, 1, 2]
FAIRGRAD = {"name": "torchjd", "aggregator": "FairGrad", "alpha": 2.0}


def fairgrad_inside(**wrapper: Any) -> dict[str, Any]:
    return {"base": FAIRGRAD, "wrap": [wrapper]}


def methods(dataset: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """File -> label and solver, every constant of it."""
    nyu = dataset == "nyuv2"
    inner = {"inner_lr": 1e-4, "inner_steps": 1, "order": "random"}
    return {
        "ls": ("LS", {"base": {"name": "equal", "reduction": "sum"}}),
        "uw": ("UW", {"base": {"name": "torchjd", "scalarizer": "UW", "lr": 0.025}}),
        "dwa": (
            "DWA",
            {
                "base": {
                    "name": "torchjd",
                    "scalarizer": "DWA",
                    "temperature": 2.0,
                    "steps_per_epoch": -(-795 // 2) if nyu else -(-2975 // 8),
                }
            },
        ),
        "cagrad": ("CAGrad", {"base": {"name": "torchjd", "aggregator": "CAGrad", "c": 0.4}}),
        "nash_mtl": (
            "Nash-MTL",
            {"base": {"name": "nash_mtl", "update_weights_every": 1, "max_norm": 1.0}},
        ),
        "famo": (
            "FAMO",
            {"base": {"name": "famo", "w_lr": 0.025, "gamma": 1e-3 if nyu else 1e-2, "max_norm": 1.0}},
        ),
        "fairgrad": ("FairGrad", {"base": FAIRGRAD}),
        "sage_fairgrad": (
            "SAGE(FairGrad)",
            fairgrad_inside(name="sage", rho=5e-4 if nyu else 3e-3, gamma=1e-4, scale="none"),
        ),
        "samo_fairgrad": ("SAMO(FairGrad)", fairgrad_inside(name="samo", rho=1e-3, beta=0.5, zo_eps=0.01)),
        # constants of ours, as the files say
        "sam_fairgrad": ("SAM(FairGrad)", fairgrad_inside(name="sam", rho=0.05)),
        "disam_fairgrad": ("DISAM(FairGrad)", fairgrad_inside(name="disam", rho=0.05, **{"lambda": 0.1})),
        "equilibrium_fairgrad": (
            "Equilibrium(FairGrad)",
            fairgrad_inside(name="gradient_equilibrium", alpha=0.5, steps=20),
        ),
        "arithmetic_fairgrad": ("Arithmetic(FairGrad)", fairgrad_inside(name="arithmetic", **inner)),
    }


FILES = [
    pytest.param(dataset, file, id=f"{dataset}/{file}") for dataset in PROTOCOL for file in methods(dataset)
]
DATASETS = pytest.mark.parametrize("dataset", list(PROTOCOL))


def expected(dataset: str) -> dict[str, Any]:
    batch_size = {"nyuv2": 2, "cityscapes": 8}[dataset]
    return {**PROTOCOL[dataset], "evaluation": {**EVALUATION, "batch_size": batch_size}}


@pytest.mark.parametrize(("dataset", "file"), FILES)
def test_every_constant_of_a_method(dataset: str, file: str) -> None:
    found, _ = load(CONFIGS / dataset / f"{file}.yaml")
    label, solver = methods(dataset)[file]
    assert found == {
        **expected(dataset),
        "name": f"{dataset}-{file}",
        "label": label,
        "solver": solver,
        "sweep": {"seed": SEEDS},
    }


@DATASETS
def test_every_constant_of_the_benchmark(dataset: str) -> None:
    found, _ = load(CONFIGS / dataset / "benchmark.yaml")
    solvers = dict(methods(dataset).values())
    name = f"{dataset}-benchmark"
    assert found == {**expected(dataset), "name": name, "sweep": {"solver": solvers, "seed": SEEDS}}


@DATASETS
def test_the_benchmark_is_the_runs_of_the_single_files(dataset: str) -> None:
    folder = CONFIGS / dataset
    assert {path.stem for path in folder.iterdir()} == {*methods(dataset), "benchmark"}
    [benchmark] = expand(read(folder / "benchmark.yaml"))
    singly = [
        run.id for file in methods(dataset) for e in expand(read(folder / f"{file}.yaml")) for run in e.runs
    ]
    assert sorted(run.id for run in benchmark.runs) == sorted(singly)
    assert len(singly) == 3 * 13


@pytest.mark.parametrize(("dataset", "file"), FILES)
def test_what_a_paper_does_not_say_is_said_to_be_ours(dataset: str, file: str) -> None:
    text = (CONFIGS / dataset / f"{file}.yaml").read_text(encoding="utf-8")
    ours = {"sam_fairgrad", "disam_fairgrad", "equilibrium_fairgrad", "arithmetic_fairgrad"}
    assert ("our choice" in text) == (file in ours)


# --- without the data ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data set -> scenes as files, with the label folder that its configs name."""
    folder = tmp_path_factory.mktemp("scenes")
    size = ["--size", "16", "24", "--frames", "6", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTLSUITE_CACHE", str(folder / "cache"))
        for dataset, labels in (("nyuv2", "label"), ("cityscapes", "label_7")):
            root = ["--root", str(folder / dataset), "--labels", labels]
            assert data_command(["make-scenes", "--layout", "mtan", *root, *size]) == 0
    return {dataset: folder / dataset for dataset in PROTOCOL}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_figures", lambda *_, **__: [], raising=False)  # slower than these runs


def on_scenes(root: Path, *settings: str) -> list[str]:
    return ["--set", "data.name=scenes", f"data.root={root}", *TINY, *settings]


def run(dataset: str, file: str, *options: str) -> int:
    return cli.main([str(CONFIGS / dataset / f"{file}.yaml"), "--out", "out", *options])


@pytest.mark.parametrize(("dataset", "file"), [*FILES, ("nyuv2", "benchmark"), ("cityscapes", "benchmark")])
def test_every_config_is_accepted_on_written_scenes(
    dataset: str, file: str, written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dataset, file, "--dry-run", *on_scenes(written[dataset])) == 0, capsys.readouterr().err
    count = 3 * (13 if file == "benchmark" else 1)
    assert f"{count} runs" in capsys.readouterr().out
    assert not Path("out").exists()


@DATASETS
def test_without_the_folder_there_is_one_error_that_says_how_to_get_it(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dataset, "famo", "--dry-run", "--set", "data.name=scenes", "data.root=nowhere") == 2
    message = capsys.readouterr().err
    labels = {"nyuv2": "label", "cityscapes": "label_7"}[dataset]
    assert "data.root" in message
    assert f"mtlsuite data make-scenes --root nowhere --labels {labels}" in message


@pytest.mark.parametrize(("dataset", "file"), [("nyuv2", "sage_fairgrad"), ("cityscapes", "famo")])
def test_a_config_trains_on_files_and_prints_the_table(
    dataset: str, file: str, written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = on_scenes(written[dataset], "train.epochs=2", "sweep.seed=[0, 1]")
    assert run(dataset, file, *settings) == 0, capsys.readouterr().err
    shown = " ".join(capsys.readouterr().out.split())
    label, _ = methods(dataset)[file]
    assert label in shown
    assert "over 2 seeds: mean of the last 2 evaluations of each run" in shown
    size = expected(dataset)["evaluation"]["batch_size"]
    assert f"over batches of {size} images, then over the batches (averaging: batch)" in shown
    assert "Nothing quoted: no published rows" in shown
    with open("out/table.csv", encoding="utf-8") as file_:
        lines = list(csv.DictReader(file_))
    assert len(lines) == {"nyuv2": 9, "cityscapes": 4}[dataset]
    assert {line["source"] for line in lines} == {"measured"}
    for result in collect(Path("out")):
        assert [record["epoch"] for record in result.records] == [0, 1, 2]
        means = {name for name, _ in result.records[-1]["metrics"]["val"].items()}
        assert len(means) == len(lines)


def test_under_the_name_of_the_data_set_the_published_rows_are_quoted(
    written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*TINY, f"data.root={written['cityscapes']}", "train.epochs=1", "sweep.seed=[0]"]
    assert run("cityscapes", "ls", "--set", *settings) == 0, capsys.readouterr().err
    shown = " ".join(capsys.readouterr().out.split())
    assert "Nash-MTL \N{DAGGER} 75.41 93.66 0.0129 35.02" in shown
    [note] = re.findall(r"Not comparable with the quoted rows, by their protocol: ([^:]*: other data)", shown)
    assert "model.widths [4, 4] instead of [64, 128, 256, 512, 512]" in note
    assert "train.epochs 1 instead of 200" in note
    assert "an epoch has 1 steps instead of 372: other data" in note
    assert "batch_size" not in note
    assert "optimizer" not in note


@pytest.mark.slow
@DATASETS
def test_the_benchmark_runs_goes_on_and_measures_its_own_baseline(
    dataset: str, written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["single_task=true", "evaluation.baseline=measured"]
    settings = on_scenes(written[dataset], "train.epochs=1", "sweep.seed=[0]", *own)
    assert run(dataset, "benchmark", *settings) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    labels = {label for label, _ in methods(dataset).values()}
    assert all(label in shown for label in labels)
    with open("out/table.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["label"] for line in lines} == {*labels, "single-task"}
    assert {"delta_m", "mean rank"} <= {line["column"] for line in lines}
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("results.jsonl")}
    assert len(before) == 13 + len(expected(dataset)["tasks"])
    assert run(dataset, "benchmark", *settings, "--resume") == 0
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("results.jsonl")} == before


# --- real frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "file", "folder", "settings"),
    [
        ("nyuv2", "samo_fairgrad", "nyud_two", ["data.n_classes=40", "data.train_folder=val"]),
        pytest.param("nyuv2", "nash_mtl", "rgbd_objects", ["data.n_classes=6"], marks=pytest.mark.slow),
        pytest.param(
            "cityscapes",
            "sage_fairgrad",
            "rgbd_objects",
            ["data.n_classes=6", "data.labels=label"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_configs_train_on_real_frames(
    dataset: str, file: str, folder: str, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip(f"no folder {folder} among the shared data beside the repository")
    root = f"data.root={REAL / folder}"
    one = ["train.epochs=1", "sweep.seed=[0]"]
    assert run(dataset, file, "--set", *TINY, root, *settings, *one) == 0, capsys.readouterr().err
    [result] = collect(Path("out"))
    before, after = result.records
    assert after["losses"] is not None
    assert after["metrics"]["val"] != before["metrics"]["val"]
    assert all(value == value for value in after["metrics"]["val"].values()), "no NaN"
    shown = " ".join(capsys.readouterr().out.split())
    assert "other data" in shown, "the published rows are not of these frames"
