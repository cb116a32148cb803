"""``mtlsuite data ...``: what the commands print, draw and refuse; configs on the files that they make."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import yaml
from mtan_folders import write

from mtlsuite import cli
from mtlsuite.core import registry
from mtlsuite.core.errors import UsageError
from mtlsuite.data import MTAN
from mtlsuite.data.commands import main, parser
from mtlsuite.data.mtan_check import LayoutError
from mtlsuite.experiments import runner

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTLSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "write_report", lambda *_: [])  # takes longer than these runs
    monkeypatch.setattr(runner, "print_report", lambda *_: None)


def test_check_prints_what_is_there(tmp_path, capsys):
    frames = write(tmp_path / "root", classes=3)
    (tmp_path / "root" / "label.txt").write_text("wall\nfloor\nlamp\n")
    assert main(["check", "nyuv2", "--root", "root"]) == 0
    out = capsys.readouterr().out
    assert "nyuv2, train: 4 samples" in out
    assert "nyuv2, val: 3 samples" in out
    for shape in ("3 x 6 x 8", "6 x 8", "1 x 6 x 8"):
        assert shape in out
    train = [arrays for (split, _), arrays in frames.items() if split == "train"]
    depth = np.stack([arrays["depth"] for arrays in train])
    assert f"{depth[depth > 0].min():.5g}" in out
    assert f"{depth.max():.5g}" in out
    assert f"{(depth > 0).mean():.1%}" in out
    labels = np.stack([arrays["label"] for arrays in train])
    for k, name in enumerate(("wall", "floor", "lamp")):
        [row] = [line for line in out.splitlines() if name in line]
        share = (labels == k).sum() / (labels >= 0).sum()
        assert f"{share:.2%} #" in row
    assert "the published ones have 288 x 384" in out
    assert matplotlib.image.imread(tmp_path / "nyuv2-sheet.png")[..., :3].std() > 0.05


def test_check_tells_values_that_no_data_should_have(tmp_path, capsys):
    write(tmp_path / "root")
    (tmp_path / "bad").mkdir()
    image = np.load("root/val/image/1.npy")
    image[0, 0] = np.nan
    np.save("root/val/image/1.npy", image)
    normal = np.load("root/train/normal/2.npy")
    np.save("root/train/normal/2.npy", normal * np.where(normal[..., :1] > 0, 2, 1).astype(np.float32))
    np.save("root/train/depth/0.npy", -np.load("root/train/depth/0.npy"))
    np.save("root/train/image/3.npy", 255 * np.load("root/train/image/3.npy"))
    assert main(["check", "nyuv2", "--root", "root", "--sheet", "bad/sheet.png", "--samples", "1"]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 4
    for place, words in {
        "train 0": "depth is negative",
        "train 2": "normals have neither length 1 nor 0, for example 2",
        "train 3": "image goes up to 25",
        "val 1": "image is NaN",
    }.items():
        assert any(place in problem and words in problem for problem in problems), place


def test_check_lists_every_problem_of_a_folder(tmp_path):
    write(tmp_path / "root", {"train": 40, "val": 1}, classes=20)
    for name in (["--set", "n_classes=2"], []):
        with pytest.raises(UsageError) as caught:
            main(["check", "nyuv2", "--root", "root", *name])
        assert not isinstance(caught.value, LayoutError)
        assert caught.value.message.count("labels ") == 41
        assert "more" not in caught.value.message


def test_check_works_on_any_data_set(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        registry, "_classes", {kind: dict(names) for kind, names in registry._classes.items()}
    )
    assert main(["check", "rotated_digits", "--set", "size=8", "--samples", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("samples") == 12
    (tmp_path / "mine.py").write_text(
        "import torch, mtlsuite as mtl\n"
        "from mtlsuite.data import DataSet, TensorSplit\n"
        "@mtl.register('dataset', 'noise_for_check')\n"
        "class Noise(DataSet):\n"
        "    '''Noise.'''\n"
        "    def __init__(self):\n"
        "        self.domains, self.tasks, self.input_shape = ('a',), {'depth': 1}, (3, 4, 5)\n"
        "    def split(self, domain, part):\n"
        "        return TensorSplit(torch.rand(2, 3, 4, 5), {'depth': torch.zeros(2, 1, 4, 5)})\n"
    )
    assert main(["check", "noise_for_check", "--plugin", "mine.py"]) == 0
    assert "0.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["check", "nyuv3", "--root", "x"], "did you mean 'nyuv2'"),
        (["check", "nyuv2"], "the option 'root' is required"),
        (["check", "nyuv2", "--root", "x", "--set", "augmented=true"], "unknown option 'augmented'"),
        (["check", "nyuv2", "--root", "x", "--set", "augment"], "allowed: KEY=VALUE"),
        (["check", "cityscapes", "--root", "x", "--set", "labels=label_8"], "label_8"),
        (["make-scenes", "--root", "x", "--domains", "dya"], "did you mean 'day'"),
        (["prepare", "nyuv2", "--raw", "x.mat", "--root", "y"], "894 labels"),
        (["prepare", "cityscapes", "--raw", "x", "--root", "y"], "x/gtFine/train: no such folder"),
    ],
)
def test_a_mistake_is_one_clear_error(argv, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        main(argv)
    assert not (tmp_path / "y").exists()


def test_a_wrong_call_says_how_it_is_used(capsys):
    for argv in ([], ["prepare"], ["check", "mtan", "--samples", "0"], ["make-scenes", "--layout", "coco"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        assert "usage: mtlsuite data" in capsys.readouterr().err


def test_an_interruption_leaves_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(np, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["make-scenes", "--root", "new", "--size", "8", "8", "--frames", "1", "1"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_commands_of_the_documentation_are_understood():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    lines = re.findall(r"^mtlsuite data (.+)$", text, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        assert callable(parser().parse_args(shlex.split(line)).run), line


# --- configs on files -----------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "name": "files",
    "threads": 1,
    "device": "cpu",
    "data": {"name": "nyuv2", "root": "elsewhere"},
    "model": {"name": "unet", "widths": [4, 8]},
    "sources": "tasks",
    "solver": {"base": "nash_mtl"},
    "train": {"steps": 4, "batch_size": 3},
    "evaluation": {"every": 2, "batch_size": 2},
}


def run(out: str, *settings: str) -> dict[str, bytes]:
    """The records of a run of CONFIG, as written."""
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert cli.main(["config.yaml", "--out", out, "--set", *settings]) == 0
    return {str(path.parent.relative_to(out)): path.read_bytes() for path in Path(out).rglob("results.jsonl")}


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ([], {"segmentation", "depth", "normals"}),
        (["data.name=mtan"], {"segmentation", "depth", "normals"}),
        (["data.name=cityscapes", "data.labels=label"], {"segmentation", "depth"}),
    ],
    ids=["nyuv2", "mtan", "cityscapes"],
)
def test_a_config_runs_on_the_scenes_that_were_written(settings, tasks):
    assert main(["make-scenes", "--root", "scenes", "--size", "16", "24", "--frames", "5", "3"]) == 0
    first = run("one", "data.root=scenes", *settings)
    [records] = first.values()
    assert {f"{task}/" for task in tasks} <= set(
        re.findall(r"(segmentation/|depth/|normals/)", records.decode())
    )
    assert run("two", "data.root=scenes", *settings) == first, "the same pixels, read ahead or not"


@pytest.mark.parametrize(
    ("folder", "settings"),
    [("rgbd_objects", ["data.n_classes=6"]), ("nyud_two", ["data.n_classes=40", "data.train_folder=val"])],
)
def test_a_config_runs_on_real_frames(folder, settings):
    if not (REAL / folder).is_dir():
        pytest.skip(f"no folder {folder} among the shared data beside the repository")
    root = f"data.root={REAL / folder}"
    [records] = run("real", root, *settings, "train.steps=2", "train.batch_size=2").values()
    assert b"angle_mean" in records


def test_names_of_written_scenes(tmp_path):
    argv = [
        "make-scenes",
        "--root",
        "scenes",
        "--labels",
        "label_7",
        "--size",
        "8",
        "8",
        "--frames",
        "2",
        "1",
    ]
    assert main([*argv, "--domains", "fog", "night"]) == 0
    data = MTAN(str(tmp_path / "scenes"), labels="label_7")
    assert [len(data.split("mtan", part)) for part in ("train", "val")] == [4, 2]
    assert "sky" in data.classes
