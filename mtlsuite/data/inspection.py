"""What is in a data set: counts, shapes, ranges and the class histogram, from every sample of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..core.errors import UsageError
from .base import DataSet

_UNIT = 0.01  # how far from 1 the length of a normal may be

Walk = Callable[[Iterable[int], str, int], Iterable[int]]  # (indices, title, count) -> the indices


@dataclass
class Summary:
    """What the arrays of one kind (``image`` or a task) hold in one part of a data set.

    Attributes:
        kind: ``image`` or the task.
        shape: of one array, as the data set gives it.
        low, high: the range of valid values.
        valid: share of valid pixels (labels that are not -1, depth and normals that are not 0).
        counts: per class, the labels that have it; empty for other kinds.
    """

    kind: str
    shape: tuple[int, ...] = ()
    low: float = float("inf")
    high: float = float("-inf")
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    _valid: int = 0
    _all: int = 0

    @property
    def valid(self) -> float:
        """Share of valid pixels; 0 where there is none at all."""
        return self._valid / max(self._all, 1)

    def add(self, values: Tensor, n_channels: int) -> None:
        """Take in one array."""
        self.shape = tuple(values.shape)
        mask = _valid_pixels(self.kind, values)
        self._valid += int(mask.sum())
        self._all += mask.numel()
        chosen = values[..., mask] if mask.ndim < values.ndim else values[mask]
        if chosen.numel():
            self.low = min(self.low, float(chosen.min()))
            self.high = max(self.high, float(chosen.max()))
        if self.kind in ("class", "segmentation"):
            counts = torch.bincount(chosen.flatten(), minlength=n_channels)
            self.counts = counts if not len(self.counts) else self.counts + counts


def inspect(
    dataset: DataSet, domain: str, part: str, walk: Walk = lambda indices, *_: indices
) -> tuple[int, list[Summary], list[str]]:
    """Look at every sample of a part as it is, not augmented.

    Returns:
        the number of samples, a summary of each kind, and what breaks the contract of ``DataSet.split``.
    """
    split = cast(Any, dataset.split(domain, part))
    summaries = {kind: Summary(kind) for kind in ("image", *dataset.tasks)}
    problems = []
    for index in walk(range(len(split)), f"{domain} {part}", len(split)):
        try:
            image, targets = split[index]
        except UsageError as error:  # a file that cannot be read
            problems.append(error.message)
            continue
        for kind, values in {"image": image, **targets}.items():
            summaries[kind].add(values, dataset.tasks.get(kind, 0))
            problems += [f"{domain}, {part} {index}: {problem}" for problem in _problems(kind, values)]
    return len(split), list(summaries.values()), problems


def _problems(kind: str, values: Tensor) -> list[str]:
    if not values.isfinite().all():
        return [f"{kind} is NaN or infinite somewhere"]
    if kind == "normals":
        lengths = values.norm(dim=0)
        wrong = (lengths > 0) & ((lengths - 1).abs() > _UNIT)
        if wrong.any():
            odd = float(lengths[wrong].max())
            return [f"{int(wrong.sum())} normals have neither length 1 nor 0, for example {odd:.3g}"]
    if kind == "image" and values.abs().max() > 16:
        return [f"image goes up to {float(values.abs().max()):.4g}; floats should be in [0, 1]"]
    if kind == "depth" and (values < 0).any():
        return [f"depth is negative in {int((values < 0).sum())} pixels"]
    return []


def _valid_pixels(kind: str, values: Tensor) -> Tensor:
    """Which pixels hold something; without the channel axis, so that it picks whole vectors."""
    if kind in ("class", "segmentation"):
        return values >= 0
    if kind == "image":
        return torch.ones_like(values[0], dtype=torch.bool)
    return (values != 0).any(dim=0)
