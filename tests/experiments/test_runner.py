"""From a YAML file to results: what runs again and what does not, and what every mistake says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import (
    DIGITS,
    error_message,
    results,
    run,
    run_folder,
    scenes,
    statuses,
    with_own_registry,
    without_report,
    write,
)

from mtlsuite import cli
from mtlsuite.core.registry import registered
from mtlsuite.experiments import launcher
from mtlsuite.experiments.trainer import CHECKPOINT, Trainer

SOLVERS = {"ERM": "equal", "SAGE": {"base": "famo", "wrap": ["sage"]}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_report(monkeypatch)
    with_own_registry(monkeypatch)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the runs that were trained, in order."""
    labels: list[str] = []
    original = Trainer.run

    def run(self: Trainer, *arguments: Any) -> None:
        labels.append(str(self.config.label))
        original(self, *arguments)

    monkeypatch.setattr(Trainer, "run", run)
    return labels


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    """Runs a config and interrupts it (Ctrl-C) after the evaluation at step 2 of the first run."""

    def interrupt(config: Path, out: Path) -> None:
        def press(_: object, step: int, __: int) -> None:
            if step == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(launcher, "_show", lambda progress, _, step, steps: press(progress, step, steps))
            assert run(config, out) == 130

    return interrupt


def stamps(out: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.glob("**/runs/**/*")}


# --- what runs again ------------------------------------------------------------------------------------


def test_finished_runs_are_not_run_again_and_a_grown_sweep_runs_what_is_new(
    tmp_path: Path, trained: list[str]
) -> None:
    out = tmp_path / "out"
    config = write(tmp_path / "small.yaml", {**DIGITS, "sweep": {"solver": SOLVERS}})
    assert run(config, out) == 0
    assert trained == ["ERM", "SAGE"]
    before = stamps(out)
    assert run(config, out) == 0
    assert run(config, out, "--resume") == 0
    assert trained == ["ERM", "SAGE"]
    assert stamps(out) == before
    grown = {"solver": {"SAM": {"base": "equal", "wrap": ["sam"]}, **SOLVERS}}
    assert run(write(tmp_path / "small.yaml", {**DIGITS, "sweep": grown}), out) == 0
    assert trained == ["ERM", "SAGE", "SAM"]
    assert stamps(out).items() >= before.items()
    assert len(results(out)) == 3


def test_an_interrupted_run_wants_resume_and_loses_nothing(
    tmp_path: Path,
    interrupted: Callable[[Path, Path], None],
    trained: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    config = write(tmp_path / "two.yaml", {**DIGITS, "sweep": {"solver": SOLVERS}})
    interrupted(config, out)
    [(name, text)] = results(out).items()
    assert text.count(b"\n") == 2
    capsys.readouterr()
    before = stamps(out)
    assert run(config, out) == 2
    error = error_message(capsys)
    assert all(part in error for part in (str(out / name), "was interrupted", "--resume"))
    assert stamps(out) == before
    assert run(config, out, "--resume") == 0
    assert trained == ["ERM", "ERM", "SAGE"]
    assert results(out)[name].startswith(text)
    assert run(config, tmp_path / "whole") == 0
    assert results(out) == results(tmp_path / "whole")


@pytest.mark.parametrize("keep", [0, 1000, -1], ids=["empty", "cut", "last byte lost"])
def test_a_truncated_checkpoint_is_named(
    tmp_path: Path,
    interrupted: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
    keep: int,
) -> None:
    out = tmp_path / "out"
    config = write(tmp_path / "one.yaml", {**DIGITS, "sweep": {"solver": SOLVERS}})
    interrupted(config, out)
    checkpoint = run_folder(out, "ERM") / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    before = stamps(out)
    capsys.readouterr()
    assert run(config, out, "--resume") == 2
    error = error_message(capsys)
    assert str(checkpoint) in error
    assert "truncated" in error
    assert error.count("\n") == 1
    assert stamps(out) == before, "nothing trained, nothing lost"


@pytest.mark.parametrize("content", [{"step": 1}, [1, 2], torch.zeros(3)])
def test_a_checkpoint_of_something_else(
    tmp_path: Path,
    interrupted: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
    content: object,
) -> None:
    config = write(tmp_path / "one.yaml", DIGITS)
    interrupted(config, tmp_path / "out")
    torch.save(content, run_folder(tmp_path / "out", "equal") / CHECKPOINT)
    capsys.readouterr()
    assert run(config, tmp_path / "out", "--resume") == 2
    assert "not a checkpoint of mtlsuite" in error_message(capsys)


def test_a_folder_of_another_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path / "one.yaml", DIGITS)
    assert run(config, tmp_path / "out") == 0
    before = stamps(tmp_path / "out")
    capsys.readouterr()
    assert run(config, tmp_path / "out", "--resume", "--set", "model.width=9") == 2
    error = error_message(capsys)
    assert "holds the results of another config" in error
    assert "model.width: 8 there, 9 wanted" in error
    assert stamps(tmp_path / "out") == before
    assert run(config, tmp_path / "out") == 0, "and it still takes its own"


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "one.yaml", DIGITS)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/mtlsuite")):
        assert run(config, out) == 2
        assert f"cannot write results to {out}" in error_message(capsys)
    assert not trained


def test_threads_are_those_of_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    original = Trainer._train

    def train(self: Trainer, *arguments: Any) -> None:
        found.append(torch.get_num_threads())
        original(self, *arguments)

    monkeypatch.setattr(Trainer, "_train", train)
    several = {"three": {**DIGITS, "threads": 3}, "any": {**DIGITS, "threads": None}}
    before = torch.get_num_threads()
    assert run(write(tmp_path / "threads.yaml", {"experiments": several}), tmp_path / "out") == 0
    assert found == [3, before]
    assert torch.get_num_threads() == before


# --- runs that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"optimizer.lr": [1.0e30, 1.0e-3]}, "NonFiniteError"),
        (
            {"solver": {"one": {"base": {"name": "famo", "min_losses": [9, 9]}}, "other": "equal"}},
            "UsageError",
        ),
    ],
)
def test_a_failed_run_stops_no_other_and_is_tried_again(
    tmp_path: Path,
    trained: list[str],
    capsys: pytest.CaptureFixture[str],
    broken: dict[str, Any],
    error: str,
) -> None:
    out = tmp_path / "out"
    config = write(tmp_path / "two.yaml", {**DIGITS, "sweep": broken})
    assert run(config, out) == 1
    assert error in error_message(capsys)
    first, second = statuses(out).values()
    failed, done = (first, second) if first["status"] == "failed" else (second, first)
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert error in failed["error"]
    assert failed["traceback"].startswith("Traceback")
    assert len(trained) == 2
    assert run(config, out) == 2
    assert "failed earlier; add --resume" in error_message(capsys)
    assert run(config, out, "--resume") == 1
    assert trained[2:] == trained[:1], "only the failed one"


MODELS = """\
import torch

import mtlsuite as mtl
from mtlsuite.models import MLP


@mtl.register("model", "detached")
class Detached(MLP):
    def forward(self, inputs):
        return {task: value.detach() for task, value in super().forward(inputs).items()}


@mtl.register("model", "nan")
class Nan(MLP):
    def forward(self, inputs):
        return {task: value * torch.nan for task, value in super().forward(inputs).items()}


@mtl.register("model", "overlapping")
class Overlapping(MLP):
    def specific_parameters(self):
        return [[*group, *self.trunk.parameters()] for group in super().specific_parameters()]


@mtl.register("model", "boring")
class Boring(MLP):
    def __init__(self, tasks: dict[str, int], input_shape: tuple[int, ...]) -> None:
        raise RuntimeError("no such weights")
"""


def test_models_that_cannot_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    says = {
        "detached": "require",
        "nan": "NonFiniteError",
        "overlapping": "specific",
        "boring": "RuntimeError: no such weights",
    }
    names = [{"name": name} for name in says]
    config = {**DIGITS, "plugins": ["models.py"], "sources": "domains x tasks", "sweep": {"model": names}}
    assert run(write(tmp_path / "models.yaml", config), tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4, "one line a run"
    for (name, part), line in zip(says.items(), lines, strict=True):
        assert name in line
        assert part in line


# --- looking without training -----------------------------------------------------------------------------


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write(tmp_path / "grid.yaml", scenes(tmp_path / "cache") | {"sweep": {"seed": [0, 1]}})


def test_dry_run_writes_nothing(
    grid: Path, tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grid, tmp_path / "out", "--dry-run") == 0
    assert capsys.readouterr().out.count("nash-mtl") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]
    assert not trained


def test_dry_run_finds_what_only_the_data_set_knows(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scenes tell their domains only when they are made."""
    assert run(grid, tmp_path / "out", "--dry-run", "--set", "held_out=[foggy]") == 2
    error = error_message(capsys)
    assert "held_out" in error
    assert "unknown domain" in error
    assert "did you mean 'fog'?" in error
    assert run(grid, tmp_path / "out", "--set", "tasks=[depht]") == 2
    assert "did you mean 'depth'?" in error_message(capsys)
    assert not results(tmp_path)


def test_list_shows_plugins_of_this_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for kind in ("solver", "wrapper") for name in registered(kind))


def test_tensorboard_holds_what_the_records_hold(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = write(tmp_path / "one.yaml", {**DIGITS, "tensorboard": True})
    assert run(config, tmp_path / "out") == 0
    folder = run_folder(tmp_path / "out", "equal")
    events = reader.EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("losses/15")] == [2, 4]
    assert [event.step for event in events.Scalars("metrics/test/30/class/accuracy")] == [0, 2, 4]
    plain = write(tmp_path / "plain.yaml", DIGITS)
    assert run(plain, tmp_path / "plain") == 0
    assert list(results(tmp_path / "plain").values()) == list(results(tmp_path / "out").values())
