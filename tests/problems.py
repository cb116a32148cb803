"""Small problems that the tests share: a convolutional trunk with heads, batches, a counter of passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, nn

import mtlsuite as mtl

TASKS = {"a": 2, "b": 1, "c": 3}
mse = nn.functional.mse_loss
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


class Heads(nn.Module):
    """A trunk with a 4-D and a 2-D weight and biases, and one linear head a task."""

    def __init__(self, norm: nn.Module | None = None, tasks: dict[str, int] | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 3, 3), norm or nn.Identity(), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh()
        )
        self.heads = nn.ModuleDict({task: nn.Linear(5, n) for task, n in (tasks or TASKS).items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.trunk(inputs)
        return {task: head(features) for task, head in self.heads.items()}

    def shared_parameters(self) -> list[Tensor]:
        return list(self.trunk.parameters())

    def specific_parameters(self) -> list[list[Tensor]]:
        return [list(head.parameters()) for head in self.heads.values()]


class One(Heads):
    """The same with a single output that is a tensor, for domains."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__(norm, {"only": 2})

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)["only"]


class Masked:
    """Mean over the entries that are not NaN; unguarded, so it must not be asked in vain."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        valid = ~target.isnan()
        return (prediction[valid] - target[valid]).square().sum() / valid.sum()

    def count(self, target: Tensor) -> Tensor:
        return (~target.isnan()).sum()


def task_batch(seed: int, size: int = 7, dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 1, 4, 4, generator=g, dtype=torch.float64)
    targets = {t: torch.randn(size, n, generator=g, dtype=torch.float64) + 1 for t, n in TASKS.items()}
    return inputs.to(dtype), {t: y.to(dtype) for t, y in targets.items()}


def domain_batches(seed: int, sizes=(4, 6, 5, 3), dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [
        (
            (torch.randn(n, 1, 4, 4, generator=g, dtype=torch.float64) + d).to(dtype),
            (torch.randn(n, 2, generator=g, dtype=torch.float64) - d).to(dtype),
        )
        for d, n in enumerate(sizes)
    ]


def seeded(make, seed: int = 0, dtype: torch.dtype = torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().to(dtype)


def task_objective(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> mtl.TaskObjective:
    inputs, targets = task_batch(seed, dtype=dtype)
    return mtl.TaskObjective(model, inputs, targets, dict.fromkeys(TASKS, mse))


def domain_objective(model: nn.Module, seed: int = 0, graph="auto", **kwargs) -> mtl.DomainObjective:
    return mtl.DomainObjective(model, domain_batches(seed, **kwargs), mse, graph=graph)


@dataclass
class Passes:
    """Forwards of the model (with their batch sizes) and backward passes."""

    sizes: list[int] = field(default_factory=list)
    backwards: int = 0

    @property
    def forwards(self) -> int:
        return len(self.sizes)

    @property
    def counts(self) -> tuple[int, int]:
        return self.forwards, self.backwards

    def watch(self, model: nn.Module) -> nn.Module:
        model.register_forward_hook(lambda _m, inputs, _o: self.sizes.append(len(inputs[0])))
        return model

    def reset(self) -> None:
        self.sizes.clear()
        self.backwards = 0


def task_losses(model):
    def losses(seed: int):
        inputs, targets = task_batch(seed)
        prediction = model(inputs)
        return [mse(prediction[t], targets[t]) for t in TASKS]

    return losses


WRAPPERS = {  # with options that matter in the few steps of a test
    "sam": {},
    "sage": {},
    "disam": {},
    "samo": {"rho": 0.02},
    "gsam": {},
    "sagm": {"ascent": {"name": "disam", "lambda": 0.2}},
    "gga": {"start_step": 0, "end_step": 3, "n_search": 3, "radius": 1e-3},
    "gga_l": {},
    "gradient_equilibrium": {},
    "arithmetic": {"inner_lr": 0.01},
    "fish": {"inner_lr": 0.01},
}
BASES = ("equal", "nash_mtl", "famo")


def nested(base: str | dict, *names: str) -> tuple[str, dict]:
    """A name like sam(sage(equal)) and the spec of it."""
    label = base if isinstance(base, str) else base.get("aggregator", base.get("scalarizer"))
    text = f"{'('.join([*names, label])}{')' * len(names)}"
    return text, {"base": base, "wrap": [{"name": name, **WRAPPERS[name]} for name in names]}


NESTINGS = dict(
    [nested(base) for base in BASES]
    + [nested(base, name) for base in BASES for name in WRAPPERS]
    + [nested("famo", *pair) for pair in product(WRAPPERS, repeat=2)]
)
TYPICAL = dict(
    nested(*names)
    for names in (
        ("equal",),
        ("nash_mtl",),
        ("famo",),
        ("famo", "sam"),
        ("nash_mtl", "sage"),
        ("equal", "sam", "sage"),
        ("famo", "sage", "sam"),
        ("equal", "gga", "samo"),
        ("nash_mtl", "gsam"),
    )
)
