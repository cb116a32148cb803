"""Wrappers: solvers that change where or how the sources are looked at, and ask the solver inside."""

from .arithmetic import Arithmetic, Fish
from .disam import DISAM
from .equilibrium import GradientEquilibrium, equilibrate
from .gga import GGA
from .gga_l import GGAL
from .gsam import GSAM
from .sage import SAGE
from .sagm import SAGM
from .sam import SAM
from .samo import SAMO

__all__ = [
    "DISAM",
    "GGA",
    "GGAL",
    "GSAM",
    "SAGE",
    "SAGM",
    "SAM",
    "SAMO",
    "Arithmetic",
    "Fish",
    "GradientEquilibrium",
    "equilibrate",
]
