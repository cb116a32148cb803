"""Base solvers: K losses and gradients in, one descent direction out."""

from .equal import Equal
from .famo import FAMO
from .nash_mtl import NashMTL
from .torchjd import TorchJD

__all__ = ["FAMO", "Equal", "NashMTL", "TorchJD"]
