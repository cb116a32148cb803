"""Forwards in bfloat16 and channels last: the same training, and the same model."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import (
    DIGITS,
    VIEWS,
    error_message,
    interrupted_after,
    results,
    run,
    run_folder,
    without_report,
    write,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mtlsuite as mtl
from mtlsuite.experiments.config import validate
from mtlsuite.experiments.precision import with_precision
from mtlsuite.experiments.problem import Problem
from mtlsuite.experiments.sweep import COSMETIC
from mtlsuite.experiments.trainer import CHECKPOINT
from mtlsuite.models import UNet

CPU = torch.device("cpu")
TASKS = {"a": 2, "b": 1}
CRITERIA = dict.fromkeys(TASKS, F.mse_loss)


def problem(**changes: Any) -> Problem:
    return Problem(validate({**VIEWS, **changes}), CPU)


def after_steps(solver: mtl.Solver, channels_last: bool) -> nn.Module:
    torch.manual_seed(0)
    model = with_precision(UNet(TASKS, (3, 8, 8), [4, 4]).double(), None, channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        targets = {task: torch.randn(2, n, 8, 8, dtype=torch.float64) for task, n in TASKS.items()}
        solver.step(mtl.TaskObjective(model, inputs, targets, CRITERIA), optimizer)
    return model


@pytest.mark.parametrize(
    "make", [mtl.NashMTL, lambda: mtl.SAGE(mtl.Equal(), gamma=0.0)], ids=["nash_mtl", "sage"]
)
def test_steps_with_channels_last_are_those_without(make: Any) -> None:
    """Noise aside: it is drawn entry by entry as they lie in memory."""
    last, first = after_steps(make(), True), after_steps(make(), False)
    for (name, ours), theirs in zip(last.named_parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11, msg=name)
        if ours.dim() == 4:
            assert ours.is_contiguous(memory_format=torch.channels_last)
            assert ours.grad is not None
            assert ours.grad.is_contiguous(memory_format=torch.channels_last)
    assert any(p.dim() == 4 and not p.is_contiguous() for p in last.parameters())


def test_images_reach_the_model_channels_last() -> None:
    model = with_precision(UNet(TASKS, (3, 8, 8), [4, 4]), None, True)
    seen: list[Tensor] = []
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    model(torch.zeros(2, 3, 8, 8))
    assert seen[0].stride() == (192, 1, 24, 3)


def test_every_forward_is_in_bfloat16_and_losses_and_gradients_are_not() -> None:
    made = problem(autocast="bfloat16")
    model = made.model()
    seen: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = mtl.NashMTL().step(made.objective(model, 0), optimizer)
    for work in (
        lambda: made.evaluate(model),
        lambda: made.cosine(model),
        lambda: made.validation_loss(model),
    ):
        assert set(seen) == {torch.bfloat16}
        seen.clear()
        work()
    assert set(seen) == {torch.bfloat16}
    assert report.losses.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_a_step_of_sam_sees_the_weights_where_it_went() -> None:
    """By hand, forward by forward: no cast copy of the weights may outlive their move."""
    made = problem(autocast="bfloat16", views={"count": 1})
    ours, theirs = made.model(), copy.deepcopy(problem().model())
    objective = made.objective(ours, 0)
    [(inputs, targets)] = objective.minibatches  # type: ignore[attr-defined]
    mtl.SAM(mtl.Equal(), rho=0.5).step(objective, torch.optim.SGD(ours.parameters(), lr=0.1))
    start = [p.detach().clone() for p in theirs.parameters()]

    def gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            prediction = theirs(inputs)["class"]
        return list(
            torch.autograd.grad(F.cross_entropy(prediction.float(), targets["class"]), theirs.parameters())
        )

    clean = gradients()
    norm = torch.cat([g.flatten() for g in clean]).norm()
    with torch.no_grad():
        for p, g in zip(theirs.parameters(), clean, strict=True):
            p.add_(g, alpha=0.5 / float(norm))
    there = gradients()
    assert max(float((a - b).abs().max()) for a, b in zip(clean, there, strict=True)) > 1e-3
    for p, s, g in zip(ours.parameters(), start, there, strict=True):
        torch.testing.assert_close(p.detach(), s - 0.1 * g, rtol=0, atol=1e-6)


def test_a_copy_of_the_model_computes_with_its_own_weights() -> None:
    model = problem(autocast="bfloat16", channels_last=True).model()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    inputs = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert not other(inputs)["class"].any()
        assert model(inputs)["class"].any()


def test_the_model_is_the_same_but_for_its_forward() -> None:
    plain, cast = problem().model(), problem(autocast="bfloat16", channels_last=True).model()
    assert type(cast) is type(plain)
    for (name, ours), (key, theirs) in zip(
        cast.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert name == key
        assert torch.equal(ours, theirs)


def test_nested_predictions_come_back_in_float32() -> None:
    class Nested(nn.Module):
        def forward(self, inputs: Tensor) -> dict[str, Any]:
            return {"class": [inputs @ inputs, (inputs > 0)], "more": inputs @ inputs}

    found = with_precision(Nested(), "bfloat16", False)(torch.eye(3))
    assert [t.dtype for t in found["class"]] == [torch.float32, torch.bool]
    assert found["more"].dtype == torch.float32


def test_runs_resume_to_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_report(monkeypatch)
    averaged = {"averaging": {"name": "ema", "decay": 0.5}}
    config = write(tmp_path / "a.yaml", VIEWS | averaged | {"autocast": "bfloat16", "channels_last": True})
    assert run(config, tmp_path / "whole") == 0
    assert run(config, tmp_path / "plain", "--set", "autocast=null") == 0
    [whole], [plain] = (list(results(tmp_path / name).values()) for name in ("whole", "plain"))
    assert whole != plain
    state = torch.load(run_folder(tmp_path / "whole", "") / CHECKPOINT)
    assert {tensor.dtype for tensor in state["model"].values()} == {torch.float32}
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3)
        assert run(config, tmp_path / "twice") == 130
    assert run(config, tmp_path / "twice", "--resume") == 0
    assert list(results(tmp_path / "twice").values()) == [whole]


def test_they_are_part_of_a_run() -> None:
    assert not {"autocast", "channels_last"} & set(COSMETIC)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("autocast=float16", "autocast: found 'float16', whose small gradients underflow"),
        ("autocast=bf16", r"autocast: .*'bf16'.*bfloat16"),
        ("autocast=true", r"autocast: .*true.*bfloat16"),
        ("channels_last=maybe", r"channels_last: .*'maybe'"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str) -> None:
    config = write(tmp_path / "a.yaml", DIGITS)
    assert run(config, tmp_path / "out", "--set", setting) == 2
    assert re.search(message, error_message(capsys))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_is_freed_at_once_and_its_copy_stays(copied: Any) -> None:
    """A cycle would keep every averaged model on its GPU until the garbage collector comes."""
    model = with_precision(UNet(TASKS, (3, 8, 8), [4, 4]), "bfloat16", True)
    copy_, inputs = copied(model), torch.randn(2, 3, 8, 8)
    expected = model(inputs)["a"].detach()
    with torch.no_grad():
        next(iter(model.parameters())).zero_()
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
    torch.testing.assert_close(copy_(inputs)["a"].detach(), expected, rtol=0, atol=0)
