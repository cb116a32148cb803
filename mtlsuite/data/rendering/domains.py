"""The visual domains: each paints the same kind of view in its own way.

Everything a domain does is a function of the view and of the scene's own random generator; what the
pixels *are* (label, depth, normals) has been settled before.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import numpy as np

from .geometry import Array, Vector, dot
from .materials import cell_noise, mix, value_noise
from .tracer import Lantern, Light, Sun, View

Range = tuple[float, float]
_LUMINANCE = np.array([0.299, 0.587, 0.114])


class Domain(abc.ABC):
    """A way of turning a view into a picture."""

    grain: float = 0.0  # standard deviation of the noise that is added to each finished pixel

    @abc.abstractmethod
    def paint(self, view: View, rng: np.random.Generator) -> Array:
        """Colours (H, W, 3); 0 is black, 1 is white, values outside are cut off later."""


def sun(rng: np.random.Generator, elevation: Range, azimuth: Range) -> Sun:
    """A sun in the given ranges (degrees); azimuth 0 is straight behind the camera, to either side."""
    up = math.radians(rng.uniform(*elevation))
    side = math.radians(rng.uniform(*azimuth)) * (1 if rng.random() < 0.5 else -1)
    return Sun((math.cos(up) * math.sin(side), math.sin(up), math.cos(up) * math.cos(side)))


@dataclass(frozen=True)
class Photograph(Domain):
    """Sun or lantern, ambient light, a sky, and haze that grows with distance.

    Args:
        light: colour of the light; ``ambient``: colour of the light that comes from everywhere.
        zenith: colour of the sky high up; ``horizon``: low down and of the haze.
        elevation: range of the sun's height in degrees, or None for a lantern beside the camera.
        azimuth: range of the angle between the sun and the direction behind the camera, in degrees.
        shadows: whether the light casts any; an overcast sky does not.
        clearness: distance in metres at which the haze hides all but 1/e of a thing, as a range.
        clouds: how much of the sky clouds cover, in [0, 1].
        stars: whether the sky has any.
        grain: see ``Domain``.
    """

    light: Vector
    ambient: Vector
    zenith: Vector
    horizon: Vector
    elevation: Range | None = (35, 60)
    azimuth: Range = (15, 70)
    shadows: bool = True
    clearness: Range = (400, 400)
    clouds: float = 0.0
    stars: bool = False
    grain: float = 0.0

    def paint(self, view: View, rng: np.random.Generator) -> Array:
        arriving = self._arriving(view, rng)[..., None] * np.asarray(self.light)
        bounce = (0.75 + 0.25 * view.upward)[..., None] * np.asarray(self.ambient)
        surface = view.albedo * (arriving + bounce)
        distance = view.depth * np.sqrt(dot(view.rays, view.rays))
        haze = 1 - np.exp(-distance / rng.uniform(*self.clearness))[..., None]
        seen = surface + (np.asarray(self.horizon) - surface) * haze
        return np.where(view.hit[..., None], seen, self._sky(view, rng))

    def _arriving(self, view: View, rng: np.random.Generator) -> Array:
        if not self.shadows:
            return np.zeros(view.size)
        light: Light
        if self.elevation is None:
            x, y, _ = view.scene.camera.origin
            light = Lantern((x + rng.uniform(-1.2, 1.2), y + rng.uniform(0.2, 0.8), -1.0), reach=2.6)
        else:
            light = sun(rng, self.elevation, self.azimuth)
        return view.lit(light)

    def _sky(self, view: View, rng: np.random.Generator) -> Array:
        x, y, z = np.moveaxis(view.rays.reshape(-1, 3), 1, 0)
        up = np.maximum(y / np.sqrt(x * x + y * y + z * z), 0.0)
        colours = mix(self.horizon, self.zenith, np.minimum(up / 0.5, 1.0))
        seed = int(rng.integers(2**31))
        if self.clouds:
            u, v = x / (up + 0.25), 3 * up / (up + 0.25)
            puff = 0.65 * value_noise(3 * u, 5 * v, seed) + 0.35 * value_noise(8 * u, 12 * v, seed + 1)
            cover = np.clip((puff - 1 + self.clouds) * 4, 0, 1) * np.minimum(up * 12, 1)
            colours = mix(colours, np.asarray(self.light), 0.85 * cover)
        if self.stars:
            shine = np.where(cell_noise(110 * x / -z, 110 * y / -z, seed) > 0.992, 0.9, 0.0)
            colours = colours + shine[:, None]
        return colours.reshape(*view.size, 3)


def edges(view: View) -> Array:
    """(H, W) bool: pixels that differ from a neighbour in class, in slope, or in depth by a tenth."""
    marked = np.zeros(view.size, dtype=bool)
    for axis in (0, 1):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        bend = dot(view.normals[here], view.normals[there]) < 0.8
        near, far = view.depth[here], view.depth[there]
        jump = np.abs(near - far) > 0.1 * np.minimum(near, far)
        steep = np.minimum(np.abs(view.normals[here][..., 2]), np.abs(view.normals[there][..., 2])) < 0.2
        same = view.hit[here] & view.hit[there]
        marked[here] |= (view.label[here] != view.label[there]) | (same & (bend | (jump & ~steep)))
    return marked


class Sketch(Domain):
    """Pencil on paper: outlines, faint surface patterns, and hatching in the shade."""

    def paint(self, view: View, rng: np.random.Generator) -> Array:
        lit = view.lit(sun(rng, (35, 60), (15, 70)))
        tone = 1.0 - 0.3 * (1 - view.albedo @ _LUMINANCE)
        rows, columns = np.indices(view.size) / max(view.size)
        hatch = ((rows + columns) * rng.uniform(42, 52)) % 1 < 0.45
        tone = np.where(hatch & (lit < 0.2), tone - 0.3, tone)
        tone = np.where(view.hit, tone, 1.0)
        tone = np.where(edges(view), 0.12, tone)
        paper = np.array([0.98, 0.96, 0.9]) * rng.uniform(0.94, 1.0)
        return tone[..., None] * paper


class Thermal(Domain):
    """A heat camera: what is dark and in the sun is warm, the sky is cold; black, violet, orange, white."""

    grain = 0.015
    _levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    _palette = (
        (0.0, 0.0, 0.06),
        (0.33, 0.06, 0.43),
        (0.73, 0.21, 0.33),
        (0.98, 0.55, 0.04),
        (0.99, 1.0, 0.75),
    )

    def paint(self, view: View, rng: np.random.Generator) -> Array:
        lit = view.lit(sun(rng, (35, 60), (15, 70)))
        heat = 0.22 + 0.4 * lit + 0.45 * (1 - view.albedo @ _LUMINANCE) + rng.uniform(-0.05, 0.05)
        heat = np.where(view.hit, heat * np.exp(-view.depth / 60), 0.05)
        channels = [np.interp(heat, self._levels, levels) for levels in zip(*self._palette, strict=True)]
        return np.stack(channels, axis=-1)


DOMAINS: dict[str, Domain] = {
    "day": Photograph(
        light=(0.95, 0.92, 0.84),
        ambient=(0.36, 0.4, 0.46),
        zenith=(0.25, 0.48, 0.85),
        horizon=(0.72, 0.84, 0.95),
        clouds=0.5,
    ),
    "dusk": Photograph(
        light=(1.2, 0.62, 0.28),
        ambient=(0.44, 0.33, 0.42),
        zenith=(0.22, 0.16, 0.38),
        horizon=(0.98, 0.52, 0.25),
        elevation=(14, 26),
        azimuth=(20, 75),
        clearness=(60, 120),
        clouds=0.3,
    ),
    "night": Photograph(
        light=(2.0, 1.6, 1.05),
        ambient=(0.12, 0.15, 0.28),
        zenith=(0.01, 0.015, 0.05),
        horizon=(0.04, 0.05, 0.12),
        elevation=None,
        stars=True,
        grain=0.03,
    ),
    "fog": Photograph(
        light=(0.0, 0.0, 0.0),
        ambient=(0.78, 0.8, 0.82),
        zenith=(0.78, 0.8, 0.82),
        horizon=(0.74, 0.76, 0.78),
        shadows=False,
        clearness=(5, 9),
        grain=0.01,
    ),
    "sketch": Sketch(),
    "thermal": Thermal(),
}
