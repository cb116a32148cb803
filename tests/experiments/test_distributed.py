"""Several processes train together what one would: the same numbers, the same files, and nothing lost."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_ranks import Ended, as_ranks, train
from tiny_runs import (
    DIGITS,
    QUICK,
    error_message,
    results,
    run,
    run_folder,
    statuses,
    with_own_registry,
    without_report,
    write,
)
from torch import nn

from mtlsuite.core.errors import UsageError
from mtlsuite.core.ranks import current
from mtlsuite.experiments import distributed
from mtlsuite.experiments.alike import check_parameters, unite_buffers
from mtlsuite.experiments.liveness import state
from mtlsuite.experiments.results import load_records
from mtlsuite.experiments.trainer import CHECKPOINT

PLUGIN = '''\
import os

import torch

import mtlsuite as mtl
from mtlsuite.models import MLP, UNet


class Double:
    """In float64, so that the order of sums, which is another with several ranks, leaves no trace."""

    def forward(self, inputs):
        return super().forward(inputs.double())


@mtl.register("model", "mlp64")
class DoubleMLP(Double, MLP):
    def __init__(self, tasks, input_shape):
        super().__init__(tasks, input_shape, width=8, depth=1)
        self.double()


@mtl.register("model", "unet64")
class DoubleUNet(Double, UNet):
    def __init__(self, tasks, input_shape):
        super().__init__(tasks, input_shape, widths=[4, 4])
        self.double()


@mtl.register("model", "dropout")
class Dropout(MLP):
    def forward(self, inputs):
        return super().forward(torch.nn.functional.dropout(inputs, training=self.training))


@mtl.register("model", "frail")
class Frail(MLP):
    """On rank 1, its third forward in training mode is the last, in the way that HOW says."""

    forwards = 0

    def forward(self, inputs):
        self.forwards += self.training
        how = os.environ.get("HOW", "")
        if self.forwards == 3 and how and os.environ.get("RANK") == "1":
            if how == "kill":
                os.kill(os.getpid(), 9)
            raise (OSError if how == "raise" else mtl.UsageError)("the disk of rank 1 is gone")
        return super().forward(inputs)
'''
SAGE = {"base": "nash_mtl", "wrap": [{"name": "sage", "rho": 0.05, "gamma": 1e-4}]}
STEPS = {"train": {"steps": 5, "batch_size": 5}, "evaluation": {"every": 5, "batch_size": 64}}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        yield


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with_own_registry(monkeypatch)
    (tmp_path / "mine.py").write_text(PLUGIN)
    return {"plugins": ["mine.py"]}


def codes(ended: list[Ended]) -> list[int | None]:
    return [each.code for each in ended]


def leaves(value: Any, tag: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{tag}/{key}")
    elif value is not None:
        yield tag, value


def assert_same_numbers(one: Path, several: Path, tolerance: float) -> None:
    [first], [second] = ([*out.rglob("results.jsonl")] for out in (one, several))
    for a, b in zip(load_records(first), load_records(second), strict=True):
        assert dict(leaves(b)) == pytest.approx(dict(leaves(a)), rel=tolerance, abs=1e-12, nan_ok=True)


# --- the same as one process ----------------------------------------------------------------------------


def sources(name: str, cache: Path) -> dict[str, Any]:
    """Small runs in float64; of 11 images in batches of 5 the last batch of an epoch is a single one."""
    if name in ("domains", "views"):
        domains = {"sources": name, "held_out": [] if name == "views" else ["30"]}
        return {**DIGITS, **STEPS, **domains, "model": "mlp64", "solver": SAGE}
    size = {"height": 8, "width": 8, "n_train": 11, "n_val": 2}
    data = {"name": "scenes", **size, "domains": ["day", "fog"], "cache": str(cache)}
    tasks = {"tasks": ["segmentation", "depth"], "train": {"epochs": 1, "batch_size": 5}}
    evaluation = {"evaluation": {"batch_size": 3}}  # two batches, the second of a single image
    return {**QUICK, "data": data, "model": "unet64", "sources": name, "solver": SAGE, **tasks, **evaluation}


@pytest.mark.parametrize("name", ["tasks", "domains", "views", "domains x tasks"])
def test_two_ranks_do_what_one_process_does(plugin: dict[str, Any], tmp_path: Path, name: str) -> None:
    config = write(tmp_path / "c.yaml", plugin | sources(name, tmp_path / "cache"))
    assert run(config, tmp_path / "one") == 0
    ended = train(tmp_path / "two", config)
    assert codes(ended) == [0, 0], ended
    assert "1/1" in ended[0].out
    assert ended[1].out == ended[1].err == ""
    assert_same_numbers(tmp_path / "one", tmp_path / "two", tolerance=1e-9)
    assert [status["status"] for status in statuses(tmp_path / "two").values()] == ["done"]


def test_fewer_images_and_batches_than_ranks(plugin: dict[str, Any], tmp_path: Path) -> None:
    """A last batch of one image for two ranks, and one evaluation batch: a rank may have nothing to do."""
    data = {"name": "scenes", "height": 8, "width": 8, "n_train": 5, "n_val": 2, "cache": str(tmp_path)}
    rest = {"sources": "tasks", "train": {"epochs": 2, "batch_size": 4}, "domains": ["day"], "solver": SAGE}
    evaluation = {"batch_size": 64, "averaging": "pixel"}
    values = {**QUICK, **plugin, **rest, "data": {**data, "domains": ["day"]}, "model": "unet64"}
    config = write(tmp_path / "c.yaml", {**values, "evaluation": evaluation, "averaging": "swad"})
    config.write_text(config.read_text().replace("averaging: swad", "averaging: {name: ema, decay: 0.5}"))
    assert run(config, tmp_path / "one") == 0
    assert codes(train(tmp_path / "two", config)) == [0, 0]
    assert_same_numbers(tmp_path / "one", tmp_path / "two", tolerance=1e-6)  # normals are scored in float32


# --- interrupted, and what cannot be ----------------------------------------------------------------------

KILLED = {"train": {"steps": 8, "batch_size": 4}, "evaluation": {"every": 2}}
NORMED = {"name": "convnet", "widths": [4], "norm": "batch"}


@pytest.mark.parametrize(
    "kind",
    [
        {"model": "dropout", "solver": {"base": "famo", "wrap": [{"name": "sage", "gamma": 0.01}]}},
        {"model": NORMED, "averaging": {"name": "swad", "n_converge": 1, "n_tolerance": 1}},
    ],
    ids=["dropout", "BatchNorm and SWAD"],
)
def test_resumed_bit_for_bit(plugin: dict[str, Any], tmp_path: Path, kind: dict[str, Any]) -> None:
    config = write(tmp_path / "c.yaml", {**DIGITS, **plugin, **kind, **KILLED})
    assert codes(train(tmp_path / "whole", config)) == [0, 0]
    out = tmp_path / "killed"
    ended = as_ranks(tmp_path / "log", _killed_at_its_third_record, config, out)
    assert ended[0].code == -signal.SIGKILL
    assert ended[1].code == 1, "it cannot go on without the other"
    assert 0 < len(*[text.splitlines() for text in results(out).values()]) < 5
    assert codes(train(out, config, "--resume")) == [0, 0]
    assert results(out) == results(tmp_path / "whole")
    states = [torch.load(run_folder(folder, "") / CHECKPOINT) for folder in (out, tmp_path / "whole")]
    assert len(states[0]["rng"]) == 2
    assert not torch.equal(states[0]["rng"][0]["cpu"], states[0]["rng"][1]["cpu"]), "draws of their own"
    for rank in (0, 1):
        assert torch.equal(states[0]["rng"][rank]["cpu"], states[1]["rng"][rank]["cpu"])


def _killed_at_its_third_record(config: Path, out: Path) -> int:
    from mtlsuite.experiments import trainer

    write_record, count = trainer.RunLog.write, iter(range(3))

    def write_and_die(*arguments: Any) -> None:
        write_record(*arguments)
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(trainer.RunLog, "write", write_and_die)
    return run(config, out)


def test_another_number_of_processes_cannot_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path / "c.yaml", {**DIGITS, **KILLED})
    as_ranks(tmp_path / "log", _killed_at_its_third_record, config, tmp_path / "out")
    assert run(config, tmp_path / "out", "--resume") == 2
    message = error_message(capsys)
    assert "was trained by 2 processes, and 1 process cannot" in message
    assert "allowed: torchrun with 2 processes in all" in message
    ended = train(tmp_path / "out", config, "--resume", size=3)
    assert codes(ended) == [2, 2, 2]
    assert "was trained by 2 processes, and 3 processes cannot" in ended[0].err
    assert ended[1].err == ended[2].err == "", "told once"


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"train": {"steps": 2, "batch_size": 1}},
            (),
            "train.batch_size: found 1, fewer than the 2 processes",
        ),
        ({"batch_norm": "synchronised"}, (), "SyncBatchNorm works on GPUs only; allowed here: local"),
        ({}, ("--jobs", "2"), "found the launcher 'processes' under torchrun"),
        ({"launcher": "submitit"}, (), "found the launcher 'submitit' under torchrun"),
        ({"sources": "dommains"}, (), "dommains"),
    ],
    ids=["small batch", "BatchNorm", "jobs", "launcher", "config"],
)
def test_mistakes_are_told_once(
    tmp_path: Path, changes: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    config = write(tmp_path / "c.yaml", {**DIGITS, **changes})
    ended = train(tmp_path / "out", config, *options)
    assert codes(ended) == [2, 2]
    assert message in ended[0].err
    assert ended[1].err == ""
    assert not results(tmp_path / "out")


def test_a_run_that_diverges_on_all_ranks_does_not_end_the_sweep(tmp_path: Path) -> None:
    sweep = {"sweep": {"optimizer.lr": [1e30, 0.01]}, "optimizer": {"name": "SGD", "lr": 0.1}}
    config = write(tmp_path / "c.yaml", {**DIGITS, **KILLED, **sweep})
    ended = train(tmp_path / "out", config)
    assert codes(ended) == [1, 1]
    assert "NonFiniteError" in ended[0].err
    assert sorted(status["status"] for status in statuses(tmp_path / "out").values()) == ["done", "failed"]


@pytest.mark.parametrize("how", ["raise", "usage"])
def test_an_error_of_one_rank_is_told_and_ends_it(plugin: dict[str, Any], tmp_path: Path, how: str) -> None:
    config = write(tmp_path / "c.yaml", {**DIGITS, **plugin, **KILLED, "model": "frail"})
    ended = as_ranks(tmp_path / "log", _impatient, config, tmp_path / "out", how)
    assert codes(ended) == [1, 1]
    assert "the disk of rank 1 is gone" in ended[1].err
    assert "rank 1 of 2 failed in the run" in ended[1].err
    [status] = statuses(tmp_path / "out").values()
    assert status["status"] in ("failed", "running")
    assert len(*[text.splitlines() for text in results(tmp_path / "out").values()]) == 1, "what was recorded"
    config.write_text(
        config.read_text().replace("frail", "mlp").replace(f"how: {how}", "{width: 8, depth: 1}")
    )


def _impatient(config: Path, out: Path, how: str) -> int:
    os.environ["HOW"] = how
    pytest.MonkeyPatch().setattr(distributed, "PATIENCE", distributed.timedelta(seconds=1))
    return run(config, out)


# --- what the ranks do together ---------------------------------------------------------------------------


def test_what_ranks_settle_together(tmp_path: Path) -> None:
    ended = as_ranks(tmp_path / "log", distributed.as_rank, _settle, size=3)
    assert codes(ended) == [0, 0, 0], ended


def _settle() -> int:
    rank = current().rank
    assert distributed.everywhere(lambda: 10 * rank) == 10 * rank
    assert distributed.gathered(rank) == [0, 1, 2]
    assert distributed.on_first(lambda: ("from", rank)) == ("from", 0)

    def refuse() -> None:
        if rank == 1:
            raise UsageError("not on rank 1", ("a", 0))

    with pytest.raises(UsageError, match="not on rank 1") as refused:
        distributed.everywhere(refuse)
    assert refused.value.key == ("a", 0)
    _unite(rank)
    return 0


def _unite(rank: int) -> None:
    ranks = current()
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("constant", torch.tensor([0.1, math.nan]))
    norm = model[1]
    norm.running_mean.copy_(torch.tensor([rank, 0.1]))
    norm.num_batches_tracked.fill_(7 - rank)
    unite_buffers(model, ranks)
    assert torch.equal(norm.running_mean, torch.tensor([1.0, 0.1])), "0.1 as it was, to the last bit"
    assert int(norm.num_batches_tracked) == 7
    assert model.constant[0] == torch.tensor(0.1)
    with torch.no_grad():
        model[0].weight.fill_(0.3)
        model[0].bias.fill_(0.5)
    check_parameters(model, ranks)
    with torch.no_grad():
        model[0].bias[1] += rank * 1e-6
    with pytest.raises(RuntimeError, match=r"'0.bias' is the first that differs, 1 of 4"):
        check_parameters(model, ranks)


# --- torchrun itself --------------------------------------------------------------------------------------


def torchrun(*arguments: object, how: str = "") -> tuple[int, str]:
    """Exit code and output of the command line on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*command, "-m", "mtlsuite", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOW": how},
        timeout=200,
    )
    return process.returncode, process.stdout


@pytest.mark.slow
def test_torchrun_ends_with_the_rank_that_is_killed_and_resumes(
    plugin: dict[str, Any], tmp_path: Path
) -> None:
    config = write(tmp_path / "c.yaml", {**DIGITS, **plugin, **KILLED, "model": "frail"})
    code, output = torchrun(config, "--out", tmp_path / "whole")
    assert code == 0, output
    assert output.count("Tables and figures") == 1
    for how in ("kill", "raise"):
        out = tmp_path / how
        code, output = torchrun(config, "--out", out, how=how)
        assert code == 1
        assert ("Signal 9 (SIGKILL)" if how == "kill" else "OSError: the disk of rank 1 is gone") in output
        assert {state(path.parent) for path in out.rglob("status.json")} <= {"failed", "interrupted"}
        code, output = torchrun(config, "--out", out, "--resume")
        assert code == 0, output
        assert results(out) == results(tmp_path / "whole")
