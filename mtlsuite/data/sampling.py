"""Which samples make up the batch of a step: a function of (seed, stream, step), so a resume is exact.

So is what a random augmentation draws: a split may offer ``augmented(index, generator)``, and the generator
it is given depends on (seed, stream, step, position in the batch) alone, whichever thread or process asks.
Ranks that share a batch therefore hold, together, exactly the batch of one process.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from ..core.errors import UsageError
from ..core.ranks import ALONE, Ranks
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
        augment: take ``samples.augmented(index, generator)`` where the data set offers it.
        ranks: who share each batch: rank r of W gets its positions r, r + W, r + 2 W, ...

    A data set whose attribute ``read_ahead`` is true, one that reads files, has the batch of the next step
    prepared by a thread while this one is used.

    Raises:
        UsageError: the data set is empty.
    """

    def __init__(
        self,
        samples: Dataset[Sample],
        batch_size: int,
        seed: int,
        name: str,
        replacement: bool = False,
        augment: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.samples = samples
        self.size = len(samples)  # type: ignore[arg-type]
        if not self.size:
            raise UsageError(f"the training data of {name!r} is empty")
        self.batch_size = batch_size
        self.replacement, self.augment = replacement, augment
        self._rank, self._ranks = ranks.rank, ranks.size
        self._reader = ThreadPoolExecutor(1) if _reads_ahead(samples) else None
        self._next: tuple[int, Future[Sample | None]] | None = None
        self._key = (seed, name)
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Batches that go once through the data."""
        return math.ceil(self.size / self.batch_size)

    @property
    def smallest(self) -> int:
        """Samples in the smallest batch."""
        return self.batch_size if self.replacement else (self.size - 1) % self.batch_size + 1

    def batch(self, step: int) -> Sample | None:
        """This rank's share in the batch of a step, counted from 0: (B, ...) inputs and targets.

        None where the batch has fewer samples than there are ranks and none is left for this one.
        """
        if self._reader is None:
            return _share(*self._request(step))
        ready, self._next = self._next, None
        batch = ready[1].result() if ready and ready[0] == step else _share(*self._request(step))
        self._next = (step + 1, self._reader.submit(_share, *self._request(step + 1)))
        return batch

    def positions(self, step: int) -> range:
        """This rank's positions in the batch of a step."""
        return range(self._rank, len(self.indices(step)), self._ranks)

    def _request(
        self, step: int
    ) -> tuple[Dataset[Sample], list[int], tuple[object, ...] | None, Sequence[int]]:
        """The arguments of ``gather``."""
        positions, indices = self.positions(step), self.indices(step)
        key = (*self._key, "augment", step) if self.augment else None
        return self.samples, [indices[position] for position in positions], key, positions

    def indices(self, step: int) -> list[int]:
        """The samples in the batch of a step, those of all ranks."""
        if self.replacement:
            return torch.randint(self.size, (self.batch_size,), generator=self._generator(step)).tolist()
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, torch.randperm(self.size, generator=self._generator(epoch)).tolist())
        return self._order[1][position * self.batch_size : (position + 1) * self.batch_size]

    def _generator(self, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(*self._key, index))


def gather(
    samples: Dataset[Sample],
    indices: Sequence[int],
    key: tuple[object, ...] | None = None,
    positions: Sequence[int] | None = None,
) -> Sample:
    """A batch by index; at one stroke where the data set offers ``batch``.

    Args:
        key: what random augmentation depends on, beside the position in the batch; None: no augmentation.
        positions: of these samples in the batch, if they are not the whole of it.
    """
    if key is not None and _augments(samples):
        places = range(len(indices)) if positions is None else positions
        draws = [torch.Generator().manual_seed(derived_seed(*key, place)) for place in places]
        return default_collate([_augmented(samples, i, g) for i, g in zip(indices, draws, strict=True)])  # type: ignore[no-any-return]
    if hasattr(samples, "batch"):
        return samples.batch(indices)  # type: ignore[no-any-return]
    return default_collate([samples[i] for i in indices])  # type: ignore[no-any-return]


def _share(
    samples: Dataset[Sample],
    indices: Sequence[int],
    key: tuple[object, ...] | None,
    positions: Sequence[int],
) -> Sample | None:
    return gather(samples, indices, key, positions) if indices else None


def _augmented(samples: Dataset[Sample], index: int, generator: torch.Generator) -> Sample:
    if isinstance(samples, ConcatDataset):
        part = bisect.bisect_right(samples.cumulative_sizes, index)
        before = samples.cumulative_sizes[part - 1] if part else 0
        return _augmented(samples.datasets[part], index - before, generator)
    if hasattr(samples, "augmented"):
        return samples.augmented(index, generator)  # type: ignore[no-any-return]
    return samples[index]


def _augments(samples: Dataset[Sample]) -> bool:
    return any(hasattr(part, "augmented") for part in _parts(samples))


def _reads_ahead(samples: Dataset[Sample]) -> bool:
    return all(getattr(part, "read_ahead", False) for part in _parts(samples))


def _parts(samples: Dataset[Sample]) -> list[Dataset[Sample]]:
    return samples.datasets if isinstance(samples, ConcatDataset) else [samples]


def pooled(splits: list[Dataset[Sample]]) -> Dataset[Sample]:
    """Several splits as one data set."""
    return splits[0] if len(splits) == 1 else ConcatDataset(splits)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on a device, tensor by tensor; None is none."""
    if batch is None:
        return None
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return tuple(to_device(value, device) for value in batch)
