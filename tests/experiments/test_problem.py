"""What a config means: its sources, its batches and its evaluation, computed a second way."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import DIGITS, VIEWS, scenes
from torch import Tensor, nn
from torch.nn import functional as F

from mtlsuite.core.errors import UsageError
from mtlsuite.data import RotatedDigits, Scenes
from mtlsuite.experiments.config import validate
from mtlsuite.experiments.problem import Problem

TASKS = ["segmentation", "depth", "normals"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def problem(values: dict[str, Any], **changes: Any) -> Problem:
    return Problem(validate({**values, **changes}), CPU)


def batches(problem: Problem, model: nn.Module, step: int) -> list[tuple[Tensor, Any]]:
    """(inputs, targets) of every minibatch that the objective of a step holds."""
    return problem.objective(model, step).minibatches  # type: ignore[attr-defined]


def keys(images: Tensor) -> set[tuple[float, ...]]:
    return {tuple(image.flatten().tolist()) for image in images}


# --- sources ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ("tasks", ["segmentation", "depth"]),
        ("domains", ["day", "dusk"]),
        ("domains x tasks", ["day/segmentation", "day/depth", "dusk/segmentation", "dusk/depth"]),
    ],
)
def test_names_of_the_sources_are_those_of_the_objective(cache: Path, sources: str, names: list[str]) -> None:
    made = problem(scenes(cache), sources=sources)
    assert made.source_names == names
    assert list(made.objective(made.model(), 0).names) == names


def test_names_of_views() -> None:
    made = problem(VIEWS, views={"count": 2})
    assert made.source_names == ["view 0", "view 1"]
    assert list(made.objective(made.model(), 0).names) == made.source_names


def test_losses_are_those_of_the_tasks_on_the_domains(cache: Path) -> None:
    made = problem(scenes(cache), tasks=TASKS, model={"name": "unet", "widths": [4], "norm": "group"})
    model = made.model()
    inputs, targets = batches(made, model, 3)[1]
    predictions = model(inputs)
    segmentation = F.cross_entropy(predictions["segmentation"], targets["segmentation"], ignore_index=-1)
    valid = targets["depth"] > 0
    depth = (predictions["depth"] - targets["depth"])[valid].abs().mean()
    normal = F.normalize(predictions["normals"], dim=1)
    known = targets["normals"].square().sum(1) > 0
    normals = 1 - (normal * targets["normals"]).sum(1)[known].mean()
    losses = [loss.item() for loss in made.objective(model, 3).losses()][3:]
    assert losses == pytest.approx([x.item() for x in (segmentation, depth, normals)], rel=1e-4)
    summed = problem(scenes(cache), tasks=TASKS, sources="domains", model=made.config.model)
    assert summed.objective(model, 3).losses()[1].item() == pytest.approx(sum(losses), rel=1e-5)


def test_the_model_depends_on_the_seed_of_the_run_alone() -> None:
    first, again = problem(DIGITS).model(), problem(DIGITS, solver="famo", domains=["0", "30"]).model()
    other = problem(DIGITS, seed=1).model()
    states = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# --- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", ["domains", "domains x tasks", "tasks"])
def test_held_out_and_validation_images_are_never_trained_on(sources: str) -> None:
    made = problem(DIGITS, sources=sources, domains=None, held_out=["30", "75"])
    dataset, model = RotatedDigits(), made.model()
    trained = set()
    for step in range(made.steps_per_epoch):
        for inputs, _ in batches(made, model, step):
            trained |= keys(inputs)
    allowed = set()
    for domain in dataset.domains:
        if domain not in ("30", "75"):
            allowed |= keys(dataset.split(domain, "train").inputs)
    assert trained == allowed, "and in an epoch, all of the others is"
    for domain in ("30", "75"):
        assert not trained & keys(dataset.split(domain, "all").inputs)


def test_each_domain_has_batches_of_its_own(cache: Path) -> None:
    made = problem(scenes(cache), train={"epochs": 1, "batch_size": 4})
    data = Scenes(**{key: value for key, value in made.config.data.items() if key != "name"})
    assert made.steps_per_epoch == 2, "six images in batches of four"
    for step, (k, domain) in itertools.product(range(4), enumerate(("day", "dusk"))):
        inputs, _ = batches(made, made.model(), step)[k]
        assert len(inputs) == (4 if step % 2 == 0 else 2)
        everything = data.split(domain, "train").batch(range(6))[0]
        assert keys(inputs) < keys(everything)


def test_views_are_of_one_batch_and_fixed_by_the_step() -> None:
    made = problem(VIEWS)
    model = made.model()
    first, again, later = (batches(made, model, step) for step in (2, 2, 3))
    for one, two, three in zip(first, again, later, strict=True):
        assert torch.equal(one[0], two[0])
        assert not torch.equal(one[0], three[0])
        assert torch.equal(one[1]["class"], first[0][1]["class"])
    assert not torch.equal(first[0][0], first[1][0])


# --- evaluation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_accuracy_is_the_share_of_right_answers(batch_size: int) -> None:
    made = problem(DIGITS, evaluation={"batch_size": batch_size})
    model, dataset = made.model(), RotatedDigits()
    scores = made.evaluate(model)
    parts = {"val/0": ("0", "val"), "val/15": ("15", "val"), "test/30": ("30", "all")}
    assert list(scores) == list(parts)
    for name, (domain, part) in parts.items():
        split = dataset.split(domain, part)
        right = model(split.inputs)["class"].argmax(1) == split.targets["class"]
        assert scores[name] == {"class/accuracy": pytest.approx(float(right.double().mean()), abs=1e-7)}


def test_dense_scores_are_over_the_images_of_all_domains(cache: Path) -> None:
    made = problem(scenes(cache), sources="tasks", tasks=TASKS, evaluation={"batch_size": 3})
    data = Scenes(**{key: value for key, value in made.config.data.items() if key != "name"})
    model = made.model()
    scores = made.evaluate(model)
    assert list(scores) == ["val", "test/fog"]
    split = [data.split(domain, "val").batch(range(2)) for domain in ("day", "dusk")]
    inputs = torch.cat([batch[0] for batch in split])
    targets = {task: torch.cat([batch[1][task] for batch in split]) for task in TASKS}
    with torch.no_grad():
        predictions = model.eval()(inputs)
    found = predictions["segmentation"].argmax(1)
    right = found == targets["segmentation"]
    overlaps = []
    for label in range(7):
        mine, true = found == label, targets["segmentation"] == label
        if (mine | true).any():
            overlaps.append(float((mine & true).sum() / (mine | true).sum()))
    val = scores["val"]
    assert val["segmentation/pixel_accuracy"] == pytest.approx(float(right.float().mean()), rel=1e-5)
    assert val["segmentation/miou"] == pytest.approx(sum(overlaps) / len(overlaps), rel=1e-5)
    absolute, relative = [], []
    for rows in (slice(0, 3), slice(3, 4)):  # the published protocol: a mean over batches
        truth = targets["depth"][rows]
        error = (predictions["depth"][rows] - truth).abs()
        absolute.append(float(error[truth > 0].mean()))
        relative.append(float((error / truth)[truth > 0].mean()))
    assert val["depth/abs_err"] == pytest.approx(sum(absolute) / 2, rel=1e-5)
    assert val["depth/rel_err"] == pytest.approx(sum(relative) / 2, rel=1e-5)


def test_looking_changes_nothing(cache: Path) -> None:
    made = problem(scenes(cache))
    model = made.model().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state()
    assert made.evaluate(model) == made.evaluate(model)
    assert made.cosine(model) == made.cosine(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cosine_is_the_mean_over_pairs_of_gradients() -> None:
    made = problem(DIGITS, domains=["0", "15", "45", "30"])
    model = made.model()
    gradients = []
    for inputs, targets in made.objective(model, 0, "cosine").minibatches:  # type: ignore[attr-defined]
        loss = F.cross_entropy(model(inputs)["class"], targets["class"])
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        )
    pairs = [float(F.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(gradients, 2)]
    assert made.cosine(model) == pytest.approx(sum(pairs) / 3, rel=1e-4)
    assert problem(DIGITS, domains=["0", "30"]).cosine(model) is None, "one source has no pair"


# --- what does not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"tasks": ["depht"]}, ("tasks",)),
        ({"domains": ["day", "nigth"], "held_out": []}, ("domains",)),
        ({"held_out": ["nigth"]}, ("held_out",)),
        ({"held_out": ["day", "dusk", "fog"]}, ("held_out",)),
        ({"sources": "views"}, ("sources",)),
    ],
)
def test_what_does_not_fit_the_data_set(cache: Path, changes: dict[str, Any], key: tuple[str]) -> None:
    with pytest.raises(UsageError) as caught:
        problem(scenes(cache), **changes)
    assert caught.value.key == key
