"""Base solvers: K losses and gradients in, one descent direction out."""

from .equal import Equal
from .famo import FAMO
from .nash_mtl import NashMTL

__all__ = ["FAMO", "Equal", "NashMTL"]
