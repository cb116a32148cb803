"""Ray-cast RGB-D scenes: a courtyard, a street or a garden, seen in several visual domains.

Layout on disk (a cache, safe to delete): ``CACHE/scenes/DOMAIN-PART-KEY.npz`` with ``colour`` uint8
(N, 3, H, W), ``label`` int8 (N, H, W), ``depth`` float32 (N, 1, H, W) and ``normals`` float16
(N, 3, H, W). KEY is a hash of every option that the arrays depend on and of the renderer's version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import track

from ..core.errors import UsageError, unknown_name
from ..core.registry import register
from ..core.types import Count
from .base import DataSet, Sample, TensorSplit
from .cache import Arrays, cache_folder, cached
from .rendering import CLASSES, DOMAINS, View, compose

RENDERER_VERSION = 1  # part of the cache key: raise it whenever a change alters any picture
_SUPERSAMPLING = 2  # colour is the mean of so many rays along each side of a pixel; the rest is one ray


class SceneSplit(TensorSplit):
    """Scenes as stored (see the module), turned into float32 and int64 only as they are asked for."""

    def batch(self, indices: Sequence[int]) -> Sample:
        colour, targets = super().batch(indices)
        normals = targets["normals"].float()
        square = normals.square().sum(dim=1, keepdim=True)
        return colour.float().div_(255), {
            "segmentation": targets["segmentation"].long(),
            "depth": targets["depth"].float(),
            "normals": normals.mul_(square.clamp_min_(1e-6).rsqrt_()),  # undoes the rounding; zero stays zero
        }


@register("dataset", "scenes")
class Scenes(DataSet):
    """Synthetic RGB-D scenes with exact segmentation, depth (metres) and normals (camera frame).

    Each scene is drawn from a generator of its own, seeded by (seed, domain, part, index): domains and
    parts show different scenes of the same kind, and scene i is the same however many there are.

    Args:
        height, width: size of the images in pixels.
        n_train, n_val: scenes per domain.
        domains: which to offer, in this order; default: all of ``day, dusk, night, fog, sketch, thermal``.
        seed: another seed gives other scenes.
        cache: folder for rendered scenes; default: the environment variable MTLSUITE_CACHE, else
            ``~/.cache/mtlsuite``.

    Raises:
        UsageError: an unknown, doubled or missing domain, or another ill-typed option.
    """

    classes = CLASSES

    def __init__(
        self,
        height: Count = 48,
        width: Count = 64,
        n_train: Count = 400,
        n_val: Count = 100,
        domains: list[str] | None = None,
        seed: Annotated[int, Field(ge=0)] = 0,
        cache: str | None = None,
    ) -> None:
        self.domains = _checked_domains(domains)
        self.tasks = {"segmentation": len(CLASSES), "depth": 1, "normals": 3}
        self.input_shape = (3, height, width)
        self.seed = seed
        self.sizes = {"train": n_train, "val": n_val}
        self.folder = cache_folder(cache) / "scenes"

    def split(self, domain: str, part: str) -> SceneSplit:
        self.check(domain, part)
        parts = list(self.sizes) if part == "all" else [part]
        stored = [self._arrays(domain, each) for each in parts]
        joined = {key: torch.from_numpy(np.concatenate([a[key] for a in stored])) for key in stored[0]}
        targets = {"segmentation": joined["label"], "depth": joined["depth"], "normals": joined["normals"]}
        return SceneSplit(joined["colour"], targets)

    def render(self, domain: str, part: str, index: int) -> Arrays:
        """Scene ``index`` of ``train`` or ``val`` as arrays without N (see the module), never cached."""
        part_number = list(self.sizes).index(part)
        rng = np.random.default_rng([self.seed, part_number, index, *domain.encode()])
        scene, (_, height, width) = compose(rng), self.input_shape
        s = _SUPERSAMPLING
        fine = DOMAINS[domain].paint(View(scene, s * height, s * width), rng)
        colour = fine.reshape(height, s, width, s, 3).mean(axis=(1, 3))
        colour += DOMAINS[domain].grain * rng.standard_normal(colour.shape)
        exact = View(scene, height, width)
        return {
            "colour": (255 * colour.clip(0, 1) + 0.5).astype(np.uint8).transpose(2, 0, 1),
            "label": exact.label.astype(np.int8),
            "depth": exact.depth.astype(np.float32)[None],
            "normals": exact.normals.astype(np.float16).transpose(2, 0, 1),
        }

    def _arrays(self, domain: str, part: str) -> Arrays:
        return cached(self._path(domain, part), self._empty(part), lambda: self._render_all(domain, part))

    def _render_all(self, domain: str, part: str) -> Arrays:
        arrays = self._empty(part)
        console = Console(stderr=True)
        indices = range(self.sizes[part])
        title = f"rendering {domain}/{part}"
        for i in track(indices, title, console=console, disable=not console.is_terminal, transient=True):
            for key, value in self.render(domain, part, i).items():
                arrays[key][i] = value
        return arrays

    def _empty(self, part: str) -> Arrays:
        n, (_, height, width) = self.sizes[part], self.input_shape
        return {
            "colour": np.empty((n, 3, height, width), np.uint8),
            "label": np.empty((n, height, width), np.int8),
            "depth": np.empty((n, 1, height, width), np.float32),
            "normals": np.empty((n, 3, height, width), np.float16),
        }

    def _path(self, domain: str, part: str) -> Path:
        options = [RENDERER_VERSION, self.seed, self.sizes[part], *self.input_shape]
        key = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
        return self.folder / f"{domain}-{part}-{key}.npz"


def _checked_domains(domains: list[str] | None) -> tuple[str, ...]:
    if domains is None:
        return tuple(DOMAINS)
    if not domains or len(set(domains)) < len(domains):
        raise UsageError(f"domains: one or more, each once, found {domains!r}", ("domains",))
    for domain in domains:
        if domain not in DOMAINS:
            raise UsageError(unknown_name("domain", domain, DOMAINS), ("domains",))
    return tuple(domains)
