"""Wrappers: solvers that change where or how the sources are looked at, and ask the solver inside."""

from .sage import SAGE
from .sam import SAM

__all__ = ["SAGE", "SAM"]
