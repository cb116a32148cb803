"""Random scenes that a person recognises: a courtyard, a street or a garden with things standing in it."""

from __future__ import annotations

import math

import numpy as np

from .camera import Camera
from .geometry import Box, Cone, Cylinder, Sphere, Vector
from .materials import Bricks, Checker, Crate, Material, Noise, Planks, Segments, Windows
from .tracer import Scene, Thing

CLASSES = ("sky", "ground", "wall", "crate", "ball", "table", "tree")
SKY, GROUND, WALL, CRATE, BALL, TABLE, TREE = range(7)

_GROUND_RADIUS = 30.0
_ASPHALT = ((0.36, 0.36, 0.38), (0.46, 0.46, 0.47))
_GRASS = ((0.2, 0.42, 0.13), (0.42, 0.58, 0.22))
_PAVING = (((0.62, 0.6, 0.56), (0.78, 0.75, 0.7)), ((0.5, 0.5, 0.53), (0.72, 0.72, 0.74)))
_BRICK = ((0.62, 0.28, 0.2), (0.7, 0.42, 0.28), (0.55, 0.36, 0.32))
_PLASTER = ((0.85, 0.78, 0.62), (0.82, 0.66, 0.56), (0.68, 0.74, 0.78), (0.86, 0.84, 0.8))
_WOOD = ((0.72, 0.5, 0.28), (0.62, 0.42, 0.24), (0.8, 0.62, 0.4))
_LEAVES = (((0.1, 0.3, 0.1), (0.25, 0.5, 0.18)), ((0.16, 0.34, 0.08), (0.4, 0.56, 0.2)))
_BALLS = ((0.85, 0.15, 0.15), (0.15, 0.35, 0.8), (0.95, 0.75, 0.1), (0.1, 0.6, 0.35), (0.85, 0.4, 0.1))
_WHITE = (0.93, 0.93, 0.93)


def compose(rng: np.random.Generator) -> Scene:
    """A new scene: everything about it is drawn from ``rng``, nothing depends on the image size."""
    camera = Camera(
        rng.uniform(1.3, 1.8), math.radians(rng.uniform(-13, -6)), math.radians(rng.uniform(58, 68))
    )
    composer = _Composer(rng, camera)
    setting = (composer.courtyard, composer.street, composer.garden)[rng.integers(3)]
    setting()
    for add, least, most, near, far in (
        (composer.table, 1, 1, 2.6, 4.6),
        (composer.crates, 1, 3, 2.6, 6.5),
        (composer.ball, 2, 4, 2.0, 6.0),
        (composer.tree, 1, 3, 4.2, 9.0),
    ):
        for _ in range(rng.integers(least, most + 1)):
            add(near, far)
    return Scene(camera, tuple(composer.things), SKY)


class _Composer:
    """Puts things down one after the other, none into another."""

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        self.rng = rng
        self.things: list[Thing] = []
        self._slope = math.tan(camera.field / 2)
        self._taken: list[tuple[float, float, float]] = []  # x, z, radius of what stands on the ground
        self._left, self._right, self._back = -math.inf, math.inf, 20.0

    # settings

    def courtyard(self) -> None:
        """Paving, a brick wall at the back and often one at a side."""
        first, second = self._choose(_PAVING)
        self._ground(Checker(first, second, self.rng.uniform(0.6, 1.1), self._seed()))
        bricks = Bricks(self._choose(_BRICK), (0.75, 0.73, 0.7), self.rng.uniform(0.16, 0.26), self._seed())
        self._back = self.rng.uniform(6.5, 9.5)
        height = self.rng.uniform(1.7, 3.0)
        self._wall((0.0, -self._back - 0.15), (12.0, height, 0.3), bricks)
        if self.rng.random() < 0.7:
            x = self.rng.uniform(3.0, 4.5) * self._side()
            self._left, self._right = (x, math.inf) if x < 0 else (-math.inf, x)
            self._wall(
                (x + math.copysign(0.15, x), -self._back / 2 - 1), (0.3, height, self._back + 3), bricks
            )

    def street(self) -> None:
        """Asphalt between two rows of houses."""
        self._ground(Noise(*_ASPHALT, size=0.25, seed=self._seed()))
        half = self.rng.uniform(3.2, 4.6)
        self._left, self._right = -half, half
        for side in (-1, 1):
            front = -self.rng.uniform(2.5, 4.0) if self.rng.random() < 0.5 else 2.0
            while front > -14:
                length, height = self.rng.uniform(4, 7), self._storeys()
                centre = (side * (half + 1.5), front - length / 2)
                self._wall(centre, (3.0, height, length), self._house(height))
                front -= length + self.rng.uniform(0.0, 1.5)

    def garden(self) -> None:
        """Grass, a fence, and a house."""
        self._ground(Noise(*_GRASS, size=0.5, seed=self._seed()))
        self._back = self.rng.uniform(7.0, 10.0)
        fence = Planks(self._choose(_WOOD), self.rng.uniform(0.25, 0.4), self._seed())
        self._wall((0.0, -self._back - 0.1), (24.0, self.rng.uniform(0.9, 1.5), 0.1), fence)
        length, height = self.rng.uniform(3.5, 6.0), self._storeys()
        centre = (self.rng.uniform(1.0, 5.0) * self._side(), -self._back - 2.5)
        self._wall(centre, (length, height, 3.0), self._house(height), self.rng.uniform(-0.3, 0.3))

    # things

    def table(self, near: float, far: float) -> None:
        """Four legs, or round on one leg; sometimes with something on it."""
        place = self._place(1.0, near, far)
        if place is None:
            return
        x, z = place
        top, thick, leg = self.rng.uniform(0.72, 0.85), 0.09, 0.055
        wood = Planks(self._choose(_WOOD), 0.2, self._seed())
        yaw = self.rng.uniform(-0.6, 0.6)
        if self.rng.random() < 0.3:
            radius = self.rng.uniform(0.55, 0.75)
            self._add(Cylinder((x, top - thick / 2, z), radius=radius, half=thick / 2), TABLE, wood)
            self._add(Cylinder((x, (top - thick) / 2, z), radius=0.08, half=(top - thick) / 2), TABLE, wood)
            self._add(Cylinder((x, 0.04, z), radius=0.35, half=0.04), TABLE, wood)
        else:
            a, b = self.rng.uniform(0.65, 0.9), self.rng.uniform(0.38, 0.5)
            self._add(Box((x, top - thick / 2, z), (a, thick / 2, b), yaw=yaw), TABLE, wood)
            for u, v in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
                dx, dz = u * (a - leg), v * (b - leg)
                c, s = math.cos(yaw), math.sin(yaw)
                centre = (x + c * dx + s * dz, (top - thick) / 2, z - s * dx + c * dz)
                self._add(Box(centre, (leg, (top - thick) / 2, leg), yaw=yaw), TABLE, wood)
        if self.rng.random() < 0.5:
            radius = self.rng.uniform(0.13, 0.2)
            self._add(Sphere((x + self.rng.uniform(-0.2, 0.2), top + radius, z), radius), BALL, self._skin())

    def crates(self, near: float, far: float) -> None:
        """A wooden crate, sometimes with a smaller one on top."""
        half = self.rng.uniform(0.25, 0.45)
        place = self._place(1.4 * half, near, far)
        if place is None:
            return
        (x, z), floor = place, 0.0
        for _ in range(1 + int(self.rng.random() < 0.35)):
            crate = Crate(self._choose(_WOOD), half, self._seed())
            yaw = self.rng.uniform(-math.pi / 4, math.pi / 4)
            self._add(Box((x, floor + half, z), (half, half, half), yaw=yaw), CRATE, crate)
            floor, half = floor + 2 * half, half * self.rng.uniform(0.6, 0.9)

    def ball(self, near: float, far: float) -> None:
        """A beach ball."""
        radius = self.rng.uniform(0.18, 0.42)
        place = self._place(radius, near, far)
        if place is not None:
            x, z = place
            sphere = Sphere((x, radius, z), radius, yaw=self.rng.uniform(0, math.pi))
            self._add(sphere, BALL, self._skin())

    def tree(self, near: float, far: float) -> None:
        """A conifer of three cones, or a round crown of three spheres, on a trunk."""
        place = self._place(0.5, near, far)
        if place is None:
            return
        x, z = place
        first, second = self._choose(_LEAVES)
        leaves = Noise(first, second, 0.25, self._seed())
        height, trunk = self.rng.uniform(2.2, 3.4), self.rng.uniform(0.09, 0.16)
        bark = Noise((0.3, 0.2, 0.12), (0.45, 0.32, 0.2), 0.12, self._seed())
        self._add(Cylinder((x, height / 4, z), radius=trunk, half=height / 4), TREE, bark)
        if self.rng.random() < 0.5:
            for i in range(3):
                half, radius = height * (0.24 - 0.03 * i), height * (0.27 - 0.06 * i)
                centre = (x, height * (0.44 + 0.22 * i), z)
                self._add(Cone(centre, radius=radius, half=half), TREE, leaves)
        else:
            size = self.rng.uniform(0.5, 0.75)
            for i in range(3):
                angle = i * 2.1 + self.rng.uniform(0, 1)
                centre = (
                    x + 0.5 * size * math.cos(angle),
                    height * 0.65 + 0.3 * size * i,
                    z + 0.5 * size * math.sin(angle),
                )
                self._add(Sphere(centre, size * (1.05 - 0.12 * i)), TREE, leaves)

    # helpers

    def _add(self, shape: Box | Sphere | Cylinder | Cone, label: int, material: Material) -> None:
        self.things.append(Thing(shape, label, material))

    def _ground(self, material: Material) -> None:
        self._add(Cylinder((0.0, -0.5, 0.0), radius=_GROUND_RADIUS, half=0.5), GROUND, material)

    def _wall(self, place: tuple[float, float], size: Vector, material: Material, yaw: float = 0.0) -> None:
        centre = (place[0], size[1] / 2, place[1])
        self._add(Box(centre, (size[0] / 2, size[1] / 2, size[2] / 2), yaw=yaw), WALL, material)

    def _storeys(self) -> float:
        """Height of a house of one or two storeys of 2.6 m."""
        return 2.6 * float(self.rng.integers(1, 3)) + self.rng.uniform(0.1, 0.5)

    def _house(self, height: float) -> Windows:
        plaster = self._choose(_PLASTER)
        dirt: Vector = (plaster[0] * 0.85, plaster[1] * 0.85, plaster[2] * 0.85)
        surface: Material = Noise(plaster, dirt, 0.8, self._seed())
        if self.rng.random() < 0.4:
            surface = Bricks(self._choose(_BRICK), (0.75, 0.73, 0.7), 0.22, self._seed())
        return Windows(surface, -height / 2, self.rng.uniform(1.7, 2.4))

    def _skin(self) -> Segments:
        return Segments(self._choose(_BALLS), _WHITE)

    def _place(self, radius: float, near: float, far: float) -> tuple[float, float] | None:
        """A free spot (x, z) within view for something of that radius, or None if forty tries found none."""
        far = min(far, self._back - radius)
        for _ in range(40):
            depth = self.rng.uniform(near, far)
            x = self.rng.uniform(-0.9, 0.9) * self._slope * depth
            if not self._left + radius < x < self._right - radius:
                continue
            if all(math.hypot(x - a, -depth - b) > radius + r + 0.1 for a, b, r in self._taken):
                self._taken.append((x, -depth, radius))
                return x, -depth
        return None

    def _choose(self, options: tuple) -> tuple:  # type: ignore[type-arg]
        return options[self.rng.integers(len(options))]  # type: ignore[no-any-return]

    def _side(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1

    def _seed(self) -> int:
        return int(self.rng.integers(2**16))
