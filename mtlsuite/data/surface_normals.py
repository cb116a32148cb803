"""Surface normals from a depth map: planes fitted to inverse depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Pinhole:
    """Intrinsics of a camera in pixels: focal lengths and principal point; (0, 0) is a pixel's centre."""

    fx: float
    fy: float
    cx: float
    cy: float

    def resized(self, height: int, width: int, new_height: int, new_width: int) -> Pinhole:
        """The intrinsics of the same picture at another size."""
        sx, sy = new_width / width, new_height / height
        return Pinhole(self.fx * sx, self.fy * sy, (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5)


def normals_from_depth(depth: Array, camera: Pinhole, radius: int = 3, tolerance: float = 0.05) -> Array:
    """Unit normals of the surface seen in each pixel.

    With the ray r = (x, y, -1), x = (u - cx) / fx, y = (cy - v) / fy, pixel (u, v) at depth Z shows the point
    Z r. On a plane n . p = -h that means 1/Z = -(n . r) / h: inverse depth is an affine function
    a x + b y + c of the ray, exactly, and n is proportional to (-a, -b, c). It is fitted by least squares to
    the valid pixels of a window; structured light measures disparity, so its errors are alike in 1/Z.

    Args:
        depth: (H, W) metres along the optical axis, 0 = invalid.
        camera: intrinsics of the depth map.
        radius: of the window, (2 radius + 1) squared pixels.
        tolerance: neighbours whose depth differs by a larger fraction belong to another surface.

    Returns:
        (H, W, 3) float32, camera frame x right, y up, z towards the viewer; zero where depth is invalid or
        fewer than half of the window's pixels belong to the surface.
    """
    height, width = depth.shape
    valid = depth > 0
    inverse = np.where(valid, 1 / np.where(valid, depth, 1), np.nan).astype(np.float64)
    padded = np.pad(inverse, radius, constant_values=np.nan)
    moments, sums = np.zeros((height, width, 3, 3)), np.zeros((height, width, 3))
    steps = range(-radius, radius + 1)
    for dv in steps:
        for du in steps:
            other = padded[radius + dv : radius + dv + height, radius + du : radius + du + width]
            near = np.abs(inverse / other - 1) <= tolerance  # NaN, invalid, is never near
            row = np.array([du / camera.fx, -dv / camera.fy, 1.0])  # the ray, seen from the window's centre
            moments += near[..., None, None] * np.outer(row, row)
            sums += np.where(near, other, 0)[..., None] * row
    enough = moments[..., 2, 2] >= (2 * radius + 1) ** 2 / 2
    normals = np.zeros((height, width, 3), np.float32)
    a, b, centre = np.linalg.solve(moments[enough], sums[enough][..., None])[..., 0].T
    v, u = np.nonzero(enough)
    x, y = (u - camera.cx) / camera.fx, (camera.cy - v) / camera.fy
    normal = np.stack([-a, -b, centre - a * x - b * y], axis=-1)
    normals[enough] = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    return normals
