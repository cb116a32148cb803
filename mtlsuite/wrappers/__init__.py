"""Wrappers: solvers that change where or how the sources are looked at, and ask the solver inside."""

from .arithmetic import Arithmetic, Fish
from .disam import DISAM
from .equilibrium import GradientEquilibrium, equilibrate
from .gga_l import GGAL
from .sage import SAGE
from .sam import SAM

__all__ = ["DISAM", "GGAL", "SAGE", "SAM", "Arithmetic", "Fish", "GradientEquilibrium", "equilibrate"]
