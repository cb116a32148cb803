"""A short run of the YAML runner, and all that another framework needs to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mtlsuite.experiments.checkpoint import read_checkpoint
from mtlsuite.experiments.config import Config
from mtlsuite.experiments.trainer import CHECKPOINT, Trainer

SEED, STEPS = 3, 4
SPEC = {"base": "nash_mtl", "wrap": [{"name": "sage", "rho": 0.02, "gamma": 0.01}]}  # draws noise each step
LR, WEIGHT_DECAY, WIDTH = 1e-3, 1e-4, 8


@dataclass
class Run:
    """What the runner began with, saw and arrived at."""

    model: nn.Module
    minibatches: list[list[tuple[Tensor, Tensor]]]
    parameters: list[Tensor]


def run(folder: Path) -> Run:
    """Train on two domains of rotated digits."""
    trainer = Trainer(
        Config.model_validate(
            {
                "name": "run",
                "data": {"name": "rotated_digits"},
                "model": {"name": "mlp", "width": WIDTH, "depth": 1},
                "sources": "domains",
                "domains": ["0", "15", "30"],
                "held_out": "30",
                "solver": SPEC,
                "optimizer": {"name": "Adam", "lr": LR, "weight_decay": WEIGHT_DECAY},
                "train": {"steps": STEPS, "batch_size": 5},
                "evaluation": {"every": 2},
                "seed": SEED,
                "threads": 1,
                "device": "cpu",
            }
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    trainer.run(folder, resume=False, progress=lambda _: None)
    problem, model = trainer.problem, trainer.problem.model()
    minibatches = [
        [(x, y["class"]) for x, y in problem.objective(model, step).minibatches] for step in range(STEPS)
    ]
    state = read_checkpoint(folder / CHECKPOINT, torch.device("cpu"))["model"]
    return Run(model, minibatches, [state[name] for name, _ in model.named_parameters()])
