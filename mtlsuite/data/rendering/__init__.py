"""A small ray caster: shapes, materials, scenes, and the visual domains that paint one view of a scene."""

from __future__ import annotations

from .camera import Camera
from .compose import CLASSES, compose
from .domains import DOMAINS, Domain
from .geometry import Box, Cone, Cylinder, Shape, Sphere
from .tracer import Lantern, Scene, Sun, Thing, View

__all__ = [
    "CLASSES",
    "DOMAINS",
    "Box",
    "Camera",
    "Cone",
    "Cylinder",
    "Domain",
    "Lantern",
    "Scene",
    "Shape",
    "Sphere",
    "Sun",
    "Thing",
    "View",
    "compose",
]
