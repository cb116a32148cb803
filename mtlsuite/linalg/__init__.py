"""Numerical kernels: Nash bargaining weights and polar factors."""

from __future__ import annotations

from .nash import bargaining_weights
from .nash_on_device import bargaining_weights_on_device
from .polar import polar_factor, polar_factors

__all__ = ["bargaining_weights", "bargaining_weights_on_device", "polar_factor", "polar_factors"]
