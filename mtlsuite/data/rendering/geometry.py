"""Convex solids and where rays enter them, in closed form, vectorised over rays, float64.

World and local frames are right-handed in metres, y up; a shape may be turned about the vertical by
``yaw``. Directions need not have unit length: distances count in lengths of the direction.
"""

from __future__ import annotations

import abc
import math
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Vector: TypeAlias = tuple[float, float, float]

_TINY = 1e-200  # stands in for a zero denominator: the quotient is then huge instead of NaN


def dot(a: Array, b: Array) -> Array:
    """Inner products over the last axis."""
    products: Array = np.einsum("...i,...i->...", a, b)
    return products


def _turn(vectors: Array, yaw: float) -> Array:
    if yaw == 0:
        return vectors
    c, s = math.cos(yaw), math.sin(yaw)
    turned: Array = vectors @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return turned


def _nonzero(values: Array) -> Array:
    return np.where(np.abs(values) < _TINY, _TINY, values)


def _roots(a: Array, half_b: Array, c: Array) -> tuple[Array, Array]:
    """Both solutions of a t^2 + 2 half_b t + c = 0, the smaller one first; NaN where there is none."""
    a = _nonzero(a)
    with np.errstate(invalid="ignore"):
        root = np.sqrt(half_b * half_b - a * c)
    first, second = (-half_b - root) / a, (-half_b + root) / a
    return np.minimum(first, second), np.maximum(first, second)


def _slab(origins: Array, directions: Array, half: float | Array) -> tuple[Array, Array]:
    """Where rays enter and leave ``|coordinate| <= half``, elementwise."""
    directions = _nonzero(directions)
    first, second = (-half - origins) / directions, (half - origins) / directions
    return np.minimum(first, second), np.maximum(first, second)


def _entry(near: Array, far: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where((near <= far) & (near > 0), near, np.inf)


@dataclass(frozen=True)
class Shape(abc.ABC):
    """A convex solid about ``centre``; its bounding sphere has the same centre."""

    centre: Vector
    _: KW_ONLY
    yaw: float = 0.0

    @property
    @abc.abstractmethod
    def bound(self) -> float:
        """Radius of the bounding sphere."""

    @abc.abstractmethod
    def _enter(self, origins: Array, directions: Array) -> Array:
        """``intersect`` in the local frame."""

    @abc.abstractmethod
    def normals(self, local: Array) -> Array:
        """Outward unit normals (N, 3) at surface points (N, 3), both in the local frame."""

    def intersect(self, origins: Array, directions: Array) -> Array:
        """Distances (N,) at which rays enter from outside; infinite where one misses or starts inside.

        Args:
            origins: (N, 3) or (1, 3).
            directions: (N, 3) or (1, 3), of any length.
        """
        return self._enter(self.to_local(origins), _turn(directions, -self.yaw))

    def to_local(self, points: Array) -> Array:
        """World points (N, 3) in the frame of the shape."""
        return _turn(points - np.asarray(self.centre), -self.yaw)

    def to_world(self, directions: Array) -> Array:
        """Directions (N, 3) of the local frame in the world."""
        return _turn(directions, self.yaw)


@dataclass(frozen=True)
class Sphere(Shape):
    """All points within ``radius`` of the centre."""

    radius: float

    @property
    def bound(self) -> float:
        return self.radius

    def _enter(self, origins: Array, directions: Array) -> Array:
        squared = dot(origins, origins) - self.radius**2
        return _entry(*_roots(dot(directions, directions), dot(origins, directions), squared))

    def normals(self, local: Array) -> Array:
        return local / self.radius


@dataclass(frozen=True)
class Box(Shape):
    """A cuboid with half edges ``half`` (x, y, z)."""

    half: Vector

    @property
    def bound(self) -> float:
        return math.hypot(*self.half)

    def _enter(self, origins: Array, directions: Array) -> Array:
        near, far = _slab(origins, directions, np.asarray(self.half))
        last_in = np.maximum(np.maximum(near[..., 0], near[..., 1]), near[..., 2])
        first_out = np.minimum(np.minimum(far[..., 0], far[..., 1]), far[..., 2])
        return _entry(last_in, first_out)

    def normals(self, local: Array) -> Array:
        face = np.argmax(np.abs(local) - np.asarray(self.half), axis=-1)
        rows = np.arange(len(local))
        normals = np.zeros_like(local)
        normals[rows, face] = np.sign(local[rows, face])
        return normals


@dataclass(frozen=True)
class Round(Shape):
    """A shape that is round about the vertical axis; ``half`` is half its height."""

    radius: float
    half: float

    @property
    def bound(self) -> float:
        return math.hypot(self.radius, self.half)


@dataclass(frozen=True)
class Cylinder(Round):
    """An upright, capped cylinder. A very flat one is a disc of ground."""

    def _enter(self, origins: Array, directions: Array) -> Array:
        o, d = origins[..., ::2], directions[..., ::2]
        side_near, side_far = _roots(dot(d, d), dot(o, d), dot(o, o) - self.radius**2)
        cap_near, cap_far = _slab(origins[..., 1], directions[..., 1], self.half)
        return _entry(np.maximum(side_near, cap_near), np.minimum(side_far, cap_far))

    def normals(self, local: Array) -> Array:
        distance = np.hypot(local[:, 0], local[:, 2])
        on_cap = np.abs(local[:, 1]) - self.half > distance - self.radius
        side: Array = local * np.array([1.0, 0.0, 1.0]) / _nonzero(distance)[:, None]
        cap: Array = np.sign(local[:, 1])[:, None] * np.array([0.0, 1.0, 0.0])
        return np.where(on_cap[:, None], cap, side)


@dataclass(frozen=True)
class Cone(Round):
    """An upright cone, its tip up: radius ``radius`` at the bottom."""

    def _enter(self, origins: Array, directions: Array) -> Array:
        slope = self.radius / (2 * self.half)
        scale = np.array([1.0, 0.0, 1.0])
        o, d = origins * scale, directions * scale
        below, sink = slope * (self.half - origins[..., 1]), -slope * directions[..., 1]
        first, second = _roots(
            dot(d, d) - sink * sink, dot(o, d) - below * sink, dot(o, o) - below * below
        )  # x^2 + z^2 = below^2 holds on the mirrored cone above the tip too: keep roots inside the slab
        bottom = (-self.half - origins[..., 1]) / _nonzero(directions[..., 1])
        hits = [np.full(np.broadcast(first, bottom).shape, np.inf)]
        for t in (first, second):
            with np.errstate(invalid="ignore"):
                inside = (t > 0) & (np.abs(origins[..., 1] + t * directions[..., 1]) <= self.half)
                leaving = dot(o, d) - below * sink + t * (dot(d, d) - sink * sink) > 0
            hits.append(np.where(inside & ~leaving, t, np.inf))
        at_bottom = o + bottom[..., None] * d
        inside = (bottom > 0) & (dot(at_bottom, at_bottom) <= self.radius**2) & (directions[..., 1] > 0)
        hits.append(np.where(inside, bottom, np.inf))
        nearest: Array = np.min(np.stack(np.broadcast_arrays(*hits)), axis=0)
        return nearest

    def normals(self, local: Array) -> Array:
        slope = self.radius / (2 * self.half)
        distance = np.hypot(local[:, 0], local[:, 2])
        side = local / _nonzero(distance)[:, None]
        side[:, 1] = slope
        side /= math.hypot(1.0, slope)
        off_side = (slope * (self.half - local[:, 1]) - distance) / math.hypot(1.0, slope)
        on_bottom = np.abs(local[:, 1] + self.half) < np.abs(off_side)
        return np.where(on_bottom[:, None], np.array([0.0, -1.0, 0.0]), side)
