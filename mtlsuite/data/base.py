"""What every data set offers, and splits that are held in memory."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import UsageError, unknown_name

PARTS = ("train", "val", "all")

Sample: TypeAlias = tuple[Tensor, dict[str, Tensor]]


class DataSet(abc.ABC):
    """Images of several visual domains with one or several tasks.

    Attributes:
        name: the name it is registered under.
        domains: all visual domains, in order.
        tasks: number of output channels of each task, e.g. ``{"class": 10}`` or
            ``{"segmentation": 7, "depth": 1, "normals": 3}``.
        input_shape: (C, H, W) of every image.
        classes: names of the classes, or empty where they have none.
    """

    name: str
    domains: tuple[str, ...]
    tasks: dict[str, int]
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()

    @abc.abstractmethod
    def split(self, domain: str, part: str) -> Dataset[Sample]:
        """The images of one domain: ``train``, ``val``, or ``all`` of them.

        Item i is ``(image, {task: target})``: image float32 (C, H, W); class int64 (); segmentation int64
        (H, W), -1 = ignore; depth float32 (1, H, W), 0 = invalid; normals float32 (3, H, W), unit
        vectors, zero = invalid.

        Raises:
            UsageError: no such domain or part.
        """

    def validation(self, domain: str) -> Dataset[Sample]:
        """What a training domain is validated on; a protocol may want its ``val`` in another form."""
        return self.split(domain, "val")

    def test(self, domain: str) -> Dataset[Sample]:
        """What a held-out domain is tested on; a protocol may want a part of it."""
        return self.split(domain, "all")

    def check(self, domain: str, part: str) -> None:
        """Raise a UsageError unless there is such a domain and such a part."""
        if domain not in self.domains:
            raise UsageError(unknown_name(f"domain of {self.name}", domain, self.domains))
        if part not in PARTS:
            raise UsageError(unknown_name("part", part, PARTS))


class TensorSplit(Dataset[Sample]):
    """A split held in memory, so that a whole batch is gathered by one index.

    Args:
        inputs: (N, C, H, W).
        targets: per task, N targets.

    Raises:
        UsageError: a task has more or fewer targets than there are inputs.
    """

    def __init__(self, inputs: Tensor, targets: dict[str, Tensor]) -> None:
        for task, values in targets.items():
            if len(values) != len(inputs):
                raise UsageError(f"{len(inputs)} inputs, but {len(values)} targets of {task!r}")
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample:
        inputs, targets = self.batch([index])
        return inputs[0], {task: values[0] for task, values in targets.items()}

    def batch(self, indices: Sequence[int]) -> Sample:
        """The images (B, C, H, W) and targets at ``indices``, what ``__getitem__`` gives stacked."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return self.inputs[rows], {task: values[rows] for task, values in self.targets.items()}
