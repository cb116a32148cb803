"""A killed run goes on to the numbers of an uninterrupted one, byte for byte, wherever it was killed."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import (
    DIGITS,
    VIEWS,
    results,
    run,
    run_folder,
    scenes,
    start,
    statuses,
    with_own_registry,
    without_report,
    write,
)

from mtlsuite.experiments.trainer import CHECKPOINT

DROPOUT = """\
import torch

import mtlsuite as mtl
from mtlsuite.models import MLP


@mtl.register("model", "dropout")
class Dropout(MLP):
    def forward(self, inputs):
        return super().forward(torch.nn.functional.dropout(inputs, training=self.training))
"""
NOISY = {"base": "famo", "wrap": [{"name": "sage", "gamma": 0.01}]}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def children(pid: int | None) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    if not found.exists():
        pytest.skip("needs Linux's list of child processes")
    return [int(child) for child in found.read_text().split()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def all_kinds(cache: Path, steps: int = 4) -> dict[str, Any]:
    length = {"train": {"steps": steps, "batch_size": 4}}
    solvers = {"solver": [{"base": "equal", "wrap": ["sage"]}, NOISY]}
    epochs = {"scheduler": {"name": "CosineAnnealingLR", "T_max": 5}, "optimizer": {"name": "AdamW"}}
    return {
        "name": "kinds",
        "experiments": {
            "digits": {**DIGITS, **length, "sweep": solvers},
            "views": {**VIEWS, **length},
            "grid": {**scenes(cache), "train": {"epochs": steps // 2, "batch_size": 4}, **epochs}
            | {"evaluation": {"every": 1}},
        },
    }


@pytest.mark.parametrize("renamed", [False, True], ids=["before the rename", "after the rename"])
def test_killed_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool) -> None:
    with_own_registry(monkeypatch)
    momentum = {"optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.9}}
    schedule = {"scheduler": {"name": "StepLR", "step_size": 1, "interval": "step"}}
    (tmp_path / "dropout.py").write_text(DROPOUT)
    model = {"plugins": ["dropout.py"], "model": {"name": "dropout"}}
    config = write(tmp_path / "one.yaml", {**DIGITS, **model, **momentum, **schedule, "solver": NOISY})
    assert run(config, tmp_path / "whole") == 0
    whole = results(tmp_path / "whole")
    assert [len(text.splitlines()) for text in whole.values()] == [3]
    for count in itertools.count():
        out = tmp_path / f"killed-{count}"
        process = start([str(config), "--out", str(out)], dies_at=count, renamed=renamed)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert run(config, out, "--resume") == 0
        assert results(out) == whole, f"killed at write {count}"
        assert [status["status"] for status in statuses(out).values()] == ["done"]
    # the config of all; config, status, three times records, seconds and checkpoint, status
    assert count == 1 + 2 + 3 * 3 + 1


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again(tmp_path: Path, cache: Path) -> None:
    config = write(tmp_path / "kinds.yaml", all_kinds(cache, steps=20))
    begin = time.perf_counter()
    assert run(config, tmp_path / "whole") == 0
    duration = time.perf_counter() - begin
    whole, draw = results(tmp_path / "whole"), random.Random(7)
    assert len(whole) == 4
    out, kills = tmp_path / "killed", 0
    for attempt in range(8):
        process = start([str(config), "--out", str(out), *(["--resume"] if attempt else [])])
        process.join(draw.uniform(0.1, 0.5) * duration)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 1
    assert run(config, out, "--resume") == 0
    assert results(out) == whole
    assert all(status["status"] == "done" for status in statuses(out).values())


def test_evaluations_leave_the_training_alone(tmp_path: Path, cache: Path) -> None:
    """So a checkpoint may be taken at any of them."""
    config = write(tmp_path / "grid.yaml", scenes(cache) | {"train": {"steps": 4, "batch_size": 4}})
    assert run(config, tmp_path / "often", "--set", "evaluation.every=1") == 0
    assert run(config, tmp_path / "once") == 0
    states = [torch.load(run_folder(tmp_path / name, "nash") / CHECKPOINT) for name in ("often", "once")]
    for key, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][key]), key
    assert torch.equal(states[0]["rng"][0]["cpu"], states[1]["rng"][0]["cpu"])


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along(tmp_path: Path) -> None:
    config = write(
        tmp_path / "three.yaml",
        {**DIGITS, "train": {"steps": 500, "batch_size": 4}, "evaluation": {"every": 20}}
        | {"sweep": {"solver": ["equal", "famo", NOISY]}},
    )
    out = tmp_path / "out"
    process = start([str(config), "--out", str(out), "--jobs", "2"])
    wait_for(lambda: any(text.count(b"\n") > 1 for text in results(out).values()))
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.join()
    assert "running" in [status["status"] for status in statuses(out).values()]
    assert run(config, out, "--resume") == 0  # at once, while workers may still be about to stop
    wait_for(lambda: not any(map(alive, workers)))
    assert run(config, tmp_path / "whole") == 0
    assert results(out) == results(tmp_path / "whole")
