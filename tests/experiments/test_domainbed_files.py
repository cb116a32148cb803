"""To DomainBed's records and back: a reader written from its description reads what we export."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import DIGITS, error_message, run, without_report, write

from mtlsuite import cli
from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.domainbed_files import export, search_tables, sweep_tables
from mtlsuite.experiments.domainbed_records import DATASETS, published_environments
from mtlsuite.experiments.results import write_status
from mtlsuite.experiments.tables import Cell

DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


def collected(folder: Path) -> dict[tuple[str, str, str, int], tuple[float, float]]:
    """What collect_results prints: (selection, data set, algorithm, environment) -> percent, its error.

    Every folder's results.jsonl is read line by line. For each trial, data set, algorithm and environment
    held out alone: each hyperparameter seed is worth its best checkpoint by mean out-accuracy of the others
    (IID), or its last one by the environment's own out-accuracy (oracle); of the seeds, the best one's
    in-accuracy counts. Over trials: mean, and population deviation over sqrt(n).
    """
    records = []
    for name in sorted(os.listdir(folder)):
        with open(folder / name / "results.jsonl") as file:
            records += [json.loads(line[:-1]) for line in file]
    assert all((folder / name / "done").exists() for name in os.listdir(folder))
    groups: Any = defaultdict(lambda: defaultdict(list))
    for record in records:
        args = record["args"]
        for env in args["test_envs"]:
            key = (args["dataset"], args["algorithm"], env, args["trial_seed"])
            groups[key][args["hparams_seed"]].append(record)
    accuracies: Any = defaultdict(list)
    for (dataset, algorithm, env, _), seeds in groups.items():
        iid, last = [], []
        for found in seeds.values():
            found = [record for record in found if len(record["args"]["test_envs"]) == 1]
            if found:
                count = sum(f"env{i}_out_acc" in found[0] for i in range(10))
                others = [f"env{i}_out_acc" for i in range(count) if i != env]
                points = [(sum(r[k] for k in others) / len(others), r[f"env{env}_in_acc"]) for r in found]
                iid.append(max(points, key=lambda point: point[0]))
                final = max(found, key=lambda r: r["step"])
                last.append((final[f"env{env}_out_acc"], final[f"env{env}_in_acc"]))
        for name, points in (("IID", iid), ("oracle", last)):
            if points:
                accuracies[name, dataset, algorithm, env].append(max(points)[1])
    return {
        key: (100 * statistics.mean(values), 100 * statistics.pstdev(values) / math.sqrt(len(values)))
        for key, values in accuracies.items()
    }


def measured(held_out: str, base: float) -> dict[str, Any]:
    """The metrics of a record: every accuracy another number."""
    accuracies = {}
    for number, domain in enumerate(DOMAINS):
        accuracies[f"in/{domain}"] = base + 0.01 * number
        if domain == held_out:
            accuracies[f"out/{domain}"] = base + 0.02 * number
            accuracies[f"test/{domain}"] = 0.123
        else:
            accuracies[f"val/{domain}"] = base + 0.03 * number
    return {split: {"class/accuracy": value, "class/loss": 9.0} for split, value in accuracies.items()}


def write_job(
    out: Path,
    held_out: str,
    bases: list[float],
    algorithm: str = "ERM",
    hparams_seed: int = 0,
    trial: int = 0,
    status: str = "done",
    search: bool = True,
    drop: str = "",
) -> Path:
    """A run of ours on PACS, evaluated before training and then at steps 100, 200, ..."""
    folder = out / "runs" / f"{algorithm}-{hparams_seed}_{held_out}_{trial}"
    folder.mkdir(parents=True)
    config = {
        "label": f"{algorithm} hparams={hparams_seed}" if search else algorithm,
        "data": {"name": "pacs", "holdout_fraction": 0.2, "trial_seed": trial},
        "model": {"name": "mlp", "dropout": 0.1},
        "optimizer": {"name": "Adam", "lr": 1e-4, "weight_decay": 1e-3},
        "train": {"steps": 100 * len(bases), "batch_size": 20},
        "solver": {"base": {"name": "famo", "gamma": 0.5}, "wrap": []},
        "held_out": [held_out],
        "seed": 77 if search else trial,
        "tasks": ["class"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines, timing = [], []
    for number, base in enumerate([0.0, *bases]):
        metrics = {k: v for k, v in measured(held_out, base).items() if k != drop}
        losses = {"a": 1.0 * number, "b": 2.0 * number} if number else None
        lines.append({"step": 100 * number, "epoch": 0.5 * number, "losses": losses, "metrics": metrics})
        timing.append({"step": 100 * number, "training_seconds": 25.0})
    for name, content in (("results.jsonl", lines), ("timing.jsonl", timing)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in content))
    point = {"algorithm": algorithm, "hparams_seed": hparams_seed, "trial": trial}
    write_status(folder, status, label=config["label"], **({"search": point} if search else {}))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two algorithms; ERM with two hyperparameter seeds, two trials and two held-out domains."""
    out = tmp_path / "ours"
    for held_out in ("cartoon", "sketch"):
        for trial in (0, 1):
            write_job(out, held_out, [0.3, 0.5 + 0.1 * trial, 0.4], trial=trial)
            write_job(out, held_out, [0.2, 0.6 - 0.05 * trial], hparams_seed=1, trial=trial)
    write_job(out, "cartoon", [0.7], "SAGE")
    write_job(out, "photo", [0.9], "SAGE", status="failed")
    return out


def test_names_of_data_sets_and_order_of_environments() -> None:
    assert DATASETS == {
        "pacs": "PACS",
        "vlcs": "VLCS",
        "office_home": "OfficeHome",
        "terra_incognita": "TerraIncognita",
        "domain_net": "DomainNet",
        "rotated_mnist": "RotatedMNIST",
        "colored_mnist": "ColoredMNIST",
    }
    assert published_environments("PACS") == list(DOMAINS)
    assert published_environments("ColoredMNIST") == ["0.1", "0.2", "0.9"], "+90%, +80%, -90%"
    assert published_environments("SVIRO") == []


def test_a_record(tmp_path: Path) -> None:
    write_job(tmp_path / "ours", "photo", [0.4, 0.5], "SAGE", hparams_seed=3, trial=2)
    [job] = export(tmp_path / "ours", tmp_path / "theirs")
    assert (job / "done").read_bytes() == b""
    first, second = (json.loads(line) for line in (job / "results.jsonl").read_text().splitlines())
    assert (first["step"], second["step"]) == (100, 200), "none before training"
    assert first["epoch"] == 0.5
    assert first["loss"] == pytest.approx(1.5)
    assert first["step_time"] == pytest.approx(0.25)
    assert math.isnan(first["mem_gb"])
    assert {key: value for key, value in first.items() if key.endswith("_acc")} == {
        "env0_in_acc": 0.4, "env1_in_acc": pytest.approx(0.41), "env2_in_acc": pytest.approx(0.42),
        "env3_in_acc": pytest.approx(0.43), "env0_out_acc": 0.4, "env1_out_acc": pytest.approx(0.43),
        "env2_out_acc": pytest.approx(0.44), "env3_out_acc": pytest.approx(0.49),
    }  # fmt: skip
    assert first["args"] == {
        "algorithm": "SAGE",
        "dataset": "PACS",
        "hparams_seed": 3,
        "holdout_fraction": 0.2,
        "output_dir": str(job),
        "seed": 77,
        "steps": 200,
        "task": "domain_generalization",
        "test_envs": [2],
        "trial_seed": 2,
        "uda_holdout_fraction": 0,
    }
    hparams = first["hparams"]
    assert {key: hparams[key] for key in ("lr", "weight_decay", "batch_size", "resnet_dropout")} == {
        "lr": 1e-4,
        "weight_decay": 1e-3,
        "batch_size": 20,
        "resnet_dropout": 0.1,
    }
    assert hparams["solver.base.gamma"] == 0.5


def test_collect_results_reads_what_we_export(sweep: Path, tmp_path: Path) -> None:
    jobs = export(sweep, tmp_path / "theirs")
    assert len(jobs) == 9, "one failed"
    found = collected(tmp_path / "theirs")
    # cartoon, seed 0: best checkpoint 0.5 (trial 0) and 0.6; seed 1: 0.6 and 0.55; + 0.01 for environment 1
    assert found["IID", "PACS", "ERM", 1] == (pytest.approx(61), pytest.approx(0))
    # at the last checkpoint, seed 0: 0.4 and 0.4, seed 1: 0.6 and 0.55
    mean, error = found["oracle", "PACS", "ERM", 1]
    assert mean == pytest.approx((61 + 56) / 2)
    assert error == pytest.approx(2.5 / math.sqrt(2)), "population deviation 2.5"
    assert found["IID", "PACS", "SAGE", 1] == (pytest.approx(71), 0)
    assert set(found) == {
        (way, "PACS", *job) for way in ("IID", "oracle") for job in (("ERM", 1), ("ERM", 3), ("SAGE", 1))
    }


def test_our_tables_say_what_theirs_say(sweep: Path, tmp_path: Path) -> None:
    export(sweep, tmp_path / "theirs")
    expected = collected(tmp_path / "theirs")
    tables, unfinished = sweep_tables(tmp_path / "theirs")
    assert not unfinished
    assert [table.title.partition(":")[0] for table in tables] == [
        "PACS, training-domain validation",
        "PACS, test-domain validation (oracle), last checkpoint",
        "PACS, test-domain validation (oracle), best checkpoint",
    ]
    assert [row.label for row in tables[0].rows] == ["ERM", "SAGE"]
    names = ["cartoon", "sketch", "mean", "worst"]
    assert [column.name for column in tables[0].columns] == names, "held out"
    shown = 0
    for way, table in zip(("IID", "oracle"), tables[:2], strict=True):
        for row in table.rows:
            for env, cell in zip((1, 3), row.cells[:-2], strict=True):
                theirs = expected.get((way, "PACS", row.label, env))
                assert (cell is None) == (theirs is None)
                if cell is not None and theirs is not None:
                    shown += 1
                    assert cell.mean == pytest.approx(theirs[0])
                    if cell.stderr is not None:
                        assert cell.stderr * math.sqrt((cell.n - 1) / cell.n) == pytest.approx(theirs[1])
    assert shown == 6


def test_tables_of_our_own_folder_are_the_same(sweep: Path, tmp_path: Path) -> None:
    """There, only the four domains of these runs are known, and the data set has our name."""
    export(sweep, tmp_path / "theirs")
    theirs, _ = sweep_tables(tmp_path / "theirs")
    ours = search_tables(sweep)
    assert [table.rows for table in ours] == [table.rows for table in theirs]
    assert ours[0].title.startswith("pacs, training-domain")


def test_runs_outside_a_search_are_trials_by_their_seeds(tmp_path: Path) -> None:
    for seed in (0, 5):
        write_job(tmp_path / "ours", "photo", [0.5], trial=seed, search=False)
    found = [
        json.loads((job / "results.jsonl").read_text())["args"]
        for job in export(tmp_path / "ours", tmp_path / "t")
    ]
    assert [(args["trial_seed"], args["hparams_seed"], args["algorithm"]) for args in found] == [
        (0, 0, "ERM"),
        (5, 0, "ERM"),
    ]


def test_experiments_of_one_folder(tmp_path: Path) -> None:
    write_job(tmp_path / "ours" / "one", "photo", [0.5])
    write_job(tmp_path / "ours" / "two", "sketch", [0.5])
    assert [job.name for job in export(tmp_path / "ours", tmp_path / "theirs")] == [
        "one_ERM-0_photo_0",
        "two_ERM-0_sketch_0",
    ]


@pytest.mark.parametrize(
    ("drop", "part"),
    [
        ("in/photo", "no accuracy on the in-split of the domain 'photo' (in/photo)"),
        ("out/photo", "no accuracy on the out-split of the domain 'photo'"),
        ("val/cartoon", "no accuracy on the out-split of the domain 'cartoon' (out/cartoon)"),
    ],
)
def test_what_was_not_measured_is_not_made_up(tmp_path: Path, drop: str, part: str) -> None:
    folder = write_job(tmp_path / "ours", "photo", [0.5], drop=drop)
    with pytest.raises(UsageError) as caught:
        export(tmp_path / "ours", tmp_path / "theirs")
    assert part in caught.value.message
    assert caught.value.message.startswith(f"{folder}: ")
    assert not (tmp_path / "theirs").exists()


def test_our_tables_can_do_with_the_whole_held_out_domain(tmp_path: Path) -> None:
    """Where its in-split was not measured, what the run calls the test of the domain is reported."""
    write_job(tmp_path / "ours", "photo", [0.5], drop="in/photo")
    for table in search_tables(tmp_path / "ours"):
        assert table.rows[0].cells[0] == Cell(pytest.approx(12.3), None, 1)


def test_training_domains_may_lack_their_in_split(tmp_path: Path) -> None:
    write_job(tmp_path / "ours", "photo", [0.5], drop="in/cartoon")
    [job] = export(tmp_path / "ours", tmp_path / "theirs")
    record = json.loads((job / "results.jsonl").read_text())
    assert "env1_in_acc" not in record
    assert "env1_out_acc" in record


def test_refused_exports(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no results"):
        export(tmp_path / "nothing", tmp_path / "theirs")
    write_job(tmp_path / "ours", "photo", [0.5], status="failed")
    with pytest.raises(UsageError, match="no finished run with held-out domains"):
        export(tmp_path / "ours", tmp_path / "theirs")
    write_job(tmp_path / "two" / "a", "photo", [0.5])
    write_job(tmp_path / "two" / "b", "photo", [0.6])
    with pytest.raises(UsageError, match="would be one job for DomainBed: algorithm ERM, dataset PACS"):
        export(tmp_path / "two", tmp_path / "theirs")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="is not empty"):
        export(tmp_path / "two" / "a", tmp_path / "full")


def test_jobs_that_are_not_done_are_named(sweep: Path, tmp_path: Path) -> None:
    job, *_ = export(sweep, tmp_path / "theirs")
    (job / "done").unlink()
    _, unfinished = sweep_tables(tmp_path / "theirs")
    assert unfinished == [job.name]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"step": 1}\n', "results.jsonl, line 1: not a record of DomainBed: no args.algorithm"),
        ("", "no records"),
        ("{\n", "line 1: not a line of JSON"),
        (None, "is done, but has no results.jsonl"),
    ],
)
def test_folders_that_are_not_domainbeds(tmp_path: Path, content: str | None, part: str) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "done").touch()
    if content is not None:
        (tmp_path / "job" / "results.jsonl").write_text(content)
    with pytest.raises(UsageError) as caught:
        sweep_tables(tmp_path)
    assert part in caught.value.message


def test_no_job_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished job of DomainBed"):
        sweep_tables(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        sweep_tables(tmp_path / "none")


# --- commands -------------------------------------------------------------------------------------------


def test_commands(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = str(tmp_path / "theirs")
    assert cli.main(["export", "domainbed", str(sweep), "--out", theirs, "--dataset", "VLCS"]) == 0
    assert "9 jobs in" in capsys.readouterr().out
    assert cli.main(["table", "--from-domainbed", theirs, "--out", str(tmp_path / "tables")]) == 0
    out = capsys.readouterr().out
    assert "VLCS, training-domain validation" in out
    assert "LabelMe" in out
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"table.md", "table.csv", "table.tex"}
    assert cli.main(["table", str(sweep)]) == 0
    assert "61.0 ± 0.0" in capsys.readouterr().out
    for words in (["table"], ["table", str(sweep), "--from-domainbed", theirs]):
        assert cli.main(words) == 2
        assert "exactly one of DIR and --from-domainbed" in error_message(capsys)
    assert cli.main(["export", "libmtl", str(sweep)]) == 2
    assert cli.main(["export", "domainbed", str(tmp_path / "none"), "--out", theirs]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_a_search_from_yaml_to_its_selection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_report(monkeypatch)
    hparams = {"seeds": [0, 1], "distributions": {"optimizer.lr": {"log10_uniform": [-3, -1]}}}
    values = {key: value for key, value in DIGITS.items() if key != "held_out"}
    values["sweep"] = {"hparams": hparams, "trial": [0, 1], "held_out": ["0", "30"]}
    out = tmp_path / "out"
    assert run(write(tmp_path / "search.yaml", values), out) == 0
    assert "rotated_digits, training-domain validation" in " ".join(capsys.readouterr().out.split())
    [table] = search_tables(out)
    assert [column.name for column in table.columns] == ["0", "30", "mean", "worst"]
    [row] = table.rows
    assert [cell and cell.n for cell in row.cells] == [2, 2, 1, 2]
    assert (out / "selection.md").read_text().startswith("# out\n\n## rotated")
    assert cli.main(["export", "domainbed", str(out), "--out", str(tmp_path / "theirs")]) == 2
    assert "no accuracy on the in-split of the domain" in error_message(capsys)
