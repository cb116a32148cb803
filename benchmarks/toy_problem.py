"""The two-task toy problem of the CAGrad, Nash-MTL and FAMO papers: losses, starts, and its Pareto front.

Two losses of two numbers x: above x_2 = 0 each has a valley with the singularity of a logarithm at its
bottom, below it a wide bowl, and the first loss is ten times smaller than the second. From Liu et al.,
CAGrad, NeurIPS 2021, in the form of Navon et al., Nash-MTL, ICML 2022, and Liu et al., FAMO, NeurIPS 2023.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SMALLEST = 5e-6  # argument of the logarithms, clamped from below
BOX = ((-12.0, 12.0), (-12.0, 12.0))  # where the Pareto front is searched

Array = NDArray[np.float64]


def losses(x: Tensor) -> Tensor:
    """(2, ...) losses f_1, f_2 at the points x (2, ...); of the same dtype.

    f_1 = 0.1 (h_1 c_1 + q_1 c_2) and f_2 = h_2 c_1 + q_2 c_2, with

    * h_1 = log max(|0.5 (-x_1 - 7) - tanh(-x_2)|, 5e-6) + 6 and
      h_2 = log max(|0.5 (-x_1 + 3) + tanh(-x_2) + 2|, 5e-6) + 6,
    * q_1, q_2 = ((-x_1 +- 7)^2 + 0.1 (-x_2 - 8)^2) / 10 - 20,
    * c_1, c_2 = max(tanh(+-0.5 x_2), 0).
    """
    x1, x2 = x
    bend = torch.tanh(-x2)
    walls = torch.stack([0.5 * (-x1 - 7) - bend, 0.5 * (-x1 + 3) + bend + 2]).abs()
    h = torch.where(walls >= SMALLEST, walls, SMALLEST).log() + 6
    q = (torch.stack([-x1 + 7, -x1 - 7]).square() + 0.1 * (-x2 - 8).square()) / 10 - 20
    halves = torch.tanh(torch.stack([0.5 * x2, -0.5 * x2]))
    # Not clamp(min=0): torch versions differ in its slope at 0; with slope 0 both gradients vanish at (0, 0).
    c1, c2 = torch.where(halves >= 0, halves, 0.0)
    f = h * c1 + q * c2
    return torch.stack([0.1 * f[0], f[1]])


def losses_of(points: Array) -> Array:
    """(N, 2) losses of points (N, 2)."""
    values: Array = losses(torch.from_numpy(points.T)).T.numpy()
    return values


def pareto_front(per_side: int = 601, weights: int = 401) -> tuple[Array, Array]:
    """The Pareto set and front: minimisers of w 10 f_1 + (1 - w) f_2 for w from 1 to 0, by brute force.

    The best points of a grid of ``per_side`` x ``per_side`` over the whole of ``BOX`` are sought first, then
    those of a grid over the box around them. Weighted sums find all of a front that is convex; that this one
    is, and that no point elsewhere is better, the tests check by plain comparison of points.

    Returns:
        (M, 2) points x and their (M, 2) losses, ordered by the first loss.
    """
    low, high = np.array(BOX).T
    for _ in range(2):
        axes = [np.linspace(a, b, per_side) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        values = losses_of(points)
        first, second = 10 * values[:, 0], values[:, 1]
        best = [int(np.argmin(w * first + (1 - w) * second)) for w in np.linspace(1, 0, weights)]
        margin = 2 * (high - low) / (per_side - 1)
        low, high = points[best].min(axis=0) - margin, points[best].max(axis=0) + margin
    best = list(dict.fromkeys(best))
    return points[best], values[best]


def distance_to_front(values: Array, front: Array) -> Array:
    """(N,) distances of losses (N, 2) to the polyline through ``front`` (M, 2), in extents of the front.

    Each loss is divided by its range over the front (nadir - ideal) first, because the first one is ten
    times smaller: 1 is as far as one end of the front is from the other in one loss.
    """
    extent = front.max(axis=0) - front.min(axis=0)
    scaled, corners = values / extent, front / extent
    starts, sides = corners[:-1], np.diff(corners, axis=0)
    nearest = np.full(len(scaled), np.inf)
    for start, side in zip(starts, sides, strict=True):
        along = np.clip((scaled - start) @ side / max(side @ side, 1e-300), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(scaled - start - along[:, None] * side, axis=1))
    return nearest
