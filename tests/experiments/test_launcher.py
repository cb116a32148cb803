"""Runs one by one and several at a time: the same numbers, and no run can spoil another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import DIGITS, apart, results, run, statuses, with_own_registry, without_report, write

from mtlsuite.experiments import launcher
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.launcher import Job
from mtlsuite.experiments.sweep import expand
from mtlsuite.experiments.yaml_file import dotted

PLUGIN = '''\
import torch

import mtlsuite as mtl


@mtl.register("solver", "inverse_loss")
class InverseLoss(mtl.Solver):
    """Weights each source by a power of its inverse loss, smoothed over steps."""

    stateful = ("average",)

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power, self.average = power, None

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        losses = oracle.losses()
        self.average = losses if self.average is None else self.average.lerp(losses, 0.1)
        weights = self.average.pow(-self.power)
        return mtl.Direction(oracle.pullback(weights), weights)


@mtl.register("wrapper", "shaky")
class Shaky(mtl.Wrapper):
    """Asks the solver inside at a random point nearby."""

    def __init__(self, inner: mtl.Solver, size: float = 0.01) -> None:
        super().__init__(inner)
        self.size = size

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        with oracle.moved(oracle.vector().normal_(generator=self.generator).mul_(self.size)) as there:
            return self.inner.direction(there)


@mtl.register("solver", "broken")
class Broken(mtl.Solver):
    """Works for a while."""

    stateful = ("steps",)
    steps = 0

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        self.steps += 1
        if self.steps > 3:
            raise RuntimeError("out of [luck]")
        return mtl.Direction(oracle.mean_gradient())
'''
STRANGE = {
    **DIGITS,
    "plugins": ["mine.py"],
    "sweep": {
        "solver": {
            "noisy": {"base": "famo", "wrap": [{"name": "sage", "gamma": 0.01}]},
            "broken": "broken",
            "strange": {"base": {"name": "inverse_loss", "power": 2.0}},
            "nested": {"base": "inverse_loss", "wrap": ["sage", {"name": "shaky", "size": 0.1}]},
            "around": {"base": "nash_mtl", "wrap": ["shaky", "sage", "shaky"]},
        }
    },
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_report(monkeypatch)
    with_own_registry(monkeypatch)


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return write(tmp_path / "strange.yaml", STRANGE)


def check_strange(out: Path) -> None:
    by_label = {status["label"]: status for status in statuses(out).values()}
    assert {label: status["status"] for label, status in by_label.items()} == {
        "noisy": "done",
        "broken": "failed",
        "strange": "done",
        "nested": "done",
        "around": "done",
    }
    assert by_label["broken"]["error"].endswith("RuntimeError: out of [luck]")
    assert "mine.py" in by_label["broken"]["traceback"], "the traceback leads to the stranger's line"


def test_plugins_nest_and_one_that_fails_stops_no_other(
    strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(strange, tmp_path / "out") == 1
    check_strange(tmp_path / "out")
    captured = capsys.readouterr()
    assert captured.err.startswith("mtlsuite: error: broken_")
    assert captured.err.count("\n") == 1
    assert "out of [luck]" in captured.out, "told when it happens"
    contents = list(results(tmp_path / "out").values())
    assert len(contents) == len(set(contents)) == 5, "the solvers differ"
    assert run(strange, tmp_path / "again") == 1
    assert results(tmp_path / "again") == results(tmp_path / "out")


@pytest.mark.slow
def test_two_at_a_time_are_the_same_to_the_byte(strange: Path, tmp_path: Path) -> None:
    assert run(strange, tmp_path / "one") == 1
    assert run(strange, tmp_path / "two", "--jobs", "2") == 1
    check_strange(tmp_path / "two")
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_an_orphan_stops(tmp_path: Path) -> None:
    config = write(tmp_path / "one.yaml", DIGITS)
    [experiment] = expand(read(config))
    job = Job(replace(experiment.runs[0], place=dotted), tmp_path / "run")
    nobody = os.getpid()  # not the parent of the process below
    process = apart(launcher._train_below, nobody, False, job)
    process.join()
    assert process.exitcode == 1
    assert statuses(tmp_path)["run"]["status"] == "running"
    again = launcher.train(job, True, lambda *_: None)
    assert again is None
    assert statuses(tmp_path)["run"]["status"] == "done"


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_starts_no_further_run(tmp_path: Path) -> None:
    long = {"train": {"steps": 10**6, "batch_size": 4}, "evaluation": {"every": 10}}
    config = write(tmp_path / "long.yaml", {**DIGITS, **long, "sweep": {"seed": [0, 1, 2, 3]}})
    out = tmp_path / "out"
    process = apart(_ctrl_c_after_a_while, str(config), str(out))
    try:
        process.join(60)
        assert process.exitcode == 130
    finally:
        process.kill()
    assert [status["status"] for status in statuses(out).values()] == ["running", "running"]


def _ctrl_c_after_a_while(config: str, out: str) -> None:
    """In a process group of its own, as a shell gives one to each command, and the keyboard signals it."""
    import sys
    import threading
    import time

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while len(results(Path(out))) < 2:
            time.sleep(0.05)
        os.killpg(0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    sys.exit(run(Path(config), Path(out), "--jobs", "2"))
