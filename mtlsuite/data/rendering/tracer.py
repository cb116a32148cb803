"""Scenes, lights, and the view of a scene: what each pixel sees, exactly, before any domain paints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .geometry import Array, Shape, Vector, dot
from .materials import Material


@dataclass(frozen=True)
class Thing:
    """One solid of a scene with its class and surface."""

    shape: Shape
    label: int
    material: Material


@dataclass(frozen=True)
class Scene:
    """A camera and what it looks at; ``background`` is the label of rays that hit nothing."""

    camera: Camera
    things: Sequence[Thing]
    background: int = 0


class Light(Protocol):
    """Something that shines on points."""

    def at(self, points: Array) -> tuple[Array, Array, Array]:
        """Unit directions towards the light (N or 1, 3), distances (N or 1,) and intensities (N or 1,)."""
        ...


@dataclass(frozen=True)
class Sun:
    """Parallel light from ``direction`` (unit vector towards it)."""

    direction: Vector

    def at(self, points: Array) -> tuple[Array, Array, Array]:  # noqa: ARG002
        return np.array([self.direction]), np.array([np.inf]), np.ones(1)


@dataclass(frozen=True)
class Lantern:
    """Light from one point; at ``reach`` metres half of it is left."""

    position: Vector
    reach: float

    def at(self, points: Array) -> tuple[Array, Array, Array]:
        way = np.asarray(self.position) - points
        distance = np.sqrt(dot(way, way))
        return way / distance[:, None], distance, 1 / (1 + (distance / self.reach) ** 2)


def first_hit(things: Sequence[Thing], origins: Array, directions: Array) -> tuple[Array, NDArray[np.intp]]:
    """For each ray the distance to the first thing (infinite: none) and the index of that thing (or -1).

    Args:
        origins: (N, 3) or (1, 3).
        directions: (N, 3) or (1, 3), of any length.
    """
    n = max(len(origins), len(directions))
    distance, owner = np.full(n, np.inf), np.full(n, -1, dtype=np.intp)
    near = _Culling(origins, directions)
    for index, thing in enumerate(things):
        rays = near(thing.shape)
        if rays.size == 0:
            continue
        o = origins if len(origins) == 1 else origins[rays]
        d = directions if len(directions) == 1 else directions[rays]
        hit = thing.shape.intersect(o, d)
        closer = hit < distance[rays]
        distance[rays[closer]], owner[rays[closer]] = hit[closer], index
    return distance, owner


class _Culling:
    """Finds the rays that pass through the bounding sphere of a shape."""

    def __init__(self, origins: Array, directions: Array) -> None:
        length = np.sqrt(dot(directions, directions))
        self._origins, self._units = origins, directions / length[:, None]
        self._along = dot(origins, self._units)
        self._square = dot(origins, origins)

    def __call__(self, shape: Shape) -> NDArray[np.intp]:
        centre = np.asarray(shape.centre)
        along = self._units @ centre - self._along
        outside = self._square - 2 * (self._origins @ centre) + (centre @ centre - shape.bound**2)
        return np.flatnonzero(np.maximum(along, 0.0) ** 2 >= outside)


class View:
    """What a camera sees of a scene: one ray through the centre of each pixel.

    Attributes:
        label: (H, W) int64, the class at the pixel.
        depth: (H, W) metres along the optical axis, 0 where nothing was hit.
        normals: (H, W, 3) unit normals in the camera frame (x right, y up, z towards the viewer), facing
            the camera, 0 where nothing was hit.
        hit: (H, W) bool, whether the ray hit a thing.
    """

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self.scene = scene
        self.size = (height, width)
        self.rays = scene.camera.rays(height, width)
        rays = self.rays.reshape(-1, 3)
        distance, self._owner = first_hit(scene.things, scene.camera.origin[None], rays)
        seen = self._owner >= 0
        labels = np.array([*(thing.label for thing in scene.things), scene.background])
        self._points = scene.camera.origin + rays[seen] * distance[seen, None]
        self._normals = np.empty_like(self._points)
        self._surfaces: list[tuple[Thing, NDArray[np.intp], Array, Array]] = []
        for index, thing in enumerate(scene.things):
            rows = np.flatnonzero(self._owner[seen] == index)
            if rows.size:
                local = thing.shape.to_local(self._points[rows])
                normals = thing.shape.normals(local)
                self._normals[rows] = thing.shape.to_world(normals)
                self._surfaces.append((thing, rows, local, normals))
        self.hit = seen.reshape(self.size)
        self.label = labels[self._owner].reshape(self.size)
        self.depth = np.where(seen, distance, 0.0).reshape(self.size)
        self.normals = self._image(scene.camera.to_camera(self._normals))

    @cached_property
    def albedo(self) -> Array:
        """(H, W, 3) colours of the surfaces themselves; 0 where nothing was hit."""
        colours = np.empty_like(self._points)
        for thing, rows, local, normals in self._surfaces:
            colours[rows] = thing.material(local, normals)
        return self._image(colours)

    @cached_property
    def upward(self) -> Array:
        """(H, W) y component of the normals in the world; 0 where nothing was hit."""
        return self._image(self._normals[:, 1])

    def lit(self, light: Light) -> Array:
        """(H, W) light that arrives: intensity times cosine of the angle of incidence, 0 in shadow.

        A ray that leaves a convex solid does not enter it again, so no point needs lifting off its surface.
        """
        directions, distance, intensity = light.at(self._points)
        cosine = dot(self._normals, directions)
        rows = np.flatnonzero(cosine > 0)
        towards = directions if len(directions) == 1 else directions[rows]
        blocker, _ = first_hit(self.scene.things, self._points[rows], towards)
        free = blocker >= (distance if len(distance) == 1 else distance[rows])
        arriving = np.zeros(len(self._points))
        arriving[rows] = np.where(free, (cosine * intensity)[rows], 0.0)
        return self._image(arriving)

    def _image(self, values: Array) -> Array:
        image = np.zeros((self._owner.size, *values.shape[1:]))
        image[self.hit.reshape(-1)] = values
        return image.reshape(*self.size, *values.shape[1:])
