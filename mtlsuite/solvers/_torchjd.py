"""What the installed TorchJD offers: its methods by name, their options, and modules made of them."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import UsageError, unknown_name
from ..core.registry import explain
from ..core.types import Count, Finite, Positive

Kind = Literal["aggregator", "scalarizer"]
ROOMS = {"aggregator": "aggregation", "scalarizer": "scalarization"}
INSTALL = "pip install 'mtlsuite[torchjd]'"
BASES = {"Aggregator", "WeightedAggregator", "GramianWeightedAggregator", "Scalarizer"}
WEIGHTINGS = {  # not made into aggregators by TorchJD: weightings of J_1 J_2^T, and one that wraps another
    "two_batches": ("MoDo", "SDMGrad"),
    "smoothing": ("CRMOGM",),
}
SUPPLIED = ("shape", "n_tasks")  # what TorchJD calls K
LEARNING_RATE = 0.025  # of learned loss weights: `method_params_lr` in the reference code of Nash-MTL


def library(room: str) -> Any:
    """A subpackage of TorchJD.

    Raises:
        UsageError: TorchJD is not installed.
    """
    try:
        return importlib.import_module(f"torchjd.{room}")
    except ImportError as error:
        raise UsageError(f"torchjd: TorchJD is needed ({error}): {INSTALL}") from None


def classes(kind: Kind) -> dict[str, type]:
    """All methods of a kind in the installed TorchJD by name, the weightings above among the aggregators."""
    room = library(ROOMS[kind])
    base = getattr(room, kind.capitalize())
    named = {name: getattr(room, name) for name in room.__all__ if name not in BASES}
    found = {name: cls for name, cls in named.items() if isinstance(cls, type) and issubclass(cls, base)}
    alone = itertools.chain(*WEIGHTINGS.values()) if kind == "aggregator" else ()
    return found | {name: getattr(room, f"{name}Weighting") for name in alone}


@dataclass(frozen=True)
class Method:
    """A method of TorchJD with its options, all checked; modules for any K, dtype and device come from it."""

    kind: Kind
    name: str
    options: dict[str, Any]

    @classmethod
    def of(cls, kind: Kind, name: str, given: Mapping[str, Any]) -> Method:
        """The method ``name`` with the options ``given`` and the defaults of the others.

        Raises:
            UsageError: unknown name or option, a missing option, or a value that is not allowed.
        """
        known = classes(kind)
        if name not in known:
            raise UsageError(f"torchjd: {unknown_name(kind, name, known)}", (kind,))
        options = _checked(name, known[name], _fields(kind, known[name]), given)
        if "weighting" in options:
            with _inside("weighting"):
                options["weighting"] = _weighting(options["weighting"]).spec
        if isinstance(options.get("projector"), dict):
            projector = library("linalg").QuadprogProjector
            with _inside("projector"):
                _checked("projector", projector, _fields(kind, projector), options["projector"])
        return cls(kind, name, options)

    @property
    def spec(self) -> dict[str, Any]:
        """Name and options in one mapping."""
        return {"name": self.name, **self.options}

    @property
    def likely_n_sources(self) -> int:
        """K as far as the options tell it, else 2."""
        return next((len(value) for value in self.options.values() if isinstance(value, list | Tensor)), 2)

    @cached_property
    def small(self) -> bool:
        """Whether it asks for nothing larger than (K, K)."""
        if self._inner is not None:
            return self._inner.small
        gramian_weighted = library("aggregation").GramianWeightedAggregator
        two_batches = self.name in WEIGHTINGS["two_batches"]
        return self.kind == "scalarizer" or two_batches or issubclass(self._cls, gramian_weighted)

    @property
    def gramian_weighted(self) -> bool:
        """Whether it is an aggregator whose weights follow from the Gramian of one batch."""
        method = self if self._inner is None else self._inner
        two_batches = method.name in WEIGHTINGS["two_batches"]
        return method.kind == "aggregator" and method.small and not two_batches

    @property
    def weighted(self) -> bool:
        """Whether its directions are weighted sums of the gradients."""
        bases = library("aggregation")
        return self.kind == "scalarizer" or issubclass(self._cls, bases.WeightedAggregator | bases.Weighting)

    def build(self, n_sources: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """A new aggregator or scalarizer of TorchJD, or a weighting where it needs two minibatches.

        Raises:
            UsageError: TorchJD refuses an option, or an optional dependency of it is missing.
        """
        try:
            module = self._module(n_sources, dtype, device)
        except UsageError:
            raise
        except ImportError as error:
            needed = str(error).partition(". ")[0]
            raise UsageError(f"torchjd: {needed}: {INSTALL}", (self.kind,)) from None
        except ValueError as error:
            named = [option for option in self.options if re.search(rf"\b{option}\b", str(error))]
            raise UsageError(f"torchjd: {self.name}: {error}", named[:1]) from None
        if "lr" in self.options and "lr" not in self._asked:
            adam: Any = torch.optim.Adam(module.parameters(), lr=self.options["lr"])
            module.optimizer = adam
        return module

    @property
    def _cls(self) -> type:
        return classes(self.kind)[self.name]

    @property
    def _asked(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._cls).parameters

    @cached_property
    def _inner(self) -> Method | None:
        return _weighting(self.options["weighting"]) if "weighting" in self.options else None

    def _module(self, n_sources: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
        options = {name: value for name, value in self.options.items() if name in self._asked}
        for name, value in options.items():
            if isinstance(value, list | Tensor):
                options[name] = torch.as_tensor(value, dtype=dtype, device=device)
        if isinstance(options.get("projector"), dict):
            with _inside("projector"):
                options["projector"] = library("linalg").QuadprogProjector(**options["projector"])
        options |= {name: n_sources for name in SUPPLIED if name in self._asked}
        if self._inner is None:
            module: nn.Module = self._cls(**options).to(device=device, dtype=dtype)
            return module
        with _inside("weighting"):
            return _smoothed(self._cls, options, self._inner.build(n_sources, dtype, device))


def _smoothed(cls: type, options: dict[str, Any], inner: Any) -> nn.Module:
    """An aggregator whose weights are those of ``inner``, smoothed by the weighting ``cls``."""
    bases = library("aggregation")
    smoothed: nn.Module
    if isinstance(inner, bases.Weighting):
        smoothed = cls(**options | {"weighting": inner})
    elif isinstance(inner, bases.GramianWeightedAggregator):
        weighting = cls(**options | {"weighting": inner.gramian_weighting})
        smoothed = bases.GramianWeightedAggregator(weighting)
    elif isinstance(inner, bases.WeightedAggregator):
        smoothed = bases.WeightedAggregator(cls(**options | {"weighting": inner.weighting}))
    else:
        raise UsageError(f"torchjd: {inner} has no weights to smooth")
    return smoothed


@contextmanager
def _inside(option: str) -> Iterator[None]:
    """An error inside the block is a UsageError with the option as the first part of its key."""
    try:
        yield
    except UsageError as error:
        raise error.under(option) from None
    except ValueError as error:
        raise UsageError(f"torchjd: {option}: {error}", (option,)) from None


def _weighting(spec: str | Mapping[str, Any]) -> Method:
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec.get("name"), str):
        raise UsageError(f"an aggregator is a name or a mapping with the key 'name', found {spec!r}")
    return Method.of("aggregator", spec["name"], {k: v for k, v in spec.items() if k != "name"})


def _fields(kind: Kind, cls: type) -> dict[str, Any]:
    """Options of a class of TorchJD, and what training it takes beside them, as fields of pydantic."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    asked = inspect.signature(cls).parameters
    fields: dict[str, Any] = {
        name: (_hint(hints[name]), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in asked.items()
        if name not in SUPPLIED
    }
    if kind == "scalarizer" and "shape" in asked and "lr" not in asked:
        fields["lr"] = (Positive, LEARNING_RATE)
    if kind == "scalarizer" and hasattr(cls, "step"):
        fields["steps_per_epoch"] = (Count, ...)
    return fields


def _hint(hint: Any) -> Any:
    """What an option may be here, given what TorchJD says: numbers are finite, tensors may be lists."""
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_hint, get_args(hint)))]  # noqa: UP007
    if hint is float:
        return Finite
    if hint is Tensor:
        return Annotated[list[Finite], Field(min_length=1)] | Tensor
    made = get_origin(hint) or hint
    if getattr(made, "__module__", "").startswith("torchjd"):
        return dict[str, Any] | (str if made.__name__ == "Weighting" else made)
    return hint


def _checked(name: str, cls: type, fields: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for option in given:
        if option not in fields:
            raise UsageError(f"torchjd: {unknown_name(f'option of {name}', option, fields)}", (option,))
    config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    model = pydantic.create_model(name, __config__=config, **fields)
    try:
        valid = model.model_validate(dict(given))
    except pydantic.ValidationError as error:
        refusal = explain(cls, error)
        raise UsageError(f"torchjd: {refusal.message}", refusal.key) from None
    plain = (bool, int, float, str, type(None))  # other defaults, functions for instance, are left to TorchJD
    values = {option: getattr(valid, option) for option in fields}
    return {option: v for option, v in values.items() if option in given or isinstance(v, plain)}
