"""Losses that LibMTL has computed already, as an objective; and which solvers make do with them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.build import build_solver
from ..core.errors import NonFiniteError, UsageError
from ..core.objective import Objective
from ..core.solver import Solver

Again = Callable[[Sequence[int]], list[Tensor]]
Spec = str | Mapping[str, Any]
Weights = NDArray[np.float64]

LATE = 128  # steps in which a wrapper may begin to look around; GGA does so from its hundredth
REASON = (
    "needs more than the losses and gradients that LibMTL has computed: losses at other parameters, after "
    "the optimizer's step, or of further batches. A weighting cannot have those; use "
    "mtlsuite.plugins.libmtl.Trainer(solver=...)"
)
REP_GRAD = (
    "rep_grad=True cuts the graph at the representation, and solvers look at gradients of the parameters; "
    "rep_grad=False is needed"
)


class ElsewhereError(UsageError):
    """A solver wants to know something that a LibMTL weighting cannot know."""


class GivenObjective(Objective):
    """K losses that are there already, with their graphs; wanted again or elsewhere, they are recomputed.

    Args:
        given: K scalar losses where the parameters stand now.
        shared, specific, names, modules: as for :class:`Objective`.
        again: numbers of sources -> their losses at the present parameters.
        separate: whether the losses have graphs of their own.
        statistics: BatchNorm statistics of before the losses were computed; default: the present ones.
    """

    def __init__(
        self,
        given: Sequence[Tensor],
        shared: Iterable[Tensor],
        specific: Sequence[Iterable[Tensor]],
        names: Sequence[str],
        modules: Iterable[nn.Module],
        again: Again,
        separate: bool = False,
        statistics: dict[Tensor, Tensor] | None = None,
    ) -> None:
        self._describe(shared, specific, names, modules, separate)
        self._given = dict(enumerate(given))
        self._versions = self._present_versions()
        self._again = again
        self._statistics = statistics

    def losses(self) -> list[Tensor]:
        """All K losses, the given ones for as long as their graphs can be used."""
        return self._of(range(self.n_sources or 0))

    def source(self, k: int) -> Tensor:
        """Scalar loss of source ``k`` alone."""
        return self._of([k])[0]

    def statistics(self) -> dict[Tensor, Tensor]:
        """The running statistics that a step without effect leaves behind."""
        return super().statistics() if self._statistics is None else self._statistics

    def _of(self, sources: Sequence[int]) -> list[Tensor]:
        if self._versions != self._present_versions() or not set(sources) <= set(self._given):
            return self._again(sources)
        losses = [self._given[k] for k in sources]
        if torch.is_grad_enabled():  # a backward pass will use up the graph
            for k in sources if self.separate else list(self._given):
                del self._given[k]
        return losses

    def _present_versions(self) -> list[int]:
        # What autograd itself goes by: a graph is dead as soon as a parameter in it was written to.
        return [parameter._version for parameter in self.space.parameters]


class LocalObjective(GivenObjective):
    """Given losses and nothing else: whatever goes beyond them is refused."""

    def __init__(
        self, given: Sequence[Tensor], shared: Iterable[Tensor], private: list[Tensor], names: Sequence[str]
    ) -> None:
        super().__init__(given, shared, [private] * len(given), names, [], _refuse)

    def redrawn(self, draw: int) -> Objective:  # noqa: ARG002
        raise ElsewhereError(REASON)


class PendingOptimizer:
    """In the place of an optimizer: leaves the gradients to whoever steps later.

    From its ``step`` on, the parameters of the objective are out of reach: they are not yet the new ones.
    """

    param_groups: Sequence[Any] = ()

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002
        for parameter in self._objective.space.parameters:
            parameter.grad = None

    def step(self) -> None:
        self._objective.space = _OutOfReach()  # type: ignore[assignment]


class _OutOfReach:
    def __getattr__(self, name: str) -> Any:
        raise ElsewhereError(REASON)


def _refuse(sources: Sequence[int]) -> list[Tensor]:  # noqa: ARG001
    raise ElsewhereError(REASON)


def partition(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The shared parameters of a LibMTL model and the others, trained ones only."""
    shared = {id(p): p for p in model.get_share_params()}
    private = [p for p in model.parameters() if id(p) not in shared and p.requires_grad]
    return list(shared.values()), private


def owned(private: Sequence[Tensor], losses: Sequence[Tensor]) -> list[list[Tensor]]:
    """K lists: the private parameters that each loss reaches. What none reaches is in all of them."""
    if not private:
        return [[] for _ in losses]
    reached = []
    for loss in losses:
        if loss.requires_grad:
            found = torch.autograd.grad(loss, private, retain_graph=True, allow_unused=True)
            reached.append([gradient is not None for gradient in found])
        else:  # the step will say so
            reached.append([False] * len(private))
    idle = [not any(column) for column in zip(*reached, strict=True)]
    return [[p for p, own, no in zip(private, row, idle, strict=True) if own or no] for row in reached]


def check_local(spec: Spec) -> None:
    """Try a solver on a toy problem, to see now what would else stop a training later.

    Raises:
        UsageError: the spec is wrong, or its solver needs more than gradients at the present parameters.
    """
    solver = build_solver(spec)
    trials = [(solver, 2)]
    if isinstance(spec, Mapping) and spec.get("wrap"):  # around a base that costs nothing
        trials.append((build_solver({**spec, "base": "equal"}), LATE))
    with torch.random.fork_rng(devices=[]):
        for tried, n_steps in trials:
            try:
                _try(tried, solver.n_sources or 3, n_steps)
            except ElsewhereError:
                raise UsageError(f"{described(solver)} {REASON}") from None
            except (UsageError, NonFiniteError):
                pass  # what does not suit the toy may well suit the tasks


def _try(solver: Solver, n_sources: int, n_steps: int) -> None:
    theta = torch.full((n_sources, 2), 0.5, dtype=torch.float64, requires_grad=True)
    centres = torch.eye(n_sources, dtype=torch.float64).unsqueeze(2)
    names = [str(k) for k in range(n_sources)]
    for _ in range(n_steps):
        losses = [1 + (theta - centre).square().sum() for centre in centres]
        objective = LocalObjective(losses, [theta], [], names)
        solver.step(objective, PendingOptimizer(objective))  # type: ignore[arg-type]


def described(solver: Any) -> str:
    """A name such as ``sage(nash_mtl)``."""
    inner = getattr(solver, "inner", None)
    return solver.name if inner is None else f"{solver.name}({described(inner)})"


def refuse_weight_args(given: Mapping[str, Any]) -> None:
    """Raise a UsageError where LibMTL would hand options to the weighting."""
    if given:
        raise UsageError(f"weight_args: found {dict(given)!r}; the options of a solver stand in its spec")


def as_array(weights: Tensor | None) -> Weights | None:
    """(K,) weights as LibMTL keeps them; None where there are none."""
    return None if weights is None else weights.double().cpu().numpy()
