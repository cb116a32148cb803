"""ParameterSpace: the parameters of a problem as one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from .errors import UsageError
from .pool import Pool


class ParameterSpace:
    """The P entries of all trained parameters: the shared ones first, then those of single sources.

    Frozen parameters (``requires_grad=False``) are left out.

    Args:
        shared: parameters that every source can reach.
        specific: for each source, the parameters that are its own (a task head). A parameter may stand
            in several of these lists: the head of a task that several domains feed.

    Raises:
        UsageError: a parameter is both shared and specific, listed twice, not a floating-point leaf, on
            another device than the rest; or nothing is left to train.
    """

    def __init__(self, shared: Iterable[Tensor], specific: Sequence[Iterable[Tensor]] = ()) -> None:
        shared = _trainable(shared, "shared")
        own = [_trainable(group, f"specific[{k}]") for k, group in enumerate(specific)]
        _check_disjoint(shared, own)
        self.anchors: list[Tensor] = []  # (P,) values that blocks of `restored` come back to, outermost first
        self.parameters = shared + list({id(p): p for group in own for p in group}.values())
        if not self.parameters:
            raise UsageError("no parameter to train: all are frozen (requires_grad=False) or none was given")
        number = {id(p): index for index, p in enumerate(self.parameters)}
        self._own = [[number[id(p)] for p in group] for group in own]
        self.sizes = [p.numel() for p in self.parameters]
        self.n_shared = sum(p.numel() for p in shared)
        self.n_entries = sum(self.sizes)
        self.device = _common_device(self.parameters)
        self.dtype = self.parameters[0].dtype
        for parameter in self.parameters[1:]:
            self.dtype = torch.promote_types(self.dtype, parameter.dtype)

    def vector(self, pool: Pool) -> Tensor:
        """An uninitialised (P,) vector."""
        return pool.take(self.n_entries, dtype=self.dtype, device=self.device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """A (P,) vector seen parameter by parameter, in their shapes and memory formats.

        No copy, unless the vector is no stretch of memory (an expanded scalar).
        """
        flat = flat.contiguous()
        first = flat.storage_offset()
        return [flat.as_strided(shape, strides, first + at) for shape, strides, at in self._layout]

    @cached_property
    def _layout(self) -> list[tuple[torch.Size, tuple[int, ...], int]]:
        """Shape, strides and place of every parameter."""
        ends = list(accumulate(self.sizes, initial=0))
        return [(p.shape, _dense_strides(p), at) for p, at in zip(self.parameters, ends, strict=False)]

    def of_sources(self, places: Sequence[int]) -> ParameterSpace:
        """The same parameters, for some of the sources only."""
        other = copy.copy(self)
        other._own = [self._own[k] for k in places] if self._own else []
        return other

    def blocks(self, length: int, n_entries: int) -> list[ParameterSpace]:
        """The first ``length`` entries in blocks of ``n_entries`` at most; a larger parameter is a block."""
        blocks: list[list[int]] = []
        room, taken = 0, 0
        for index, size in enumerate(self.sizes):
            if taken == length:
                break
            if not blocks or size > room:
                blocks.append([])
                room = n_entries
            blocks[-1].append(index)
            room, taken = room - size, taken + size
        return [self._only(block) for block in blocks]

    def own_views(self, flat: Tensor, k: int) -> list[Tensor]:
        """Those of the :meth:`views` that belong to the specific parameters of source ``k``."""
        views = self.views(flat)
        return [views[index] for index in self._own[k]] if self._own else []

    @torch.no_grad()
    def write(self, flat: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Set a (P,) vector from one tensor a parameter; ``None`` stands for zeros."""
        self._fill(flat, gradients, torch._foreach_copy_)
        missing = [v for v, g in zip(self.views(flat), gradients, strict=True) if g is None]
        if missing:
            torch._foreach_zero_(missing)

    @torch.no_grad()
    def add(self, flat: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Add one tensor a parameter to a (P,) vector; ``None`` stands for zeros."""
        self._fill(flat, gradients, torch._foreach_add_)

    @torch.no_grad()
    def copy(self, pool: Pool) -> Tensor:
        """The parameters' values as a (P,) vector."""
        flat = self.vector(pool)
        torch._foreach_copy_(self.views(flat), self.parameters)
        return flat

    @torch.no_grad()
    def set(self, flat: Tensor) -> None:
        """Set the parameters to the values of a (P,) vector."""
        torch._foreach_copy_(self.parameters, self.views(flat))

    @torch.no_grad()
    def move(self, displacement: Tensor) -> None:
        """Add a (P,) vector to the parameters."""
        torch._foreach_add_(self.parameters, self.views(displacement))

    @torch.no_grad()
    def shift(self, displacement: Tensor) -> None:
        """Add a (P,) vector to the parameters and to every value that they will come back to."""
        self.move(displacement)
        for anchor in self.anchors:
            anchor.add_(displacement)

    @contextmanager
    def restored(self, pool: Pool) -> Iterator[None]:
        """After the block the parameters are what they were before it, bit for bit (plus any ``shift``)."""
        self.anchors.append(self.copy(pool))
        try:
            yield
        finally:
            self.set(self.anchors.pop())

    def set_gradients(self, flat: Tensor) -> None:
        """Make each parameter's ``.grad`` its piece of a (P,) vector (a view where the dtypes agree)."""
        for parameter, piece in zip(self.parameters, self.views(flat), strict=True):
            parameter.grad = piece if piece.dtype == parameter.dtype else piece.to(parameter.dtype)

    def _only(self, indices: Sequence[int]) -> ParameterSpace:
        part = copy.copy(self)
        part.parameters = [self.parameters[index] for index in indices]
        part.sizes = [self.sizes[index] for index in indices]
        part.n_shared = part.n_entries = sum(part.sizes)
        part._own, part.anchors = [], []
        part.__dict__.pop("_layout", None)
        return part

    def _fill(self, flat, gradients, operation) -> None:  # type: ignore[no-untyped-def]
        pairs = [
            (v, g.to_dense() if g.is_sparse else g)
            for v, g in zip(self.views(flat), gradients, strict=True)
            if g is not None
        ]
        if pairs:
            operation([v for v, _ in pairs], [g for _, g in pairs])


def _trainable(parameters: Iterable[Tensor], where: str) -> list[Tensor]:
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        shape = f" of shape {tuple(parameters.shape)}" if isinstance(parameters, Tensor) else ""
        raise UsageError(f"{where} is a list of parameters, found one {type(parameters).__name__}{shape}")
    kept = []
    for index, parameter in enumerate(parameters):
        if not isinstance(parameter, Tensor):
            raise UsageError(f"{where}[{index}] is not a tensor but {type(parameter).__name__}")
        if not parameter.requires_grad:
            continue
        if not (parameter.is_leaf and parameter.is_floating_point()):
            raise UsageError(f"{where}[{index}] is not a floating-point leaf tensor ({parameter.dtype})")
        kept.append(parameter)
    if len({id(p) for p in kept}) < len(kept):
        raise UsageError(f"{where} lists a parameter twice")
    return kept


def _check_disjoint(shared: Sequence[Tensor], specific: Sequence[Sequence[Tensor]]) -> None:
    known = {id(p) for p in shared}
    for k, group in enumerate(specific):
        for parameter in group:
            if id(parameter) in known:
                raise UsageError(
                    f"a parameter of shape {tuple(parameter.shape)} is in shared and in specific[{k}]; "
                    "it must be in one of them"
                )


def _common_device(parameters: Sequence[Tensor]) -> torch.device:
    devices = {p.device for p in parameters}
    if len(devices) > 1:
        raise UsageError(f"the parameters lie on several devices: {', '.join(sorted(map(str, devices)))}")
    return devices.pop()


def _dense_strides(parameter: Tensor) -> tuple[int, ...]:
    """Those of the parameter where its memory format is dense, else those of a contiguous tensor."""
    if parameter.is_contiguous():
        return parameter.stride()
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    channels_last = formats.get(parameter.dim())
    if channels_last is not None and parameter.is_contiguous(memory_format=channels_last):
        return parameter.stride()
    return torch.empty(parameter.shape, device="meta").stride()
