"""Is a run that is not done running or interrupted? Asked of processes that live, died, or are elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import DIGITS, error_message, run, run_folder, without_report, write

from mtlsuite.experiments import liveness
from mtlsuite.experiments.liveness import beating, mark, state
from mtlsuite.experiments.results import STATUS, read_status, write_status


def test_states(tmp_path: Path) -> None:
    assert state(tmp_path) == "missing"
    write_status(tmp_path, "running", **mark())
    assert state(tmp_path) == "running"
    write_status(tmp_path, "running")
    assert state(tmp_path) == "interrupted", "by Ctrl-C, and the process lived on"
    for word in ("done", "failed"):
        write_status(tmp_path, word)
        assert state(tmp_path) == word


def test_a_process_that_died(tmp_path: Path) -> None:
    program = "from mtlsuite.experiments import liveness, results; import pathlib, sys;"
    program += "results.write_status(pathlib.Path(sys.argv[1]), 'running', **liveness.mark()); input()"
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        while not (tmp_path / STATUS).exists():
            assert process.poll() is None
            time.sleep(0.02)
        assert state(tmp_path) == "running"
        process.kill()
        time.sleep(0.2)
        assert state(tmp_path) == "interrupted", "a dead process that nobody has waited for"
    assert state(tmp_path) == "interrupted"


def test_another_process_has_the_number_now(tmp_path: Path) -> None:
    if not mark()["started"]:
        pytest.skip("this system does not tell when a process started")
    write_status(tmp_path, "running", **{**mark(), "started": "1"})
    assert state(tmp_path) == "interrupted"


def test_another_machine_is_believed_as_long_as_it_gives_signs_of_life(tmp_path: Path) -> None:
    write_status(tmp_path, "running", **{**mark(), "host": "elsewhere", "pid": 1})
    assert state(tmp_path) == "running"
    then = time.time() - liveness.SILENCE - 1
    os.utime(tmp_path / STATUS, (then, then))
    assert state(tmp_path) == "interrupted"


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT", 0.01)
    write_status(tmp_path, "running", **mark())
    os.utime(tmp_path / STATUS, (1, 1))
    with beating(tmp_path):
        while (tmp_path / STATUS).stat().st_mtime < 2:
            time.sleep(0.01)
    os.utime(tmp_path / STATUS, (1, 1))
    time.sleep(0.1)
    assert (tmp_path / STATUS).stat().st_mtime == 1, "no further ones"


def test_a_run_is_not_trained_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_report(monkeypatch)
    monkeypatch.setattr("mtlsuite.experiments.runner._PATIENCE", 0.1)
    config, out = write(tmp_path / "one.yaml", DIGITS), tmp_path / "out"
    assert run(config, out) == 0
    folder = run_folder(out, "equal")
    assert "pid" not in read_status(folder)
    write_status(folder, "running", **mark())
    for options in ([], ["--resume"]):
        capsys.readouterr()
        assert run(config, out, *options) == 2
        assert "is being trained by another process" in error_message(capsys)
    write_status(folder, "running", **{**mark(), "pid": 2**22 + 1})
    assert run(config, out, "--resume") == 0
