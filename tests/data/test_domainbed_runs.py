"""DomainBed's data sets in experiments and under ``mtlsuite data check``, on folders that the tests make."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
import yaml
from domain_folders import DOMAINS, truncate, write
from mnist_files import write_mnist
from torch import Tensor
from torchvision.models import resnet18

from mtlsuite import cli
from mtlsuite.core.errors import UsageError
from mtlsuite.data.commands import main
from mtlsuite.data.domainbed import PACS, ImageFolders
from mtlsuite.experiments import problem, runner
from mtlsuite.experiments.config import validate
from mtlsuite.experiments.problem import Problem

REAL = Path(__file__).parents[3] / "shared" / "data" / "pacs_mini"
CONFIG: dict[str, Any] = {
    "name": "folders",
    "threads": 1,
    "device": "cpu",
    "data": {"name": "image_folders", "root": "data", "size": 16},
    "model": {"name": "convnet", "widths": [4, 8]},
    "sources": "domains",
    "held_out": ["sketch"],
    "solver": {"base": "nash_mtl"},
    "train": {"steps": 4, "batch_size": 3, "replacement": True},
    "evaluation": {"every": 2, "batch_size": 2},
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problem._dataset.cache_clear()  # "data" is another folder in every test
    monkeypatch.setattr(runner, "write_report", lambda *_: [])  # takes longer than these runs
    monkeypatch.setattr(runner, "print_report", lambda *_: None)


def run(out: str, *settings: str) -> dict[str, bytes]:
    """The records of a run of CONFIG, as written."""
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert cli.main(["config.yaml", "--out", out, *(["--set", *settings] if settings else [])]) == 0
    return {str(path.parent.relative_to(out)): path.read_bytes() for path in Path(out).rglob("results.jsonl")}


# --- experiments ------------------------------------------------------------------------------------------


def test_images_under_two_names_are_scored_once() -> None:
    """With ``both_splits``, in/sketch and test/sketch are the same images."""
    write(Path("data"), count=20)
    settings = {**CONFIG, "evaluation": {**CONFIG["evaluation"], "both_splits": True}}
    made = Problem(validate(settings), torch.device("cpu"))
    model, seen = made.model(), []
    model.register_forward_hook(lambda _model, inputs, _output: seen.append(len(inputs[0])))
    scores = made.evaluate(model)
    data = ImageFolders("data", size=16)
    wanted = [(d, "val") for d in data.domains] + [("sketch", "train")]
    assert sum(seen) == sum(len(data.split(*part)) for part in wanted)
    assert scores["in/sketch"] == scores["test/sketch"]
    assert {"in/sketch", "out/sketch", "test/sketch"} <= scores.keys()


@pytest.mark.parametrize("protocol", ["domainbed", "swad"])
def test_what_is_evaluated(protocol: str) -> None:
    """Validation of training domains as the protocol has it; a held-out domain on its in-split as it is."""
    write(Path("data"), count=20)
    made = Problem(
        validate({**CONFIG, "data": {**CONFIG["data"], "protocol": protocol}}), torch.device("cpu")
    )
    model = made.model().eval()
    seen: dict[str, list[Tensor]] = {}
    for name in ("val/art", "val/photo", "test/sketch"):
        seen[name] = []
        split = made._evaluation_splits[name]
        for _, inputs, _ in made._batches(split):
            seen[name] += list(inputs)
    data = ImageFolders("data", size=16)
    for name, images in seen.items():
        part, domain = name.split("/")
        plain = data.split(domain, "val" if part == "val" else "train")
        assert len(images) == len(plain) == (8 if part == "val" else 32)
        same = [torch.equal(image, plain[i][0]) for i, image in enumerate(images)]
        assert not any(same) if (part, protocol) == ("val", "domainbed") else all(same)
    right = sum(
        int(model(image[None])["class"].argmax()) == label
        for image, label in zip(seen["test/sketch"], data.split("sketch", "train").labels, strict=True)
    )
    assert made.evaluate(model)["test/sketch"]["class/accuracy"] == pytest.approx(right / 32)


def test_training_images_are_augmented_and_those_of_the_cosine_are_not() -> None:
    write(Path("data"), count=10)
    made = Problem(validate(CONFIG), torch.device("cpu"))
    model = made.model()
    data = ImageFolders("data", size=16)
    plain = {d: [data.split(d, "train")[i][0] for i in range(16)] for d in ("art", "photo")}

    def known(stream: str) -> list[bool]:
        batches = made.objective(model, 0, stream).minibatches  # type: ignore[attr-defined]
        return [
            any(torch.equal(image, other) for other in plain[domain])
            for domain, (inputs, _) in zip(("art", "photo"), batches, strict=True)
            for image in inputs
        ]

    assert known("train") == [False] * 6
    assert known("cosine") == [True] * 6


@pytest.mark.parametrize("settings", [[], ["data.cache=memory"], ["threads=2"], ["data.protocol=swad"]])
def test_a_config_runs_and_runs_alike(settings: list[str]) -> None:
    write(Path("data"))
    first = run("one", *settings)
    [records] = first.values()
    assert {"val/art", "val/photo", "test/sketch"} <= set(json.loads(records.splitlines()[-1])["metrics"])
    assert run("two", *settings) == first


@pytest.mark.slow
def test_views_of_images_that_the_model_normalizes() -> None:
    write(Path("data"))
    [records] = run(
        "out",
        "sources=views",
        "held_out=[photo, sketch]",
        "data.normalize=false",
        "data.augment=false",
        "model={name: resnet18, normalize: true}",
        "train.steps=2",
    ).values()
    assert b"test/photo" in records


def test_a_frozen_backbone_from_a_file() -> None:
    write(Path("data"))
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), "resnet18.pt")
    [records] = run(
        "out", "model={name: resnet18, weights: resnet18.pt, dropout: 0.1}", "train.steps=2"
    ).values()
    assert b"test/sketch" in records
    state = torch.load(next(Path("out").rglob("checkpoint.pt")), weights_only=True)["model"]
    start = torch.load("resnet18.pt", weights_only=True)
    for name, value in start.items():
        if not name.startswith("fc."):
            kept = torch.equal(state[f"trunk.network.{name}"], value)
            assert kept == ("running" in name or "num_batches" in name), name


def test_a_damaged_image_is_named_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("data"))[3].write_bytes(b"")
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert cli.main(["config.yaml", "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert "config.yaml" in told
    assert "1 damaged image: data/art/cat/003.jpg: 0 bytes in no known format" in told
    assert not list(Path("out").rglob("results.jsonl"))


def test_damage_within_an_image_stops_the_run_that_meets_it() -> None:
    for path in write(Path("data")):
        data = path.read_bytes()
        path.write_bytes(data[:20] + bytes(len(data) - 40) + data[-20:])
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert cli.main(["config.yaml", "--out", "out"]) == 1
    [status] = [json.loads(path.read_text()) for path in Path("out").rglob("status.json")]
    assert "damaged image: " in json.dumps(status)
    assert "(skip_corrupt leaves it out)" in json.dumps(status)


@pytest.mark.parametrize("name", ["rotated_mnist", "colored_mnist"])
def test_mnist_runs(name: str) -> None:
    write_mnist(Path("data"))
    held_out = {"rotated_mnist": "['75']", "colored_mnist": "['0.9']"}[name]
    settings = [f"data={{name: {name}, root: data}}", f"held_out={held_out}", "model=mnist_cnn"]
    [records] = run("out", *settings, "train.steps=2").values()
    assert f"test/{held_out[2:-2]}" in json.loads(records.splitlines()[-1])["metrics"]


@pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder pacs_mini among the shared data beside the repository"
)
@pytest.mark.parametrize(
    "model", ["convnet", pytest.param("{name: resnet18, freeze_bn: true}", marks=pytest.mark.slow)]
)
def test_real_images_run(model: str) -> None:
    settings = [f"data={{name: pacs, root: {REAL}, size: 32}}", f"model={model}", "evaluation.batch_size=64"]
    [records] = run("out", *settings, "train.steps=2").values()
    last = json.loads(records.splitlines()[-1])["metrics"]
    assert set(last) == {"val/art_painting", "val/cartoon", "val/photo", "test/sketch"}


@pytest.mark.slow
def test_the_table_for_users_of_domainbed_names_keys_that_are_there() -> None:
    """Every assignment of the page is taken; a sweep of it, where that is what is assigned."""
    page = (Path(__file__).parents[2] / "docs" / "domainbed.md").read_text()
    table = page.partition("| DomainBed | here |")[2].partition("\n\n")[0]
    pattern = r"`([\w.]+=[^`]*|data\.root=\S+ data\.name=\w+)`"
    found = [text for row in table.splitlines() for text in re.findall(pattern, row.rpartition(" | ")[2])]
    assert len(found) >= 18
    write(Path("data/PACS"), PACS.published.domains, PACS.published.classes)
    config = CONFIG | {"data": {"name": "pacs", "root": "data", "size": 8}, "model": "resnet50"}
    config |= {"held_out": "sketch", "train": {"steps": 300}, "evaluation": {"every": 100}}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    for text in found:
        settings = text.replace("/data", "data").split(" ") if text.startswith("data.root") else [text]
        assert cli.main(["config.yaml", "--dry-run", "--set", *settings]) == 0, text


# --- mtlsuite data check ----------------------------------------------------------------------------------


def test_check_prints_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("data/PACS"), ["photo", "sketch"])
    assert main(["check", "pacs", "--root", "data", "--set", "size=12", "--samples", "2"]) == 0
    out = capsys.readouterr().out
    assert "photo, train: 8 samples" in out
    assert "sketch, val: 2 samples" in out
    assert "3 x 12 x 12" in out
    assert "note: domains photo, sketch; the published ones are art_painting, cartoon, photo, sketch" in out
    assert "note: 10 images in photo; the literature has 1670" in out
    for name in ("cat", "dog"):
        assert sum(name in line and "%" in line for line in out.splitlines()) == 2
    assert matplotlib.image.imread("pacs-sheet.png")[..., :3].std() > 0.05


def test_check_lists_all_damaged_images(capsys: pytest.CaptureFixture[str]) -> None:
    broken = write(Path("data"))[::7]
    for path in broken:
        truncate(path)
    assert main(["check", "image_folders", "--root", "data", "--set", "size=12"]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert sorted(line.split(": ")[1] for line in problems) == sorted(map(str, broken))
    assert all("damaged image" in line for line in problems)
    with pytest.warns(UserWarning, match=f"left out: {len(broken)} damaged images: "):
        code = main(["check", "image_folders", "--root", "data", "--set", "size=12", "skip_corrupt=true"])
    assert code == 0
    assert capsys.readouterr().out.count("note: left out: data/") == len(broken)


def test_check_lists_every_problem_of_a_folder() -> None:
    write(Path("data"))
    for domain in DOMAINS:
        for k in range(10):
            (Path("data") / domain / f"empty{k}").mkdir()
    with pytest.raises(UsageError) as caught:
        main(["check", "image_folders", "--root", "data"])
    assert caught.value.message.count("no images in it") == 30


@pytest.mark.skipif(
    not REAL.is_dir(), reason="no folder pacs_mini among the shared data beside the repository"
)
def test_check_of_real_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "pacs", "--root", str(REAL), "--set", "size=32"]) == 0
    out = capsys.readouterr().out
    assert "cartoon, train: 135 samples" in out
    assert "note: 672 images in all; the literature has 9991" in out
    assert np.ptp(matplotlib.image.imread("pacs-sheet.png")[..., :3]) > 0.9


def test_the_classes_of_real_images_have_names() -> None:
    assert PACS.published is not None
    assert len(PACS.published.classes) == PACS.published.n_classes
