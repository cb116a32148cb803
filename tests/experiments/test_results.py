"""Results on disk: whole or not at all, exact, and every corrupt file named."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from synthetic_runs import accuracy_on, write_run

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.results import ResultFile, collect, read_status, solver_label, write_status


def record(step: int, value: float = 0.5) -> dict[str, object]:
    return {"step": step, "losses": {"a": value}}


def test_what_is_appended_is_what_a_new_reader_finds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    file = ResultFile(path)
    values = [0.1 + 0.2, 1e-310, -0.0, math.pi * 1e300]
    for number, value in enumerate(values):
        file.append(record(number, value))
    read = ResultFile(path).records
    assert [r["losses"]["a"].hex() for r in read] == [value.hex() for value in values]
    assert len(path.read_text().splitlines()) == len(values)


def test_nan_and_infinities_round_trip(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "r.jsonl")
    file.append({"step": 1, "x": [math.nan, math.inf, -math.inf]})
    found = ResultFile(file.path).records[0]["x"]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf]


def test_truncate_keeps_the_checkpoint_step_and_what_came_before(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "r.jsonl")
    for step in (0, 100, 200, 300):
        file.append(record(step))
    file.truncate(100)
    assert [r["step"] for r in file.records] == [0, 100]
    assert [r["step"] for r in ResultFile(file.path).records] == [0, 100]
    file.append(record(200, 0.7))
    assert ResultFile(file.path).records[-1]["losses"]["a"] == 0.7


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'step': 2}", "not a line of JSON"),
        ('{"step": 2, "losses": {"a": 0.', "not a line of JSON"),
        ("", "not a line of JSON"),
        ("[2]", "mapping with an integer 'step'"),
        ('{"epoch": 2}', "mapping with an integer 'step'"),
        ('{"step": true}', "mapping with an integer 'step'"),
        ('{"step": 1}', "does not come after step 1"),
    ],
)
def test_a_corrupt_line_is_named_with_file_and_number(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UsageError, match=says) as error:
        ResultFile(path)
    assert f"{path}, line 2" in str(error.value)


def test_a_record_out_of_order_is_refused_and_not_written(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "r.jsonl")
    file.append(record(100))
    before = file.path.read_bytes()
    with pytest.raises(UsageError, match="step 100 does not come after step 100"):
        file.append(record(100))
    assert file.path.read_bytes() == before
    assert len(file.records) == 1


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = ResultFile(tmp_path / "r.jsonl")
    file.append(record(1))
    before = file.path.read_bytes()

    def crash(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, call, crash)
    with pytest.raises(OSError, match="disk is full"):
        file.append(record(2))
    assert file.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
    assert [r["step"] for r in file.records] == [1]


def test_the_new_content_is_on_disk_before_it_gets_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    atomic_write(tmp_path / "x", b"\x00\xff")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "x").read_bytes() == b"\x00\xff"


def test_status_says_what_was_written_and_new_without_a_file(tmp_path: Path) -> None:
    assert read_status(tmp_path) == {"status": "new"}
    write_status(tmp_path, "failed", error="NaN in source 'a'")
    assert read_status(tmp_path) == {"status": "failed", "error": "NaN in source 'a'"}
    with pytest.raises(UsageError, match="unknown status 'finished'"):
        write_status(tmp_path, "finished")
    (tmp_path / "status.json").write_text('{"status": "don')
    with pytest.raises(UsageError, match=r"status\.json, line 1"):
        read_status(tmp_path)


def test_collect_reads_every_run_in_natural_order(tmp_path: Path) -> None:
    write_run(tmp_path, "run-10", "B", [accuracy_on("x", 0.2)], seed=3, held_out=["x"], status="running")
    write_run(tmp_path, "run-2", "A", [accuracy_on("y", 0.1)], tasks=["class"], baseline=True)
    first, second = collect(tmp_path)
    assert (first.name, first.label, first.baseline, first.status) == ("run-2", "A", True, "done")
    assert (second.name, second.seed, second.held_out, second.tasks) == ("run-10", 3, ("x",), ("class",))
    assert first.finished
    assert not second.finished


def test_collect_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder 'runs'"):
        collect(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert collect(tmp_path) == []  # what a run leaves that was killed at its first write
    write_status(tmp_path / "runs" / "a", "running")
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        collect(tmp_path)


def test_final_is_the_mean_of_the_last_evaluations_without_the_untrained_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", "A", [accuracy_on("x", v) for v in (0.1, 0.2, 0.6)], average_last=2)
    (run,) = collect(tmp_path)
    assert run.final()["test/x"]["class/accuracy"] == pytest.approx(0.4)
    lines = (folder / "results.jsonl").read_text().splitlines()
    zero = {**json.loads(lines[0]), "step": 0}
    (folder / "results.jsonl").write_text(json.dumps(zero) + "\n" + lines[2] + "\n")
    (run,) = collect(tmp_path)
    assert run.final()["test/x"]["class/accuracy"] == 0.6


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("equal", "equal"),
        ({"base": "nash_mtl"}, "nash_mtl"),
        ({"name": "famo", "gamma": 0.1}, "famo"),
        ({"base": {"name": "equal"}, "wrap": [{"name": "sage", "rho": 0.1}, "disam"]}, "sage(disam(equal))"),
    ],
)
def test_label_of_a_solver_reads_from_the_outside_in(spec: object, label: str) -> None:
    assert solver_label(spec) == label
