"""Alignment noise: the disagreement of the sources as exploration (SAGE and GGA-L)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.oracle import Oracle
from ..core.report import Direction


def disagreement(oracle: Oracle, gamma: float, name: str) -> dict[str, Tensor]:
    """``<name>/cosine``: mean pairwise cosine S of the gradients; ``<name>/noise_std``: gamma (1 - S)."""
    cosine = oracle.mean_cosine()
    return {f"{name}/cosine": cosine, f"{name}/noise_std": gamma * (1 - cosine)}


def add_noise(direction: Direction, std: Tensor, oracle: Oracle, generator: torch.Generator) -> None:
    """Add Gaussian noise of that standard deviation to every entry of the direction, in place."""
    direction.vector.addcmul_(oracle.vector().normal_(generator=generator), std)
