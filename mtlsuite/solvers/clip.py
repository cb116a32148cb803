"""Norm limit for the shared part of a direction."""

from __future__ import annotations

import torch

from ..core.oracle import Oracle
from ..core.report import Direction


def limit_shared_norm(direction: Direction, oracle: Oracle, max_norm: float | None) -> Direction:
    """Scale the SHARED part of the direction by min(1, max_norm / (norm + 1e-6)), in place.

    Private parts keep their length. ``None`` or 0: no limit.
    """
    if max_norm:
        shared = direction.vector[: oracle.space.n_shared]
        norm = torch.linalg.vector_norm(shared)
        shared.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return direction
