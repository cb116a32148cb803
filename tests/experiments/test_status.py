"""``mtlsuite status``: every run of a config by what became of it, also while others are training."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import DIGITS, error_message, run, start, write

from mtlsuite import cli
from mtlsuite.experiments import runner
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.liveness import mark
from mtlsuite.experiments.out_folder import check_folder
from mtlsuite.experiments.results import STATUS, write_status
from mtlsuite.experiments.status import statuses
from mtlsuite.experiments.sweep import expand


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of results of six runs, none of which has begun."""
    seeds = {"seed": list(range(6))}
    file = read(write(tmp_path / "six.yaml", {**DIGITS, "train": {"steps": 300}, "sweep": seeds}))
    check_folder(tmp_path / "out", file)
    return tmp_path / "out"


def folders(out: Path) -> list[Path]:
    [experiment] = expand(read(out / "config.yaml"))
    return [runner.run_folder(out, run) for run in experiment.runs]


def shown(out: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert cli.main(["status", str(out)]) == code
    return capsys.readouterr().out


def test_a_row_a_run_and_counts(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, dead, gone, going, broken, _ = folders(out)
    write_status(done, "done")
    (done / "results.jsonl").write_text('{"step": 0, "metrics": {}}\n{"step": 300, "metrics": {}}\n')
    write_status(dead, "running", **{**mark(), "pid": 2**22 + 1})
    write_status(gone, "running")
    write_status(going, "running", **mark())
    write_status(broken, "failed", error=f"{broken.name}: RuntimeError: no luck\nat all")
    (broken / "results.jsonl").write_text('{"step": 100, "metrics": {}}\n')
    text = shown(out, capsys, 1)
    assert f"{out}: 1 done, 1 running, 1 failed, 2 interrupted, 1 missing" in " ".join(text.split())
    rows = [line for line in text.splitlines() if "seed-" in line]
    words = ("done", "interrupted", "interrupted", "running", "failed", "missing")
    assert len(rows) == 6
    for row, word in zip(rows, words, strict=True):
        assert f" {word} " in row
    assert "300 of 300" in rows[0]
    assert "100 of 300" in rows[4]
    assert "RuntimeError: no luck" in rows[4]
    assert "at all" not in text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["done"] * 6, 0),
        (["done"] * 5, 3),
        (["done"] * 5 + ["running"], 3),
        (["done"] * 4 + ["running", "failed"], 1),
        ([], 3),
    ],
)
def test_exit_codes(out: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int) -> None:
    for folder, word in zip(folders(out), words, strict=False):
        write_status(folder, word, **(mark() if word == "running" else {}))
    shown(out, capsys, code)


def test_experiments_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = read(write(tmp_path / "two.yaml", {"experiments": {"first": DIGITS, "second": DIGITS}}))
    check_folder(tmp_path / "out", file)
    text = shown(tmp_path / "out", capsys, 3)
    assert "first" in text
    assert "second" in text


def test_what_is_no_folder_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "is not a folder of results: it has no config.yaml" in error_message(capsys)
    assert cli.main(["status"]) == 2


def test_while_a_run_is_going_and_after_it_was_killed(tmp_path: Path) -> None:
    endless = {**DIGITS, "train": {"steps": 10**6, "batch_size": 4}, "evaluation": {"every": 1}}
    config, out = write(tmp_path / "endless.yaml", endless), tmp_path / "out"
    process = start([str(config), "--out", str(out)])
    try:
        while not any(out.glob("runs/*/results.jsonl")):
            assert process.is_alive()
        assert any(out.glob(f"runs/*/{STATUS}"))
        [status] = statuses(out)
        assert status.state == "running"
        assert status.step is not None
    finally:
        process.kill()
        process.join()
    [status] = statuses(out)
    assert status.state == "interrupted"
    assert run(config, out) == 2
