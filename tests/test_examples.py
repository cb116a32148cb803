"""The scripts of examples/ run and show what they say; mixed precision, accumulation and compiled models."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.core import registry

EXAMPLES = Path(__file__).parent.parent / "examples"
PLAIN = ("plain_tasks", "plain_domains", "custom_solver", "mixed_precision")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = {kind: dict(names) for kind, names in registry._classes.items()}
    monkeypatch.setattr(registry, "_classes", copies)


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that an example prints."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", PLAIN)
def test_examples_are_short_and_need_nothing_else(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    assert len(source.splitlines()) < 40
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= {"sys", "torch", "mtlsuite"}


def test_plain_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal weights do not see the quiet task, Nash-MTL does."""
    equal, nash = (
        [float(share) for share in re.findall(r"([\d.]+)%", line)] for line in printed("plain_tasks", capsys)
    )
    assert len(equal) == len(nash) == 2
    assert nash[0] < equal[0] / 2


def test_plain_domains(capsys: pytest.CaptureFixture[str]) -> None:
    """All have learned more than the shortcut, which alone would be right in one of ten."""
    lines = printed("plain_domains", capsys)
    accuracies = [float(match[1]) for line in lines if (match := re.search(r"accuracy ([\d.]+)%", line))]
    assert len(accuracies) == len(lines) == 3
    assert all(accuracy > 60 for accuracy in accuracies)


def test_custom_solver(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal weights go to the mean of the wishes; the worst loss is least halfway between the farthest."""
    points, losses = [], []
    for line in printed("custom_solver", capsys):
        point, loss = (ast.literal_eval(text) for text in re.findall(r"\[[-\d., ]+\]", line)[-2:])
        points.append(point)
        losses.append(loss)
    assert points[0] == pytest.approx([1.2 / 3, 1.1 / 3], abs=0.01)
    assert points[1] == pytest.approx([0.5, 0.5], abs=0.01)
    assert max(losses[1]) == pytest.approx(0.5, abs=0.01)
    assert max(losses[1]) < max(losses[2]) < max(losses[0]), "SAM looks beside the minimax point"


# --- mixed precision, accumulation, compiled models -----------------------------------------------------


@pytest.fixture(scope="module")
def train() -> Any:
    """The function of examples/mixed_precision.py."""
    return runpy.run_path(str(EXAMPLES / "mixed_precision.py"))["train"]


def test_mixed_precision_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for line in printed("mixed_precision", capsys):
        found, plain = (ast.literal_eval(text) for text in re.findall(r"\[.*?\]", line))
        assert found == pytest.approx(plain, rel=0.05)


def test_bf16_training_follows_float32(train: Any) -> None:
    plain, half = train(steps=20), train(autocast=True, steps=20)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0)
    assert not torch.equal(half, plain)


def test_accumulated_chunks_are_the_whole_batch(train: Any) -> None:
    torch.testing.assert_close(train(chunks=4, steps=20), train(steps=20), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_numbers(train: Any) -> None:
    plain = train(steps=5)
    try:
        compiled = train(compiled=True, steps=5)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"no working compiler here: {type(error.inner_exception).__name__}")
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(12, 5, generator=g).to(dtype), torch.randn(12, 3, generator=g).to(dtype)


def half_losses(model: nn.Module) -> Tensor:
    x, y = data()
    with torch.autocast("cpu", torch.bfloat16):
        return (model(x) - y).square().mean(dim=0)


def test_the_rows_under_autocast_are_those_of_plain_backwards() -> None:
    """Source by source with loss.backward(), also where a wrapper has moved the weights."""
    model = network()
    oracle = mtl.Oracle(mtl.Objective(lambda: half_losses(model), model.parameters()))
    with oracle.moved(torch.full((oracle.space.n_entries,), 0.25)) as there:
        found = [there.jacobian().rows]
    found.append(oracle.jacobian().rows)
    shifted = network()
    with torch.no_grad():
        for parameter in shifted.parameters():
            parameter.add_(0.25)
    for rows, reference in zip(found, (shifted, network()), strict=True):
        for k, row in enumerate(rows):
            reference.zero_grad()
            half_losses(reference)[k].backward()
            assert torch.equal(row, torch.cat([p.grad.flatten() for p in reference.parameters()]))
    assert not torch.equal(*found)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_accumulation_is_that_of_plain_pytorch(momentum: float) -> None:
    """Equal weights on three chunks: the usual loop of backwards that add up in .grad, in float64."""
    ours, plain = network(torch.float64), network(torch.float64)
    x, y = data(torch.float64)
    chunks = list(zip(x.chunk(3), y.chunk(3), strict=True))

    def losses() -> Tensor:
        return torch.stack([(ours(a) - b).square().mean(dim=0) for a, b in chunks]).mean(dim=0)

    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=momentum) for m in (ours, plain)]
    for _ in range(4):
        mtl.Equal().step(mtl.Objective(losses, ours.parameters()), optimizers[0])
        optimizers[1].zero_grad()
        for a, b in chunks:
            ((plain(a) - b).square().mean() / len(chunks)).backward()
        optimizers[1].step()
    for found, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
