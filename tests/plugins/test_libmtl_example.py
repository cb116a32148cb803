"""What the page shows works, and so does the example."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import libmtl_problems
import numpy as np
import pytest
import torch
from test_libmtl_weighting import OnCPU

import LibMTL.trainer  # isort: skip  (importable once the plugin is)

ROOT = Path(__file__).parents[2]
FRAMES = ROOT.parent / "shared" / "data" / "rgbd_objects"
PAGE = (
    (ROOT / "docs" / "plugging_in.md")
    .read_text(encoding="utf-8")
    .partition("\n## LibMTL\n")[2]
    .partition("\n## ")[0]
)
DIFFS = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("diff", DIFFS, ids=["trainer", "weighting"])
@pytest.mark.parametrize("sign", "-+")
def test_the_programs_before_and_after(diff: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LibMTL.trainer, "torch", OnCPU())
    program = "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in f" {sign}")
    given = libmtl_problems.arguments()
    namespace = {
        **{name: given[name] for name in ("task_dict", "decoders", "optim_param")},
        "Encoder": given["encoder_class"],
        "kwargs": {"weight_args": {}, "arch_args": {}},
        "train_loader": libmtl_problems.loaders(),
        "test_loader": libmtl_problems.loaders(seed=1),
        "epochs": 1,
    }
    if "import Trainer" not in program:
        program = f"from LibMTL import Trainer\n{program}"
    exec(program, namespace)
    trainer = namespace["trainer"]
    if "train(" not in program:
        trainer.train(namespace["train_loader"], namespace["test_loader"], 1)
    assert isinstance(trainer, LibMTL.trainer.Trainer)


def run_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str):
    monkeypatch.setattr(sys, "argv", ["libmtl_nyuv2.py", "--quick", "--device", "cpu", *options])
    runpy.run_path(str(ROOT / "examples" / "libmtl_nyuv2.py"), run_name="__main__")
    return np.array(libmtl_problems.tables(capsys.readouterr().out))


@pytest.mark.slow
def test_the_example_on_the_real_frames(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not FRAMES.is_dir():
        pytest.skip("no folder rgbd_objects among the shared data beside the repository")
    table = run_example(monkeypatch, capsys, "--data", str(FRAMES), "--classes", "6")
    assert table.shape == (2, 1 + 2 * (3 + 3 + 6)), "epoch; losses and metrics of three tasks, twice"
    assert np.isfinite(table).all()
    losses = table[:, [1, 4, 7]]
    assert (losses[1] < losses[0]).all()


@pytest.mark.slow
def test_the_example_on_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for split, i in [("train", i) for i in range(4)] + [("val", i) for i in range(2)]:
        normal = rng.standard_normal((48, 64, 3)).astype(np.float32)
        arrays = {
            "image": rng.random((48, 64, 3), np.float32),
            "label": rng.integers(-1, 13, (48, 64)).astype(np.float32),
            "depth": rng.random((48, 64, 1), np.float32) + 1,
            "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        }
        for kind, array in arrays.items():
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / split / kind / f"{i}.npy", array)
    table = run_example(monkeypatch, capsys, "--data", str(tmp_path), "--arch", "MTAN", "--solver", "famo")
    assert table.shape == (2, 25)
    assert torch.from_numpy(table).isfinite().all()
