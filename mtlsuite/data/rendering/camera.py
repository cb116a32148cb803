"""A pinhole camera above the ground, looking along -z of the world, tilted by a pitch angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .geometry import Array


@dataclass(frozen=True)
class Camera:
    """Pinhole at (0, eye, 0).

    Camera frame: x right, y up, z towards the viewer; the optical axis is -z. A point at depth D is
    D metres away along that axis.

    Args:
        eye: height above the ground in metres.
        pitch: angle of the optical axis above the horizon, in radians (negative: looking down).
        field: angle of view along the longer side of the image, in radians.
    """

    eye: float
    pitch: float
    field: float

    @property
    def origin(self) -> Array:
        """The pinhole in the world, (3,)."""
        return np.array([0.0, self.eye, 0.0])

    @property
    def rotation(self) -> Array:
        """(3, 3); columns are the camera's axes in the world."""
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])

    def rays(self, height: int, width: int) -> Array:
        """(height, width, 3) world directions through the pixel centres, one metre deep each.

        A hit at ``origin + t * ray`` therefore has depth t.
        """
        focal = max(height, width) / (2 * math.tan(self.field / 2))
        x = (np.arange(width) + 0.5 - width / 2) / focal
        y = (height / 2 - np.arange(height) - 0.5) / focal
        local = np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), axis=-1)
        rays: Array = local @ self.rotation.T
        return rays

    def to_camera(self, directions: Array) -> Array:
        """World directions (..., 3) in the camera frame."""
        turned: Array = directions @ self.rotation
        return turned
