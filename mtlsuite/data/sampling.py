"""Which samples make up the batch of a step: a function of (seed, stream, step), so a resume is exact."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from ..core.errors import UsageError
from .base import Sample


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class BatchStream:
    """An endless stream of batches of a data set, by step number.

    Args:
        samples: map-style data set of ``(input, {task: target})``.
        batch_size: samples a batch; the last batch of an epoch may be smaller.
        seed: together with ``name`` it fixes all draws.
        name: of the stream, so that several streams draw differently.
        replacement: draw each batch with replacement (as DomainBed does) instead of shuffled epochs.

    Raises:
        UsageError: the data set is empty.
    """

    def __init__(
        self, samples: Dataset[Sample], batch_size: int, seed: int, name: str, replacement: bool = False
    ) -> None:
        self.samples = samples
        self.size = len(samples)  # type: ignore[arg-type]
        if not self.size:
            raise UsageError(f"the training data of {name!r} is empty")
        self.batch_size = batch_size
        self.replacement = replacement
        self._key = (seed, name)
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Batches that go once through the data."""
        return math.ceil(self.size / self.batch_size)

    def batch(self, step: int) -> Sample:
        """The batch of a step, counted from 0: (B, ...) inputs and targets."""
        return gather(self.samples, self.indices(step))

    def indices(self, step: int) -> list[int]:
        """The samples in the batch of a step."""
        if self.replacement:
            return torch.randint(self.size, (self.batch_size,), generator=self._generator(step)).tolist()
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, torch.randperm(self.size, generator=self._generator(epoch)).tolist())
        return self._order[1][position * self.batch_size : (position + 1) * self.batch_size]

    def _generator(self, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(*self._key, index))


def gather(samples: Dataset[Sample], indices: list[int]) -> Sample:
    """A batch by index; at one stroke where the data set offers ``batch``."""
    if hasattr(samples, "batch"):
        return samples.batch(indices)  # type: ignore[no-any-return]
    return default_collate([samples[i] for i in indices])  # type: ignore[no-any-return]


def pooled(splits: list[Dataset[Sample]]) -> Dataset[Sample]:
    """Several splits as one data set."""
    return splits[0] if len(splits) == 1 else ConcatDataset(splits)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on a device, tensor by tensor."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return tuple(to_device(value, device) for value in batch)
