"""Objective: K loss sources that share one set of parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .errors import UsageError, unknown_name
from .parameters import ParameterSpace
from .ranks import ALONE, Ranks

GraphMode = Literal["auto", "joint", "separate"]
Losses = Sequence[Tensor] | Tensor


@dataclass(frozen=True)
class Graph:
    """One forward pass: which sources it gives (``None``: all, their number not yet known)."""

    sources: range | None
    evaluate: Callable[[], Losses]


class Objective:
    """K losses at the current parameters, given by closures; a new one is made for every batch.

    Args:
        losses: () -> K scalar losses (a sequence or a (K,) tensor), differentiable.
        shared: parameters that every source can reach.
        specific: K lists of parameters, list k for what source k alone can reach (a task head).
        source: k -> scalar loss of source k alone; default ``losses()[k]``.
        names: K different names, for logs and errors; default "0", "1", ...
        modules: modules whose BatchNorm statistics must move only in the first forward of a step.
        graph: ``joint`` evaluates ``losses()``, one graph for all sources; ``separate`` evaluates
            ``source(k)`` one after the other, each graph freed at once (needs ``source``, and ``names``
            or ``specific`` for K); ``auto`` is ``joint`` here.
        absent: numbers of sources without a target in this batch (needs ``names`` or ``specific``). They
            count as a loss of zero; what a solver weighs or compares are the others.

    Raises:
        UsageError: names that are not unique, lists of different lengths, parameters both shared and
            specific, ``separate`` without ``source``.
    """

    absent: frozenset[int] = frozenset()
    counts: Sequence[float] | None = None  # elements that each loss is a mean over; None: all alike
    ranks: Ranks = ALONE  # whose losses add up to those of the objective

    def __init__(
        self,
        losses: Callable[[], Losses],
        shared: Iterable[Tensor],
        specific: Sequence[Iterable[Tensor]] | None = None,
        source: Callable[[int], Tensor] | None = None,
        names: Sequence[str] | None = None,
        modules: Iterable[nn.Module] | None = None,
        graph: GraphMode = "auto",
        absent: Iterable[int] = (),
    ) -> None:
        if not callable(losses):
            raise UsageError(
                "losses is a function that computes the K losses anew at each call, "
                f"found {type(losses).__name__}"
            )
        self._evaluate = losses
        self._evaluate_source = source
        check_graph(graph)
        self._describe(shared, specific, names, modules, separate=graph == "separate")
        self.absent = frozenset(absent)
        if not self.absent <= set(range(self.n_sources or 0)):
            raise UsageError(f"absent: found {sorted(self.absent)}; allowed: sources of {self.names}")
        if self.separate and (source is None or self.n_sources is None):
            raise UsageError("graph 'separate' needs source=..., and names=... or specific=... to know K")

    def _describe(
        self,
        shared: Iterable[Tensor],
        specific: Sequence[Iterable[Tensor]] | None,
        names: Sequence[str] | None,
        modules: Iterable[nn.Module] | None,
        separate: bool,
    ) -> None:
        self.space = ParameterSpace(shared, specific or ())
        self.modules = tuple(modules or ())
        self.n_sources = _known_count(names, specific)
        self.separate = separate
        self._names = None if names is None else tuple(map(str, names))

    @property
    def places(self) -> tuple[int, ...]:
        """The number of each source among all of them."""
        return tuple(range(self.n_sources or 0))

    @property
    def n_total(self) -> int | None:
        """How many sources there are with the absent ones; None: not known yet."""
        return self.n_sources

    @property
    def absent_names(self) -> tuple[str, ...]:
        """The names of the sources without a target in this batch."""
        return tuple(self.names[k] for k in sorted(self.absent))

    @property
    def names(self) -> tuple[str, ...]:
        """The K names of the sources."""
        return self._names or tuple(str(k) for k in range(self.n_sources or 0))

    @property
    def graphs(self) -> list[Graph]:
        """The forward passes that together give all K losses."""
        if not self.separate:
            return [Graph(None if self.n_sources is None else range(self.n_sources), self.losses)]
        return [
            Graph(range(k, k + 1), lambda k=k: [self.source(k)])  # type: ignore[misc]
            for k in range(self.n_sources or 0)
        ]

    @property
    def joint(self) -> Graph | None:
        """One forward pass for all losses beside several ``graphs``, for when only their sum is wanted."""
        return None

    def losses(self) -> Losses:
        """All K losses, one graph."""
        return self._evaluate()

    def source(self, k: int) -> Tensor:
        """Scalar loss of source ``k`` alone."""
        return self._evaluate_source(k) if self._evaluate_source is not None else self.losses()[k]

    def all_but(self, chosen: Sequence[str | Tensor]) -> list[int]:
        """Numbers of the parameters that are not among the chosen ones.

        Args:
            chosen: parameters, or patterns (``featurizer.*``) of their names in ``modules``.

        Raises:
            UsageError: a pattern that no name matches, a tensor that is no parameter here.
        """
        known = {id(p) for p in self.space.parameters}
        named = [
            (name, id(p))
            for module in self.modules
            for name, p in _unwrapped(module).named_parameters(remove_duplicate=False)
            if id(p) in known
        ]
        found: set[int] = set()
        for wanted in chosen:
            if isinstance(wanted, Tensor):
                matches = {id(wanted)} & known
            else:
                matches = {key for name, key in named if fnmatchcase(name, wanted)}
            if not matches:
                what = f"a tensor of shape {tuple(wanted.shape)}" if isinstance(wanted, Tensor) else wanted
                raise UsageError(unknown_name("parameter", what, {name for name, _ in named}))
            found |= matches
        return [index for index, p in enumerate(self.space.parameters) if id(p) not in found]

    def redrawn(self, draw: int) -> Objective:
        """The same sources on further minibatches, number ``draw`` >= 1 of this step.

        Raises:
            UsageError: this objective has none to offer.
        """
        raise UsageError(
            f"{type(self).__name__} has no minibatches beside those of the step (asked for number {draw}); "
            "an objective of minibatches has them where it is given more=..."
        )

    @cached_property
    def _norms(self) -> list[_NormBase]:
        return [m for module in self.modules for m in module.modules() if isinstance(m, _NormBase)]

    def statistics(self) -> dict[Tensor, Tensor]:
        """The running statistics of all normalization layers: buffer -> copy of its value."""
        return {buffer: buffer.clone() for norm in self._norms for buffer in norm.buffers()}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the modules are in evaluation mode: BatchNorm uses running statistics, dropout is off."""
        modes = [(m, m.training) for module in self.modules for m in module.modules()]
        try:
            for module in self.modules:
                module.eval()
            yield
        finally:
            for m, training in modes:
                m.training = training

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Inside, forwards leave running statistics alone; layers in training mode still use the batch's."""
        moving = [m for m in self._norms if m.training and m.track_running_stats]
        buffers = [(m.running_mean, m.running_var) for m in moving]
        for norm in moving:
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = None  # InstanceNorm moves them whatever the flag says
        try:
            yield
        finally:
            for norm, (mean, variance) in zip(moving, buffers, strict=True):
                norm.track_running_stats = True
                norm.running_mean, norm.running_var = mean, variance


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module itself out of what ``torch.compile`` and data parallelism put around it."""
    while True:
        inside = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = module.module
        if inside is None:
            return module
        module = inside


def zero_loss(parameter: Tensor) -> Tensor:
    """A loss of zero whose gradient with respect to the parameter is zero."""
    return parameter.flatten()[:1].sum() * 0


def check_graph(graph: str) -> None:
    """Raise a UsageError unless ``graph`` is one of the three ways to evaluate an objective."""
    if graph not in get_args(GraphMode):
        raise UsageError(unknown_name("graph", graph, get_args(GraphMode)))


def _known_count(names: Sequence[str] | None, specific: Sequence[Iterable[Tensor]] | None) -> int | None:
    if names is not None:
        if isinstance(names, str):
            raise UsageError(f"names is a list of K names, found the text {names!r}")
        doubled = [name for name, count in Counter(map(str, names)).items() if count > 1]
        if doubled:
            raise UsageError(f"two sources are named {doubled[0]!r}; names must be unique")
        if specific is not None and len(specific) != len(names):
            raise UsageError(f"{len(names)} names but {len(specific)} lists of specific parameters")
        if not names:
            raise UsageError("an objective needs at least one source, found no names")
    given = names if names is not None else specific
    return None if given is None else len(given)
