"""A solver as a weighting of LibMTL's own trainer."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from typing import Any, ClassVar

from torch import Tensor

from ..core.build import build_solver
from ..core.errors import UsageError
from ..core.report import StepReport
from ..core.solver import Solver
from ._libmtl_compat import library
from ._libmtl_objective import (
    REASON,
    REP_GRAD,
    ElsewhereError,
    LocalObjective,
    PendingOptimizer,
    Spec,
    Weights,
    as_array,
    check_local,
    described,
    partition,
    refuse_weight_args,
)

_AbsWeighting: Any = library.weighting.AbsWeighting


class SolverWeighting(_AbsWeighting):  # type: ignore[misc]
    """What :func:`weighting` derives its classes from; LibMTL mixes them into the model.

    Attributes:
        solver: made when the model is.
        report: of the last step, with losses, weights and metrics; None before the first.
    """

    spec: ClassVar[Spec]
    solver: Solver
    report: StepReport | None

    def init_param(self) -> None:
        """Make the solver.

        Raises:
            UsageError: ``rep_grad=True``; the spec does not fit the number of tasks.
        """
        if self.rep_grad:
            raise UsageError(REP_GRAD)
        self.solver = build_solver(self.spec, n_sources=self.task_num)
        self.report = None

    def backward(self, losses: Tensor, **kwargs: Any) -> Weights | None:
        """Leave the solver's direction in ``.grad``.

        Args:
            losses: (K,) losses of the batch.

        Returns:
            (K,) weights, or None where the solver has none.

        Raises:
            UsageError: ``weight_args`` are given; the solver wants to look elsewhere.
        """
        refuse_weight_args(kwargs)
        shared, private = partition(self)
        objective = LocalObjective(list(losses), shared, private, self.task_name)
        try:
            self.report = self.solver.step(objective, PendingOptimizer(objective))  # type: ignore[arg-type]
        except ElsewhereError:
            raise UsageError(f"{described(self.solver)} {REASON}") from None
        return as_array(self.report.weights)


def weighting(spec: Spec, name: str | None = None) -> type[SolverWeighting]:
    """A class for ``Trainer(weighting=...)`` of LibMTL 1.1.5, known to the git version by its ``__name__``.

    It does for any solver that needs only the losses and gradients of the batch where the parameters stand;
    the others need :class:`Trainer`. Each model gets a solver of its own.

    Args:
        spec: as for :func:`mtlsuite.build_solver`.
        name: under which ``LibMTL.weighting`` gets it; default: made of the solver's names and a digest of
            the spec.

    Raises:
        UsageError: a wrong spec, a solver that needs more, a name that LibMTL has for something else.
    """
    check_local(spec)
    name = _default_name(spec) if name is None else name
    if not name.isidentifier():
        raise UsageError(f"the name of a weighting is that of a class, found {name!r}")
    taken = vars(library.weighting).get(name)
    if taken is not None and not (isinstance(taken, type) and issubclass(taken, SolverWeighting)):
        raise UsageError(f"LibMTL.weighting has a {name!r} of its own; give another name")
    attributes = {"spec": copy.deepcopy(spec), "__module__": __name__, "__doc__": f"Gradients by {spec!r}."}
    made = type(name, (SolverWeighting,), attributes)
    setattr(library.weighting, name, made)
    return made


def _default_name(spec: Spec) -> str:
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return "_".join(["mtlsuite", *re.findall(r"\w+", described(build_solver(spec))), digest])
