"""Small problems for the tests of the LibMTL plugin: every architecture with two tasks on tiny images."""

from __future__ import annotations

import re
import warnings
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mtlsuite as mtl

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # what was repaired is looked at in test_libmtl_import.py
    from mtlsuite.plugins import libmtl

import LibMTL.architecture
from LibMTL.loss import AbsLoss, CELoss
from LibMTL.metrics import AbsMetric, AccMetric

TASKS = {"digit": 5, "size": 1}
IMAGE = (3, 32, 32)
ARCHITECTURES = {
    "HPS": {},
    "Cross_stitch": {},
    "MTAN": {},
    "MMoE": {"img_size": IMAGE, "num_experts": [2]},
    "CGC": {"img_size": IMAGE, "num_experts": [1, 1, 2]},
    "PLE": {"img_size": IMAGE, "num_experts": [1, 1, 1]},
    "DSelect_k": {"img_size": IMAGE, "num_experts": [4], "num_nonzeros": 2, "kgamma": 1.0},
}
SGD = {"optim": "sgd", "lr": 0.05, "momentum": 0.9}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).tanh()


class Residual(nn.Module):
    """What LibMTL's architectures need of a ResNet: the names of its parts, and two blocks a layer."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8, 8)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0])
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(2)
        before = widths[0]
        for i, width in enumerate(widths, start=1):
            layer = nn.Sequential(Block(before, width, 1 if i == 1 else 2), Block(width, width))
            setattr(self, f"layer{i}", layer)
            before = width
        self.feature_dim = before

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def wide() -> Residual:
    """With the widths that MTAN takes for granted."""
    return Residual((64, 128, 256, 512))


class SquareLoss(AbsLoss):
    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        return (pred - gt).square().mean()


class ErrorMetric(AbsMetric):
    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        self.record.append((pred - gt).abs().sum().item())
        self.bs.append(len(pred))

    def score_fun(self) -> list[float]:
        return [sum(self.record) / sum(self.bs)]


def task_dict() -> dict:
    return {
        "digit": {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]},
        "size": {"metrics": ["Err"], "metrics_fn": ErrorMetric(), "loss_fn": SquareLoss(), "weight": [0]},
    }


CRITERIA = {"digit": nn.functional.cross_entropy, "size": nn.functional.mse_loss}


def samples(n: int = 8, seed: int = 0) -> list[tuple[Tensor, dict[str, Tensor]]]:
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(n, *IMAGE, generator=g)
    digits = torch.arange(n) % TASKS["digit"]
    sizes = images.mean(dim=(1, 2, 3))[:, None] + digits[:, None] / 2
    return [(images[i], {"digit": digits[i], "size": sizes[i]}) for i in range(n)]


def loaders(multi_input: bool = False, seed: int = 0, n: int = 8):
    """Batches of four, always the same ones; with ``multi_input`` one loader a task, of unequal lengths."""
    if not multi_input:
        return DataLoader(samples(n, seed), batch_size=4)
    return {
        task: DataLoader([(x, y[task]) for x, y in samples(n - 4 * k, seed + k)], batch_size=4)
        for k, task in enumerate(TASKS)
    }


def arguments(architecture: str = "HPS", multi_input: bool = False, optim: dict = SGD) -> dict:
    torch.manual_seed(0)
    channels = 512 if architecture == "MTAN" else 8
    return {
        "task_dict": task_dict(),
        "architecture": getattr(LibMTL.architecture, architecture),
        "encoder_class": wide if architecture == "MTAN" else Residual,
        "decoders": nn.ModuleDict(
            {
                task: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, size))
                for task, size in TASKS.items()
            }
        ),
        "rep_grad": False,
        "multi_input": multi_input,
        "optim_param": dict(optim),
        "scheduler_param": None,
        "weight_args": {},
        "arch_args": dict(ARCHITECTURES[architecture]),
    }


def trainer(solver=None, architecture: str = "HPS", multi_input: bool = False, **changes) -> libmtl.Trainer:
    kwargs = arguments(architecture, multi_input) | changes
    return libmtl.Trainer(solver=solver, device="cpu", **kwargs)


def reference(model: nn.Module, spec, loader, epochs: int = 1, optim: dict = SGD) -> list[mtl.StepReport]:
    """Train the model by the suite alone: objectives of plain closures, private parameters by their names."""
    solver = mtl.build_solver(spec, n_sources=len(TASKS))
    options = {key: value for key, value in optim.items() if key != "optim"}
    optimizer = torch.optim.SGD(model.parameters(), **options)
    shared = list(model.get_share_params())
    known = {id(p) for p in shared}
    private = {task: [] for task in TASKS}
    for name, parameter in model.named_parameters():
        if id(parameter) not in known:
            for task in owners(name):
                private[task].append(parameter)
    reports = []
    for _ in range(epochs):
        model.train()
        for batch in batches(loader):
            losses = partial(losses_of, model, batch)
            source = lambda k, losses=losses: losses([list(TASKS)[k]])[0]  # noqa: E731
            objective = mtl.Objective(
                losses, shared, list(private.values()), source, names=list(TASKS), modules=[model]
            )
            reports.append(solver.step(objective, optimizer))
    return reports


def owners(name: str) -> list[str]:
    """The tasks that a private parameter belongs to; MTAN numbers its attention modules, and shares some."""
    named = [task for task in TASKS if task in name.split(".")]
    if "encoder_att" in name:
        return [list(TASKS)[int(name.split(".")[3])]]
    return named or list(TASKS)


def batches(loader):
    if not isinstance(loader, dict):
        return list(loader)
    lists = {task: list(own) for task, own in loader.items()}
    longest = max(map(len, lists.values()))
    return [{task: own[i % len(own)] for task, own in lists.items()} for i in range(longest)]


def losses_of(model: nn.Module, batch, tasks=tuple(TASKS)) -> list[Tensor]:
    with torch.enable_grad():  # the forward pass of DSelect-k runs a backward pass, whatever is wanted
        if isinstance(batch, dict):
            return [CRITERIA[t](model(batch[t][0], t)[t], batch[t][1]) for t in tasks]
        inputs, targets = batch
        predictions = model(inputs)
        return [CRITERIA[t](predictions[t], targets[t]) for t in tasks]


def tables(printed: str) -> list[list[float]]:
    """The numbers of the epochs that LibMTL printed, their times left out."""
    rows = []
    for line in printed.splitlines():
        if line.startswith("Epoch:"):
            line = re.sub(r"Time: [\d.]+", "", line.removeprefix("Epoch:"))
            rows.append([float(number) for number in re.findall(r"-?[\d.]+|nan", line)])
    return rows


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    """Parameters and BatchNorm statistics agree."""
    found, wanted = values(one), values(other)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")
