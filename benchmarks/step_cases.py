"""Models and batches whose training step the benchmark ``step_cost`` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mtlsuite as mtl
from mtlsuite.models.backbones import ResNet, ResNet18, ResNet50
from mtlsuite.models.base import MultiTaskModel
from mtlsuite.models.classifiers import MLP
from mtlsuite.models.mtan import MTAN

Criterion = Callable[[Tensor, Tensor], Tensor]
N_CLASSES = 7  # of a classifier, as in PACS


@dataclass(frozen=True)
class Problem:
    """A model and one batch with K sources, for our solvers and for code that knows nothing of them.

    Attributes:
        model: in training mode.
        objective: makes our objective of the batch, as a training loop does at every step.
        joint: () -> the K losses by one forward of the whole batch.
        source: k -> loss of source k by a forward of what it needs alone.
        n_sources: K.
        separate: whether the gradients of single sources have graphs of their own in our step.
        shared: parameters that every source can reach.
        specific: parameters of each source alone; empty where all are shared.
        heads: the modules that own them.
    """

    model: nn.Module
    objective: Callable[[], mtl.Objective]
    joint: Callable[[], list[Tensor]]
    source: Callable[[int], Tensor]
    n_sources: int
    separate: bool
    shared: Sequence[nn.Parameter]
    specific: Sequence[Sequence[nn.Parameter]] = ()
    heads: Sequence[nn.Module] = ()
    parameters: Sequence[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        own = [parameter for group in self.specific for parameter in group]
        object.__setattr__(self, "parameters", [*self.shared, *own])


@dataclass(frozen=True)
class Case:
    """A problem to measure.

    Attributes:
        title: what it is, for people.
        build: (device, full) -> the problem, the same at every call; ``full``: the published sizes.
        heavy: whether its steps take long, on a CPU, so that fewer are measured unless more are asked for.
    """

    title: str
    build: Callable[[torch.device, bool], Problem]
    heavy: bool = True


def task_problem(
    model: MultiTaskModel, inputs: Tensor, targets: Mapping[str, Tensor], criteria: Mapping[str, Criterion]
) -> Problem:
    """One batch, a source a task; the heads are specific."""

    def losses() -> list[Tensor]:
        predictions = model(inputs)
        return [criterion(predictions[task], targets[task]) for task, criterion in criteria.items()]

    return Problem(
        model,
        lambda: mtl.TaskObjective(model, inputs, targets, criteria),
        losses,
        lambda k: losses()[k],
        len(criteria),
        separate=False,
        shared=model.shared_parameters(),
        specific=model.specific_parameters(),
        heads=list(model.heads.values()),
    )


def domain_problem(
    model: nn.Module, minibatches: Sequence[tuple[Tensor, Tensor]], separate: bool = True
) -> Problem:
    """A minibatch of images and labels a domain; the model's prediction is ``{"class": logits}``."""

    def criterion(predictions: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(predictions["class"], labels)

    def losses() -> list[Tensor]:
        logits = model(torch.cat([images for images, _ in minibatches]))["class"]
        parts = logits.split([len(labels) for _, labels in minibatches])
        return [F.cross_entropy(part, labels) for part, (_, labels) in zip(parts, minibatches, strict=True)]

    def source(k: int) -> Tensor:
        images, labels = minibatches[k]
        return criterion(model(images), labels)

    return Problem(
        model,
        lambda: mtl.DomainObjective(model, minibatches, criterion),
        losses,
        source,
        len(minibatches),
        separate,
        shared=list(model.parameters()),
    )


def _segmentation(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes)


def _depth(prediction: Tensor, depth: Tensor) -> Tensor:
    return F.l1_loss(prediction, depth)


def _normals(prediction: Tensor, normals: Tensor) -> Tensor:
    return 1 - (F.normalize(prediction, dim=1) * normals).sum(1).mean()


def mtan(n_tasks: int, device: torch.device, full: bool) -> Problem:
    """SegNet-MTAN on noise: segmentation, depth and, of three tasks, normals.

    In full the sizes of the published runs: 8 images of 128x256 (two tasks, Cityscapes), 2 of 288x384 (three,
    NYUv2); else 2 images of 64x96.
    """
    n_images, size = (8, (128, 256)) if n_tasks == 2 else (2, (288, 384))
    if not full:
        n_images, size = 2, (64, 96)
    channels = {"segmentation": 7 if n_tasks == 2 else 13, "depth": 1, "normals": 3}
    criteria = {"segmentation": _segmentation, "depth": _depth, "normals": _normals}
    with _seeded():
        model = MTAN(dict(list(channels.items())[:n_tasks]))
        images = torch.randn(n_images, 3, *size)
        targets = {
            "segmentation": torch.randint(channels["segmentation"], (n_images, *size)),
            "depth": torch.rand(n_images, 1, *size),
            "normals": F.normalize(torch.randn(n_images, 3, *size), dim=1),
        }
    model.to(device)
    return task_problem(
        model,
        images.to(device),
        {task: target.to(device) for task, target in targets.items()},
        dict(list(criteria.items())[:n_tasks]),
    )


def resnet(
    architecture: type[ResNet], n_domains: int, frozen: bool, device: torch.device, full: bool
) -> Problem:
    """A ResNet on noise: 32 images of 96x96 a domain, of ResNet-50 8; in full, 32 of 224x224.

    Args:
        architecture: ResNet-18 or ResNet-50.
        n_domains: K.
        frozen: BatchNorm in evaluation mode, as DomainBed has it: the domains have graphs of their own. Else
            the batch statistics are those of all domains: one graph.
        device, full: as of every case.
    """
    n_images = 32 if full or architecture is ResNet18 else 8
    size = 224 if full else 96
    with _seeded():
        model = architecture({"class": N_CLASSES}, freeze_bn=frozen)
        images = torch.randn(n_domains, n_images, 3, size, size)
        labels = torch.randint(N_CLASSES, (n_domains, n_images))
    model.to(device)
    minibatches = list(zip(images.to(device), labels.to(device), strict=True))
    return domain_problem(model, minibatches, separate=frozen)


def mlp(
    n_domains: int,
    device: torch.device,
    full: bool,  # noqa: ARG001  (there are no published sizes)
    n_images: int = 32,
    width: int = 256,
) -> Problem:
    """Two hidden layers on noise of 1x28x28, 32 images a domain; the domains have graphs of their own."""
    with _seeded():
        model = MLP({"class": 10}, (1, 28, 28), width=width)
        images = torch.randn(n_domains, n_images, 1, 28, 28)
        labels = torch.randint(10, (n_domains, n_images))
    model.to(device)
    return domain_problem(model, list(zip(images.to(device), labels.to(device), strict=True)))


@contextmanager
def _seeded() -> Iterator[None]:
    """Inside, the global generator starts from 0; afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _cases() -> Iterator[tuple[str, Case]]:
    for n in (2, 3):
        yield f"mtan-{n}", Case(f"SegNet-MTAN, {n} tasks", partial(mtan, n))
    for architecture, name in ((ResNet18, "ResNet-18"), (ResNet50, "ResNet-50")):
        short = name.lower().replace("-", "")
        for n in (3, 5):
            title = f"{name}, {n} domains"
            yield f"{short}-{n}", Case(title, partial(resnet, architecture, n, True))
            yield (
                f"{short}-bn-{n}",
                Case(f"{title}, training BatchNorm", partial(resnet, architecture, n, False)),
            )
    for n in (2, 5, 10, 20, 40):
        yield f"mlp-{n}", Case(f"MLP, {n} domains", partial(mlp, n), heavy=n > 10)


CASES: dict[str, Case] = dict(_cases())
DEFAULT = ("mtan-3", "resnet18-3", *(name for name in CASES if name.startswith("mlp")))
