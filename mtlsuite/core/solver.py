"""Solver, Wrapper and what they return."""

from __future__ import annotations

import abc
import inspect
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import TypedDict, Unpack

from .economy import Economy, JacobianDtype, Memory
from .errors import NonFiniteError, UsageError
from .finite import all_finite, check_gradients, check_losses
from .objective import Objective
from .oracle import Oracle
from .parameters import ParameterSpace
from .pool import Pool
from .present import present
from .report import Direction, StepReport, report_of
from .state import restore, saved

OnNonfinite = Literal["raise", "skip", "ignore"]


class Common(TypedDict, total=False):
    """Options of every solver; the outermost one's count.

    ``seed``: of the solver's own generator (0). ``generator``: a ready one instead. ``on_nonfinite``:
    ``raise`` (default) or ``skip`` the step when a loss or gradient is NaN or infinite; ``ignore`` does not
    look, and so never waits for a GPU. ``memory``, ``jacobian_dtype``: see :class:`Economy`.
    """

    seed: int
    generator: torch.Generator | None
    on_nonfinite: OnNonfinite
    memory: Memory
    jacobian_dtype: JacobianDtype | None


class Solver(abc.ABC):
    """Turns K losses and gradients into one descent direction.

    A subclass implements :meth:`direction`; ``stateful`` names the attributes that a checkpoint must
    hold (tensors, numbers, or objects with a ``state_dict``).
    """

    name: str = ""
    stateful: ClassVar[tuple[str, ...]] = ()
    n_sources: int | None = None
    on_nonfinite: OnNonfinite = "raise"
    economy: Economy = Economy()
    sequential: bool = False  # asks for several optimizer steps, so nothing can be done to its one direction
    # Whether its directions are weighted sums of the gradients, and it tells the weights.
    weighted: bool = True
    needs_rows: bool = False  # whether it needs the gradients of all sources at once, not their Gramian alone
    _seed: int = 0
    _generator: torch.Generator | None = None
    _own_generator: bool = True
    _inspected: bool = False

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__  # until it is registered under another

    def __init__(self, **common: Unpack[Common]) -> None:
        self._seed = common.get("seed") or 0
        self.on_nonfinite = common.get("on_nonfinite") or "raise"
        self.economy = Economy(common.get("memory") or "fast", common.get("jacobian_dtype"))
        generator = common.get("generator")
        if generator is not None:
            self.generator = generator

    @abc.abstractmethod
    def direction(self, oracle: Oracle) -> Direction:
        """The descent direction where the oracle stands."""

    def after_step(self, oracle: Oracle) -> None:  # noqa: B027  (most solvers have nothing to do)
        """Called after the optimizer's step with an oracle of the same batch at the new parameters."""

    def step(self, objective: Objective, optimizer: torch.optim.Optimizer) -> StepReport:
        """One training step: zero_grad, direction, optimizer.step, after-step update.

        Raises:
            UsageError: the objective does not fit (number of sources, losses that are no scalars, ...).
            NonFiniteError: a loss or gradient is not finite (``on_nonfinite="raise"``); the parameters
                and the optimizer are as before. A skipped step also leaves the solver's own state and
                BatchNorm statistics as they were.
        """
        if not isinstance(objective, Objective):
            raise UsageError(
                f"step(objective, optimizer) needs an Objective, found {type(objective).__name__}"
            )
        if torch.is_autocast_enabled(objective.space.device.type):
            # It would keep cast copies of weights that have moved, and round the products of gradients.
            raise UsageError("step() inside torch.autocast: put autocast around the forwards in the losses")
        optimizer.zero_grad(set_to_none=True)
        objective = present(objective)
        if objective.n_sources == 0:  # all are absent
            space = objective.space
            nothing = torch.zeros(objective.n_total or 0, dtype=space.dtype, device=space.device)
            return StepReport(nothing, None, {f"{self.name}/skipped": 1.0}, objective.absent_names)
        self._prepare(objective.space, optimizer)
        skip = self.on_nonfinite == "skip"
        before = (self.state_dict(), objective.statistics()) if skip else None
        oracle = Oracle(objective, self._pool, self.n_sources, economy=self.economy)
        oracle.inspect_graphs = not self._inspected
        try:
            direction = self._finite_direction(oracle)
        except BaseException as error:
            oracle.go_home()
            if before is None or not isinstance(error, NonFiniteError):
                raise
            self._load_state(before[0])
            for buffer, value in before[1].items():
                buffer.copy_(value)
            return report_of(oracle.seen_losses(), None, {f"{self.name}/skipped": 1.0}, objective)
        self._inspected = True
        report = report_of(oracle.start_losses(), direction.weights, direction.metrics, objective)
        for vector in direction.sequence or [direction.vector]:
            objective.space.set_gradients(vector)
            optimizer.step()
        self.after_step(Oracle(objective, self._pool, self.n_sources, statistics=False, economy=self.economy))
        return report

    @property
    def generator(self) -> torch.Generator:
        """The generator of every random draw of this solver and of those inside it."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self._seed)
        return self._generator

    @generator.setter
    def generator(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._own_generator = False

    def reseed(self, seed: int) -> None:
        """Start the generator anew from ``seed``."""
        self._seed = seed
        self._place_generator(torch.Generator(self.generator.device).manual_seed(seed))

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, the generator's state included."""
        generator = self.generator
        return {
            "solver": self.name,
            "generator": {"device": str(generator.device), "state": generator.get_state()},
            "attributes": {name: saved(self, name) for name in self.stateful},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state_dict`.

        Raises:
            UsageError: the state is of another solver, or something is missing in it; nothing is changed.
        """
        self._check_state(state)
        self._load_state(state)

    def _check_state(self, state: Mapping[str, Any]) -> None:
        missing = {"solver", "generator", "attributes"} - set(state)
        if missing:
            raise UsageError(f"this is no state of a solver: {', '.join(sorted(missing))} missing")
        if state["solver"] != self.name or set(state["attributes"]) != set(self.stateful):
            raise UsageError(f"the state is of the solver {state['solver']!r}, this one is {self.name!r}")
        kind, own = torch.device(state["generator"]["device"]).type, self.generator.device.type
        if (kind == "cuda" and not torch.cuda.is_available()) or (not self._own_generator and kind != own):
            raise UsageError(f"the state holds a random generator of {kind}, which cannot go on here")

    def _load_state(self, state: Mapping[str, Any]) -> None:
        saved = state["generator"]
        kind = torch.device(saved["device"]).type
        if self._own_generator and self.generator.device.type != kind:
            self._generator = torch.Generator(kind)
        self.generator.set_state(saved["state"].cpu())
        for name in self.stateful:
            restore(self, name, state["attributes"][name])

    @cached_property
    def _pool(self) -> Pool:
        return Pool()

    def _prepare(self, space: ParameterSpace, optimizer: torch.optim.Optimizer) -> None:
        self._pool.trim()
        refuse_closures(optimizer)
        self._place_generator(self.generator)
        if self.generator.device != space.device:
            self._move_generator(space.device)
        known = {id(p) for p in space.parameters}
        stray = [
            tuple(p.shape)
            for group in optimizer.param_groups
            for p in group["params"]
            if p.requires_grad and id(p) not in known
        ]
        if stray:
            warnings.warn(
                f"the optimizer holds {len(stray)} parameters that the objective does not list, e.g. of "
                f"shape {stray[0]}; they are not trained",
                stacklevel=3,
            )

    def _move_generator(self, device: torch.device) -> None:
        here = self.generator.device
        if not self._own_generator:
            raise UsageError(f"the generator is on {here}, the parameters are on {device}")
        moved = torch.Generator(device)
        if here.type == device.type:
            moved.set_state(self.generator.get_state())
        else:
            moved.manual_seed(self._seed)
        self._place_generator(moved)

    def _place_generator(self, generator: torch.Generator) -> None:
        self._generator = generator

    def _finite_direction(self, oracle: Oracle) -> Direction:
        try:
            direction = self.direction(oracle)
            oracle.start_losses()
        except Exception:
            check_losses(oracle)  # a solver may stumble over a NaN; then that is the thing to tell
            raise
        shape = (oracle.space.n_entries,)
        if not isinstance(direction, Direction) or direction.vector.shape != shape:
            raise UsageError(
                f"{self.name}: direction() must return a Direction with a vector of shape {shape}"
            )
        if self.on_nonfinite != "ignore" and not all_finite(oracle, direction.vector):
            check_losses(oracle)
            check_gradients(oracle)
            raise NonFiniteError(
                "the direction is not finite, although losses and gradients are where the step began"
            )
        return direction


class Wrapper(Solver):
    """A solver that changes where or how the sources are looked at and asks the one inside it.

    Args:
        inner: the solver inside; it draws from this wrapper's generator.

    Attributes:
        keeps_rows: whether the solver inside sees the gradients of the point where this wrapper was asked.
    """

    keeps_rows: ClassVar[bool] = False

    def __init__(self, inner: Solver, **common: Unpack[Common]) -> None:
        if not isinstance(inner, Solver):
            raise UsageError(f"{self.name}: inner must be a solver, found {inner!r}")
        if inner.sequential:
            raise UsageError(
                f"{inner.name} takes one optimizer step a source, so {self.name} cannot act on its "
                "direction; make it the outermost wrapper"
            )
        self.inner = inner
        super().__init__(**common)
        self._place_generator(self.generator)

    @property
    def n_sources(self) -> int | None:  # type: ignore[override]
        """K that the solver inside was built for, or None."""
        return self.inner.n_sources

    @property
    def generator(self) -> torch.Generator:
        """The generator of every random draw of this solver and of those inside it."""
        return Solver.generator.fget(self)  # type: ignore[attr-defined, no-any-return]

    @generator.setter
    def generator(self, generator: torch.Generator) -> None:
        self._own_generator = False
        self._place_generator(generator)

    @property
    def weighted(self) -> bool:  # type: ignore[override]
        """Whether the solver inside weights the sources."""
        return self.inner.weighted

    def after_step(self, oracle: Oracle) -> None:
        """Hand on to the solver inside."""
        self.inner.after_step(oracle)

    def state_dict(self) -> dict[str, Any]:
        """The wrapper's own state and that of the solver inside."""
        return {**super().state_dict(), "inner": self.inner.state_dict()}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        if "inner" not in state:
            raise UsageError(f"the state is not of the wrapper {self.name!r}: it has no 'inner'")
        self.inner._check_state(state["inner"])

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.inner._load_state(state["inner"])
        super()._load_state(state)
        self._place_generator(self.generator)

    def _place_generator(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.inner._place_generator(generator)


def refuse_closures(optimizer: torch.optim.Optimizer) -> None:
    """Raise a UsageError for an optimizer that evaluates losses by itself (LBFGS)."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UsageError(
            f"{type(optimizer).__name__} calls a closure for its losses, a solver gives it gradients; use an "
            "optimizer whose step() needs no closure"
        )
