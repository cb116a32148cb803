"""Procedural textures: from points and normals in a shape's own frame (N, 3) to colours (N, 3) in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .geometry import Array, Vector


class Material(Protocol):
    """Anything that colours the surface of a shape."""

    def __call__(self, points: Array, normals: Array) -> Array: ...


def face_coordinates(points: Array, normals: Array) -> tuple[Array, Array]:
    """Coordinates u, v (N,) along the face of a box that each point lies on; on upright faces v is y."""
    axis = np.argmax(np.abs(normals), axis=1)
    u = np.where(axis == 0, points[:, 2], points[:, 0])
    v = np.where(axis == 1, points[:, 2], points[:, 1])
    return u, v


def cell_noise(u: Array, v: Array, seed: int = 0) -> Array:
    """One pseudo-random number in [0, 1) for each unit cell of the plane: an integer hash."""
    i = np.floor(u).astype(np.int64).astype(np.uint32)
    j = np.floor(v).astype(np.int64).astype(np.uint32)
    h = i * np.uint32(374761393) + j * np.uint32(668265263) + np.uint32(seed * 2246822519 % 2**32)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    cells: Array = (h ^ (h >> np.uint32(16))).astype(np.float64) / 2.0**32
    return cells


def value_noise(u: Array, v: Array, seed: int = 0) -> Array:
    """Smooth noise in [0, 1) with features of unit size."""
    x, y = u - np.floor(u), v - np.floor(v)
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    low = cell_noise(u, v, seed) * (1 - x) + cell_noise(u + 1, v, seed) * x
    high = cell_noise(u, v + 1, seed) * (1 - x) + cell_noise(u + 1, v + 1, seed) * x
    return low * (1 - y) + high * y


def mix(a: Vector | Array, b: Vector | Array, amount: Array) -> Array:
    """Colours (N, 3) between ``a`` (amount 0) and ``b`` (amount 1)."""
    start: Array = np.asarray(a)
    blend: Array = start + (np.asarray(b) - start) * amount[:, None]
    return blend


@dataclass(frozen=True)
class Noise:
    """Grass, foliage, plaster, asphalt: two colours blended by smooth noise on two scales."""

    first: Vector
    second: Vector
    size: float
    seed: int = 0

    def __call__(self, points: Array, normals: Array) -> Array:
        u, v = face_coordinates(points, normals)
        coarse = value_noise(u / self.size, v / self.size, self.seed)
        fine = cell_noise(u / self.size * 4, v / self.size * 4, self.seed + 1)
        return mix(self.first, self.second, 0.6 * coarse + 0.4 * fine)


@dataclass(frozen=True)
class Checker:
    """Paving of square slabs in two colours, each slab with a tone of its own."""

    first: Vector
    second: Vector
    size: float
    seed: int = 0

    def __call__(self, points: Array, normals: Array) -> Array:
        u, v = (c / self.size for c in face_coordinates(points, normals))
        odd = (np.floor(u) + np.floor(v)) % 2
        return mix(self.first, self.second, odd) * (0.88 + 0.12 * cell_noise(u, v, self.seed))[:, None]


@dataclass(frozen=True)
class Planks:
    """Boards of a given width with dark gaps; upright on upright faces."""

    colour: Vector
    width: float
    seed: int = 0

    def __call__(self, points: Array, normals: Array) -> Array:
        board = face_coordinates(points, normals)[0] / self.width
        tone = 0.75 + 0.25 * cell_noise(board, np.zeros_like(board), self.seed)
        return np.asarray(self.colour) * np.where(board % 1 < 0.08, 0.4, tone)[:, None]


@dataclass(frozen=True)
class Bricks:
    """Courses of bricks, every other one shifted by half a brick, with light mortar."""

    colour: Vector
    mortar: Vector
    height: float
    seed: int = 0

    def __call__(self, points: Array, normals: Array) -> Array:
        u, v = (c / self.height for c in face_coordinates(points, normals))
        u = u / 2.5 + 0.5 * (np.floor(v) % 2)
        tone = 0.7 + 0.3 * cell_noise(u, v, self.seed)
        joint = ((u % 1) < 0.06) | ((v % 1) < 0.15)
        return np.where(joint[:, None], np.asarray(self.mortar), np.asarray(self.colour) * tone[:, None])


@dataclass(frozen=True)
class Windows:
    """A house front: panes with white frames on the upright faces of ``wall``.

    Args:
        wall: what is between the windows.
        ground: y of the ground in the shape's own frame.
        spacing: distance between the windows of a storey in metres; a storey is 2.6 m high.
    """

    wall: Material
    ground: float
    spacing: float
    glass: Vector = (0.16, 0.22, 0.3)

    def __call__(self, points: Array, normals: Array) -> Array:
        u, v = face_coordinates(points, normals)
        across = np.abs(u / self.spacing % 1 - 0.5) * self.spacing
        up = np.abs((v - self.ground) % 2.6 - 1.5)
        upright = np.abs(normals[:, 1]) < 0.5
        frame = upright & (across < 0.55) & (up < 0.7)
        pane = frame & (across > 0.05) & (across < 0.45) & (up < 0.6) & (up > 0.04)
        colours = np.where(frame[:, None], 0.88, self.wall(points, normals))
        return np.where(pane[:, None], np.asarray(self.glass), colours)


@dataclass(frozen=True)
class Crate:
    """A wooden crate: planks inside a darker frame with one brace from corner to corner."""

    colour: Vector
    half: float
    seed: int = 0

    def __call__(self, points: Array, normals: Array) -> Array:
        u, v = (c / self.half for c in face_coordinates(points, normals))
        frame = (np.maximum(np.abs(u), np.abs(v)) > 0.78) | (np.abs(u - v) < 0.2)
        boards = Planks(self.colour, self.half / 2.5, self.seed)(points, normals)
        return np.where(frame[:, None], np.asarray(self.colour) * 0.62, boards)


@dataclass(frozen=True)
class Segments:
    """A beach ball: coloured segments from pole to pole (three pairs of two colours), white caps."""

    first: Vector
    second: Vector

    def __call__(self, points: Array, normals: Array) -> Array:  # noqa: ARG002
        tilted = normals @ np.array([[1.0, 0.0, 0.0], [0.0, 0.8, -0.6], [0.0, 0.6, 0.8]])
        segment = np.floor(np.arctan2(tilted[:, 2], tilted[:, 0]) / (np.pi / 3)) % 2
        colours = mix(self.first, self.second, segment)
        return np.where(np.abs(tilted[:, 1:2]) > 0.95, 0.95, colours)
