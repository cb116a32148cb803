"""Numerical kernels: Nash bargaining weights and polar factors."""

from __future__ import annotations

from .nash import bargaining_weights
from .polar import polar_factor, polar_factors

__all__ = ["bargaining_weights", "polar_factor", "polar_factors"]
