"""mtlsuite: train one model on several loss sources (tasks, domains, augmented views) at once."""

import importlib
from types import ModuleType

from .core.batches import (
    DomainObjective,
    MultiInputObjective,
    ProductObjective,
    TaskObjective,
    ViewObjective,
)
from .core.build import build_solver
from .core.errors import NonFiniteError, UsageError
from .core.jacobian import Jacobian
from .core.objective import Objective
from .core.oracle import Oracle
from .core.parameters import ParameterSpace
from .core.registry import register
from .core.report import Direction, StepReport
from .core.sharded import sharded
from .core.solver import Solver, Wrapper
from .solvers import FAMO, Equal, NashMTL, TorchJD
from .wrappers import DISAM, GGA, GGAL, GSAM, SAGE, SAGM, SAM, SAMO, Arithmetic, Fish, GradientEquilibrium

__version__ = "0.1.0"

__all__ = [
    "DISAM",
    "FAMO",
    "GGA",
    "GGAL",
    "GSAM",
    "SAGE",
    "SAGM",
    "SAM",
    "SAMO",
    "Arithmetic",
    "Direction",
    "DomainObjective",
    "Equal",
    "Fish",
    "GradientEquilibrium",
    "Jacobian",
    "MultiInputObjective",
    "NashMTL",
    "NonFiniteError",
    "Objective",
    "Oracle",
    "ParameterSpace",
    "ProductObjective",
    "Solver",
    "StepReport",
    "TaskObjective",
    "TorchJD",
    "UsageError",
    "ViewObjective",
    "Wrapper",
    "build_solver",
    "register",
    "sharded",
]


def __getattr__(name: str) -> ModuleType:
    # The heavier rooms are imported when they are first asked for.
    if name in ("data", "experiments", "metrics", "models"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
