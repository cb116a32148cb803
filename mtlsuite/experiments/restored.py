"""A finished run brought back from its folder: the model that was evaluated last, and the data it saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.registry import load_plugin
from ..data.sampling import gather, to_device
from .checkpoint import read_checkpoint
from .config import validate
from .problem import Problem
from .results import RunResult
from .trainer import CHECKPOINT, Trainer

Place = tuple[str, int]  # domain, number of the image in its evaluation split


@dataclass(frozen=True)
class Restored:
    """Problem and model of a finished run.

    Attributes:
        problem: as the run's config describes it.
        model: the one whose metrics were recorded last (the averaged one if there is one), in evaluation
            mode.
        splits: domain -> images that are evaluated: held-out domains as a whole where there are any, else
            the validation parts of the training domains.
    """

    problem: Problem
    model: nn.Module
    splits: dict[str, Any]

    @torch.no_grad()
    def predict(self, domain: str, indices: Sequence[int]) -> tuple[Tensor, Any, Any]:
        """Inputs, targets by task and predictions by task of these images, (B, ...) each, on the device."""
        inputs, targets = to_device(gather(self.splits[domain], indices), self.problem.device)
        return inputs, targets, self.model(inputs)

    @property
    def batch_size(self) -> int:
        """Images in a batch of an evaluation."""
        return self.problem.config.evaluation.batch_size


def restore(run: RunResult, folder: Path) -> Restored:
    """Bring back the run in ``folder`` from its ``config.yaml`` and ``checkpoint.pt`` alone.

    The global random state stays as it was.

    Raises:
        UsageError: the checkpoint is missing, unreadable or of another model; the config is no longer valid,
            or its data set or a plugin cannot be loaded.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise UsageError(f"no {CHECKPOINT}")
    for plugin in run.config.get("plugins") or ():
        load_plugin(plugin)
    problem = Trainer(validate(run.config)).problem
    state = read_checkpoint(path, torch.device("cpu"))
    with torch.random.fork_rng([problem.device] if problem.device.type == "cuda" else []):
        model = problem.model()
    try:
        model.load_state_dict(state["averaged"] or state["model"])
    except RuntimeError as error:
        raise UsageError(f"{CHECKPOINT} does not fit the model of the config: {error}") from None
    domains, part = (problem.held_out, "all") if problem.held_out else (problem.domains, "val")
    splits = {domain: problem.dataset.split(domain, part) for domain in domains}
    return Restored(problem, model.eval(), splits)


def fixed_places(splits: dict[str, Any], count: int) -> list[Place]:
    """``count`` images spread evenly over all splits in their order, always the same; all if there are fewer.

    Of N images in a row, number floor((i + 1/2) N / count) for i = 0 .. count - 1.
    """
    places = [(domain, index) for domain, split in splits.items() for index in range(len(split))]
    count = min(count, len(places))
    return [places[(2 * i + 1) * len(places) // (2 * count)] for i in range(count)]
