"""Profiles: what is in them, and that nothing else changes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import DIGITS, interrupted_after, results, run, run_folder, without_report, write

SWEEP = {"sweep": {"solver": ["nash_mtl", {"base": "equal", "wrap": ["sam"]}]}}
STEPS = {"train": {"steps": 8, "batch_size": 4}, "evaluation": {"every": 4}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_report(monkeypatch)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("config") / "two.yaml", {**DIGITS, **STEPS, **SWEEP})


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results without a profile."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        assert run(config, out) == 0
    assert not list(out.rglob("profile"))
    return results(out)


def ranges(folder: Path) -> list[dict[str, Any]]:
    """The ranges that were named, in a run's trace."""
    with gzip.open(folder / "profile" / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    return [event for event in events if event.get("cat") == "user_annotation"]


def counts(folder: Path) -> Counter[str]:
    return Counter(event["name"] for event in ranges(folder))


def test_ranges_of_the_steps_and_the_same_results(
    config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Steps 4 and 5 out of 1 ... 8, three of warm-up before them; an evaluation follows step 4."""
    assert run(config, tmp_path, "--profile", "2") == 0
    assert results(tmp_path) == whole
    for part, forwards in (("nash", 2), ("sam", 2)):  # a step: of each of two domains; of both, at two points
        found = counts(run_folder(tmp_path, part))
        assert found["batch"] == found["solver"] == found["optimizer"] == 2
        assert found["evaluation"] == 1
        assert found["forward"] >= 2 * forwards
        assert found["backward"] == 2 * forwards + 2  # those of the cosine in the evaluation
        named = {name: n for name, n in found.items() if name.startswith("forward of ")}
        assert set(named) == {"forward of 0", "forward of 15"} | (
            {"forward of 0, 15"} if part == "sam" else set()
        )
        assert sum(named.values()) == found["backward"]
    table = (run_folder(tmp_path, "nash") / "profile" / "operators.txt").read_text()
    assert "Self CPU" in table
    assert "Self CPU Mem" in table
    assert "aten::" in table


def test_ranges_are_nested(config: Path, tmp_path: Path) -> None:
    assert run(config, tmp_path, "--profile", "1") == 0
    found = {event["name"]: event for event in reversed(ranges(run_folder(tmp_path, "nash")))}
    solver = found["solver"]
    for name in ("forward", "optimizer"):
        assert solver["ts"] <= found[name]["ts"]
        assert found[name]["ts"] + found[name]["dur"] <= solver["ts"] + solver["dur"]
    assert found["batch"]["ts"] + found["batch"]["dur"] <= solver["ts"]
    assert found["forward"]["ts"] + found["forward"]["dur"] <= found["optimizer"]["ts"]


def test_five_steps_unless_said_otherwise(config: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert run(config, tmp_path, "--profile") == 0
    assert counts(run_folder(tmp_path, "nash"))["solver"] == 5
    assert results(tmp_path) == whole


def test_a_training_too_short_is_profiled_whole(
    config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert run(config, tmp_path, "--profile", "99") == 0
    assert counts(run_folder(tmp_path, "sam"))["solver"] == 8
    assert results(tmp_path) == whole


def test_after_an_interrupt_the_steps_that_are_left(
    config: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(patch, 5)
        assert run(config, tmp_path) == 130
    assert run(config, tmp_path, "--resume", "--profile", "3") == 0
    assert [counts(run_folder(tmp_path, part))["solver"] for part in ("nash", "sam")] == [3, 3]
    assert results(tmp_path) == whole


@pytest.mark.slow
def test_in_processes(config: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert run(config, tmp_path, "--jobs", "2", "--profile", "2") == 0
    assert [counts(run_folder(tmp_path, part))["solver"] for part in ("nash", "sam")] == [2, 2]
    assert results(tmp_path) == whole


def test_finished_runs_are_not_trained_for_a_profile(config: Path, tmp_path: Path) -> None:
    assert run(config, tmp_path) == 0
    assert run(config, tmp_path, "--profile") == 0
    assert not list(tmp_path.rglob("profile"))


def test_a_run_that_fails_leaves_the_trace_of_its_steps(config: Path, tmp_path: Path) -> None:
    diverging = ["--set", "optimizer={name: SGD, lr: 1.0e+30}", "sweep.solver=[equal]"]
    assert run(config, tmp_path, "--profile", "9", *diverging) == 1
    assert 0 < counts(run_folder(tmp_path, "equal"))["solver"] < 8


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_mistakes(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: str) -> None:
    assert run(config, tmp_path, "--profile", count) == 2
    assert f"found {count!r}; allowed: a number from 1 up" in capsys.readouterr().err
