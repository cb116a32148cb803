"""What the colours of pictures mean: swatches with names, colour bars with units, directions of normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .pictures import normals_picture
from .style import plain, text_width

_ROW, _BAR, _DISC = 0.16, 0.46, 0.6  # inches: height of a row of swatches, of a colour bar, of directions
_SIZE = 7.0  # points


@dataclass(frozen=True)
class Swatches:
    """A colour a name, in rows; ``title`` stands before them."""

    title: str
    entries: tuple[tuple[str, str], ...]  # name, colour


@dataclass(frozen=True)
class Bar:
    """A colour bar from ``low`` to ``high``; ``extend`` says where values are cut."""

    label: str
    low: float
    high: float
    cmap: str
    extend: Literal["both", "max"]


@dataclass(frozen=True)
class Directions:
    """Half the sphere of directions in the colours of normals: the one with z > 0 if ``towards``."""

    towards: bool


Key: TypeAlias = Swatches | Bar | Directions


def keys_height(keys: Sequence[Key], width: float) -> float:
    """Inches that the keys take on a page of this width (inches)."""
    rows = sum(-(-len(key.entries) // _columns(key, width)) for key in keys if isinstance(key, Swatches))
    return _ROW * rows + _graphics_height(keys)


def draw_keys(figure: Figure, keys: Sequence[Key], top: float) -> None:
    """Draw the keys, ``top`` inches below the upper edge: bars and directions in a row, swatches below."""
    graphics = [key for key in keys if not isinstance(key, Swatches)]
    width = float(figure.get_figwidth())
    for number, graphic in enumerate(graphics):
        slot = width / len(graphics)
        if isinstance(graphic, Bar):
            _draw_bar(figure, graphic, (number + 0.12) * slot, 0.76 * slot, top)
        else:
            _draw_directions(figure, graphic, (number + 0.5) * slot, top)
    y = top + _graphics_height(keys)
    for key in keys:
        if isinstance(key, Swatches):
            y += _draw_swatches(figure, key, y)


def _graphics_height(keys: Sequence[Key]) -> float:
    heights = {Bar: _BAR, Directions: _DISC, Swatches: 0.0}
    return max((heights[type(key)] for key in keys), default=0.0)


def _draw_bar(figure: Figure, key: Bar, x: float, length: float, top: float) -> None:
    width, height = figure.get_size_inches()
    ax = figure.add_axes((x / width, 1 - (top + 0.11) / height, length / width, 0.1 / height))
    colours = ScalarMappable(Normalize(key.low, key.high), matplotlib.colormaps[key.cmap])
    bar = figure.colorbar(colours, cax=ax, orientation="horizontal", extend=key.extend, extendfrac=0.03)
    bar.locator = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    bar.update_ticks()
    bar.outline.set_linewidth(0.4)
    bar.set_label(key.label, fontsize=_SIZE, labelpad=1)
    ax.tick_params(labelsize=6.5, pad=1.5, length=2)
    ax.grid(visible=False)


def _draw_directions(figure: Figure, key: Directions, centre: float, top: float) -> None:
    """A disc: every point shows the colour of the normal that has its x and y."""
    width, height = figure.get_size_inches()
    size = _DISC - 0.08
    y, x = -np.mgrid[-1:1:200j, -1:1:200j][0], np.mgrid[-1:1:200j, -1:1:200j][1]
    inside = x**2 + y**2 < 1
    z = np.sqrt(np.where(inside, 1 - x**2 - y**2, 0)) * (1 if key.towards else -1)
    picture = normals_picture(np.where(inside, np.stack([x, y, z]), 0))
    left = centre - size - 0.2
    ax = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
    ax.imshow(np.dstack([picture, inside.astype(float)]), interpolation="none", extent=(-1, 1, -1, 1))
    ax.set_axis_off()
    sign = ">" if key.towards else "<"
    text = f"direction of the normal:\nx to the right, y upwards\n(the half with z {sign} 0)"
    x_text, y_text = (left + size + 0.08) / width, 1 - (top + size / 2) / height
    figure.text(x_text, y_text, text, fontsize=_SIZE, va="center", linespacing=1.15)


def _draw_swatches(figure: Figure, key: Swatches, y: float) -> float:
    """Returns the height that they take."""
    width, height = figure.get_size_inches()
    columns, cell, title = _columns(key, width), _cell(key), text_width(key.title, _SIZE)
    left = (width - cell * min(columns, len(key.entries)) - title) / 2
    figure.text(left / width, 1 - (y + _ROW / 2) / height, key.title, fontsize=_SIZE, va="center")
    for i, (name, colour) in enumerate(key.entries):
        row, column = divmod(i, columns)
        _draw_swatch(figure, name, colour, left + title + 0.08 + column * cell, y + row * _ROW)
    return _ROW * -(-len(key.entries) // columns)


def _draw_swatch(figure: Figure, name: str, colour: str, x: float, y: float) -> None:
    width, height = figure.get_size_inches()
    corner = (x / width, 1 - (y + 0.125) / height)
    figure.add_artist(
        Rectangle(
            corner, 0.16 / width, 0.09 / height, facecolor=colour, edgecolor="#555555", linewidth=0.4,
            transform=figure.transFigure,
        )
    )  # fmt: skip
    figure.text((x + 0.2) / width, 1 - (y + _ROW / 2) / height, plain(name, 28), fontsize=_SIZE, va="center")


def _columns(key: Swatches, width: float) -> int:
    return max(1, int((width - text_width(key.title, _SIZE) - 0.2) / _cell(key)))


def _cell(key: Swatches) -> float:
    return 0.34 + max(text_width(plain(name, 28), _SIZE) for name, _ in key.entries)
