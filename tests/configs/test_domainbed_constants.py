"""The configs of DomainBed's data sets and of single domains: every constant, and all on small folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data.domain_folders import write

from mtlsuite import cli
from mtlsuite.core import registry
from mtlsuite.data.domainbed import DomainFolders
from mtlsuite.experiments import problem, report
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.results import collect
from mtlsuite.experiments.sweep import expand
from mtlsuite.experiments.yaml_file import load

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
REAL = ROOT.parent / "shared" / "data" / "pacs_mini"

# --- the protocol, written a second time -------------------------------------------------------------------

NAMES = {
    "pacs": "pacs",
    "vlcs": "vlcs",
    "officehome": "office_home",
    "terra_incognita": "terra_incognita",
    "domainnet": "domain_net",
}
LOW_LR = ("vlcs", "officehome", "terra_incognita")
SINGLE = ("pacs", "vlcs", "officehome", "domainnet")  # the sets of the paper
OWN_PROTOCOL = ("arithmetic", "gradient_equilibrium")
OURS = {"sage", "disam_sam", "disam_gsam", "disam_sagm", "fish", *OWN_PROTOCOL}


def around_equal(name: str, **options: Any) -> dict[str, Any]:
    return {"base": "equal", "wrap": [{"name": name, **options}]}


def methods(folder: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """File -> label and solver, every constant of it."""
    terra = folder == "terra_incognita"
    disam = {"rho": 0.01 if terra else 0.05, "lambda": 0.2 if terra else 0.1}
    ascent = {"name": "disam", **disam}
    return {
        "erm": ("ERM", {"base": "equal"}),
        "sam": ("SAM", around_equal("sam", rho=0.05)),
        "sage": ("SAGE", around_equal("sage", rho=0.05, gamma=1e-4, scale="weight_norm")),
        "disam_sam": ("DISAM + SAM", around_equal("disam", **disam)),
        "disam_gsam": ("DISAM + GSAM", around_equal("gsam", alpha=0.1, ascent=ascent)),
        "disam_sagm": (
            "DISAM + SAGM",
            around_equal(
                "sagm", alpha=5e-4 if folder in ("officehome", "domainnet") else 1e-3, ascent=ascent
            ),
        ),
        "fish": ("Fish", around_equal("fish", inner_lr=5e-5, inner_steps=1, order="random")),
        "gga": (
            "GGA",
            around_equal(
                "gga",
                start_step=100,
                end_step=200,
                n_search=250,
                radius=1e-6 if folder == "vlcs" else 1e-5,
                loss_tolerance=0.1,
                candidates="independent",
                parameters=["trunk.*"],
            ),
        ),
        "gga_l": ("GGA-L", around_equal("gga_l", gamma=1e-3)),
        "arithmetic": (
            "Arithmetic",
            around_equal(
                "arithmetic",
                inner_lr=5e-5,
                inner_steps=2 if folder == "domainnet" else 3,
                order="random",
                minibatches="fresh",
            ),
        ),
        "gradient_equilibrium": (
            "Gradient equilibrium",
            around_equal("gradient_equilibrium", alpha=0.5, steps=20, apply="sequential"),
        ),
    }


def domains(folder: str) -> list[str]:
    cls: type[DomainFolders] = registry.lookup("dataset", NAMES[folder])
    assert cls.published is not None
    return list(cls.published.domains)


def protocol(folder: str, file: str) -> dict[str, Any]:
    """What a method is trained and evaluated with, without SWAD."""
    net = folder == "domainnet"
    every = {"vlcs": 50, "domainnet": 500}.get(folder, 100)
    settings: dict[str, Any] = {
        "data": {"name": NAMES[folder], "root": "data/domainbed", "protocol": "swad"},
        "model": {"name": "resnet50", "weights": "IMAGENET1K_V1", "dropout": 0.5},
        "sources": "domains",
        "optimizer": {
            "name": "Adam",
            "lr": 1e-5 if folder in LOW_LR else 3e-5,
            "weight_decay": 1e-6 if net else 1e-4,
        },
        "train": {"steps": 15000 if net else 5000, "batch_size": 32, "replacement": True},
        "evaluation": {
            "every": every,
            "batch_size": 128,
            "both_splits": True,
            "select": "best",
            "baseline": "published",
        },
    }
    if file == "arithmetic":
        settings["data"]["protocol"] = "domainbed"
        settings["model"]["dropout"] = 0.0
        settings["optimizer"] = {"name": "Adam", "lr": 6e-6, "weight_decay": 0.0}
        settings["train"] |= {"steps": 15000 if net else 5100, "batch_size": 18 if net else 12}
        settings["evaluation"] |= {"every": 300, "batch_size": 64}
    if file == "gradient_equilibrium":
        settings["model"] = {"name": "resnet18", "weights": "IMAGENET1K_V1"}
        settings["optimizer"] = {"name": "SGD", "lr": 5e-4, "momentum": 0.9}
        settings["train"]["batch_size"] = 10
    return settings


def both(folder: str, file: str, **more: Any) -> dict[str, Any]:
    """The experiments of a file: without SWAD and with it."""
    plain = {**protocol(folder, file), **more}
    averaging = {
        "name": "swad",
        "n_converge": 3,
        "n_tolerance": 6,
        "tolerance_ratio": 0.2 if folder == "vlcs" else 0.3,
    }
    evaluation = {**plain["evaluation"], "select": "last"}
    return {"plain": plain, "swad": {**plain, "evaluation": evaluation, "averaging": averaging}}


FOLDERS = pytest.mark.parametrize("folder", list(NAMES))
FILES = [pytest.param(folder, file, id=f"{folder}/{file}") for folder in NAMES for file in methods(folder)]


@pytest.mark.parametrize(("folder", "file"), FILES)
def test_every_constant_of_a_method(folder: str, file: str) -> None:
    path = CONFIGS / folder / f"{file}.yaml"
    label, solver = methods(folder)[file]
    sweep = {"held_out": domains(folder), "trial": [0, 1, 2]}
    found, _ = load(path)
    experiments = both(folder, file, label=label, solver=solver, sweep=sweep)
    assert found == {"name": f"{folder}-{file}", "experiments": experiments}
    assert ("our choice" in path.read_text(encoding="utf-8")) == (file in OURS)


@FOLDERS
def test_every_constant_of_the_benchmark(folder: str) -> None:
    found, _ = load(CONFIGS / folder / "benchmark.yaml")
    solvers = dict(methods(folder)[file] for file in methods(folder) if file not in OWN_PROTOCOL)
    sweep = {"solver": solvers, "held_out": domains(folder), "trial": [0, 1, 2]}
    assert found == {"name": f"{folder}-benchmark", "experiments": both(folder, "erm", sweep=sweep)}


@FOLDERS
def test_the_benchmark_is_the_runs_of_the_single_files(folder: str) -> None:
    files, few = methods(folder), ["sweep.trial=[1]", f"sweep.held_out=[{domains(folder)[-1]}]"]
    assert {path.stem for path in (CONFIGS / folder).iterdir()} == {*files, "benchmark"}
    benchmark = {e.name: e.runs for e in expand(read(CONFIGS / folder / "benchmark.yaml", few))}
    singly: dict[str, list[str]] = {"plain": [], "swad": []}
    for file in files:
        for experiment in expand(read(CONFIGS / folder / f"{file}.yaml", few)):
            if file not in OWN_PROTOCOL:
                singly[experiment.name] += [run.id for run in experiment.runs]
    assert {name: sorted(run.id for run in runs) for name, runs in benchmark.items()} == {
        name: sorted(ids) for name, ids in singly.items()
    }


def test_with_and_without_averaging_a_trial_is_the_same_training() -> None:
    plain, swad = expand(read(CONFIGS / "pacs" / "sam.yaml"))
    for one, other in zip(plain.runs, swad.runs, strict=True):
        first, second = one.config.resolved(), other.config.resolved()
        assert {key for key in first if first[key] != second[key]} == {"name", "averaging", "evaluation"}
    assert len({(run.config.seed, run.config.data["trial_seed"]) for run in plain.runs}) == 12


@pytest.mark.parametrize("folder", SINGLE)
def test_every_constant_of_single_domains(folder: str) -> None:
    path = CONFIGS / "single_domain" / f"{folder}.yaml"
    found, _ = load(path)
    others = [[other for other in domains(folder) if other != source] for source in domains(folder)]
    repeated = {"held_out": others, "trial": [0, 1, 2, 3, 4]}
    name = NAMES[folder]
    common = {
        "data": {
            "name": name,
            "root": "data/domainbed",
            "protocol": "swad",
            "augment": False,
            "normalize": False,
        },
        "model": {"name": "resnet18", "weights": "IMAGENET1K_V1", "normalize": True},
        "optimizer": {"name": "SGD", "lr": 5e-4, "momentum": 0.9},
        "train": {"epochs": 5 if folder == "domainnet" else 30, "batch_size": 10},
        "evaluation": {"every": 1, "batch_size": 128, "select": "best", "baseline": "published"},
    }
    views = {
        "Gradient averaging": {"base": "equal"},
        "PCGrad": {"base": {"name": "torchjd", "aggregator": "PCGrad"}},
        "Gradient equilibrium": methods(folder)["gradient_equilibrium"][1],
    }
    alone = {"solver": {"base": "equal"}, "sweep": repeated}
    assert found == {
        "name": f"single_domain-{folder}",
        "experiments": {
            "views": {
                **common,
                "sources": "views",
                "views": {"count": 3, "ops": 2},
                "sweep": {"solver": views, **repeated},
            },
            "randaugment": {
                **common,
                **alone,
                "label": "ERM + RandAugment",
                "sources": "views",
                "views": {"count": 1, "ops": 2},
            },
            "baseline": {**common, **alone, "label": "ERM", "sources": "domains", "views": None},
        },
    }
    assert "our choice" in path.read_text(encoding="utf-8")
    assert {path.stem for path in (CONFIGS / "single_domain").iterdir()} == set(SINGLE)


# --- on small folders ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets: their domains and, as far as their names are known, classes; five images each."""
    root = tmp_path_factory.mktemp("domainbed")
    for name in NAMES.values():
        published = registry.lookup("dataset", name).published
        write(root / published.directory, list(published.domains), published.classes or ("bed", "bell"))
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_figures", lambda *_, **__: [], raising=False)  # slower than these runs
    yield
    problem._dataset.cache_clear()


SMALL = ["threads=1", "device=cpu", "data.size=16"]
CONVNET = "model={name: convnet, widths: [4, 4]}"  # a ResNet-50 would be made anew for every run


def run(config: str, *options: str) -> int:
    return cli.main([str(CONFIGS / f"{config}.yaml"), "--out", "out", *options])


@pytest.mark.parametrize(("folder", "file"), [*FILES, *((folder, "benchmark") for folder in NAMES)])
def test_every_config_is_accepted_on_small_folders(
    folder: str, file: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", f"data.root={tree}", *SMALL, CONVNET, "sweep.trial=[0]"]
    assert run(f"{folder}/{file}", "--dry-run", *settings) == 0, capsys.readouterr().err
    count = 2 * len(domains(folder)) * (9 if file == "benchmark" else 1)
    assert f"{count} runs" in capsys.readouterr().out
    assert not Path("out").exists()


@pytest.mark.parametrize("folder", SINGLE)
def test_every_config_of_single_domains_is_accepted_on_small_folders(
    folder: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchjd", reason="PCGrad comes from TorchJD")
    settings = ["--set", f"data.root={tree}", *SMALL, CONVNET, "sweep.trial=[0]"]
    assert run(f"single_domain/{folder}", "--dry-run", *settings) == 0, capsys.readouterr().err
    assert f"{5 * len(domains(folder))} runs" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["gga", "arithmetic", "gradient_equilibrium"])
def test_without_pretrained_weights_the_models_themselves_are_accepted(
    file: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["model.weights=null", "sweep.trial=[0]", "sweep.held_out=[sketch]"]
    assert run(f"pacs/{file}", "--dry-run", "--set", f"data.root={tree}", *SMALL, *one) == 0
    assert "2 runs" in capsys.readouterr().out


@pytest.mark.parametrize(("file", "label"), [("disam_gsam", "DISAM + GSAM"), ("arithmetic", "Arithmetic")])
def test_a_config_trains_and_prints_the_tables_with_and_without_swad(
    file: str, label: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["train.steps=6", "train.batch_size=2", "evaluation.every=2", "sweep.trial=[0]"]
    settings = ["--set", f"data.root={tree}", *SMALL, CONVNET, *short, "sweep.held_out=[sketch]"]
    assert run(f"pacs/{file}", *settings) == 0, capsys.readouterr().err
    shown = " ".join(capsys.readouterr().out.split())
    assert label in shown
    assert "pacs, training-domain validation" in shown
    assert "pacs, test-domain validation (oracle), last checkpoint" in shown
    assert "pacs, as SWAD's code prints it" in shown
    assert f"{label} + SWAD" in shown
    assert "Arithmetic \N{DAGGER}" not in shown, "only an average over data sets is known"
    assert "SWAD \N{DAGGER}" in shown
    assert "Not comparable with the quoted rows: model.name convnet instead of resnet50" in shown
    [plain], [swad] = collect(Path("out/plain")), collect(Path("out/swad"))
    assert [record["step"] for record in plain.records] == [0, 2, 4, 6]
    assert "raw_metrics" not in plain.records[-1]
    assert swad.records[-1]["raw_metrics"] == plain.records[-1]["metrics"]


def test_single_domains_are_tested_on_all_others(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchjd", reason="PCGrad comes from TorchJD")
    short = ["train.epochs=1", "sweep.trial=[0]", "sweep.held_out=[[cartoon, photo, sketch]]"]
    settings = ["--set", f"data.root={tree}", *SMALL, CONVNET, *short]
    assert run("single_domain/pacs", *settings) == 0, capsys.readouterr().err
    shown = " ".join(capsys.readouterr().out.split())
    assert "the evaluation of each run that is best on validation data, on each held-out domain" in shown
    assert "pacs, one training domain, validated on it: accuracy by training domain" in shown
    assert "Gradient equilibrium \N{DAGGER}" in shown
    results = [
        result for name in ("views", "randaugment", "baseline") for result in collect(Path("out", name))
    ]
    assert len(results) == 5
    for result in results:
        tested = {name for name in result.records[-1]["metrics"] if name.startswith("test/")}
        assert tested == {"test/cartoon", "test/photo", "test/sketch"}
        assert [record["epoch"] for record in result.records] == [0, 1]


# --- real images -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder pacs_mini among the shared data beside the repository"
)
def test_real_images_are_learned_from_scratch(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", f"data.root={REAL}", "device=cpu", "sweep.held_out=[photo]"]
    assert run("pacs_mini", *settings) == 0, capsys.readouterr().err
    results = collect(Path("out"))
    assert [result.label for result in results] == ["ERM", "SAM"]
    for result in results:
        before, *_, after = [record.get("raw_metrics") or record["metrics"] for record in result.records]
        trained = [name for name in after if name.startswith("val/")]
        assert len(trained) == 3

        def mean(scores: dict[str, dict[str, float]]) -> float:
            return sum(scores[name]["class/accuracy"] for name in trained) / len(trained)  # noqa: B023

        assert mean(after) > max(mean(before), 1 / 7) + 0.05, "no better than chance"
