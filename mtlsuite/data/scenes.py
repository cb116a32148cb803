"""Ray-cast RGB-D scenes: a courtyard, a street or a garden, seen in several visual domains.

They are rendered as they are asked for, or read from files that ``mtlsuite data make-scenes`` wrote in the
layout of the MTAN code (see ``mtan``).

Layout on disk (a cache, safe to delete): ``CACHE/scenes/DOMAIN-PART-KEY.npz`` with ``colour`` uint8
(N, 3, H, W), ``label`` int8 (N, H, W), ``depth`` float32 (N, 1, H, W) and ``normals`` float16
(N, 3, H, W). KEY is a hash of every option that the arrays depend on and of the renderer's version.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import track

from ..core.errors import UsageError, unknown_name
from ..core.registry import register
from ..core.types import Count
from .augment import draw_crop, enlarged
from .base import DataSet, Sample, TensorSplit
from .cache import Arrays, cache_folder, cached
from .mtan import MTAN, MTANSplit
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


class AugmentedSceneSplit(SceneSplit):
    """Scenes that training may ask for under the published augmentation."""

    def augmented(self, index: int, generator: torch.Generator) -> Sample:
        """Sample ``index``, cropped, enlarged and flipped as drawn from ``generator``; see ``augment``."""
        image, targets = self[index]
        height, width = image.shape[1:]
        crop = draw_crop(height, width, generator)
        window = (..., *crop.window)
        cut = {task: target[window] for task, target in targets.items()}
        return enlarged((image[window], cut), crop, (height, width))


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
        root: a folder that ``mtlsuite data make-scenes`` wrote: its scenes are read instead, as one domain
            ``scenes``, and none of the options above is allowed.
        labels: the label folder below ``root``; default: ``label``.
        augment: the augmentation published for NYUv2 and Cityscapes in training; see ``augment``.

    Raises:
        UsageError: an unknown, doubled or missing domain, or another ill-typed option; no such folder, or
            everything that is wrong with it; an option that has no effect beside ``root`` or without it.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(
        self,
        height: Count = 48,
        width: Count = 64,
        n_train: Count = 400,
        n_val: Count = 100,
        domains: list[str] | None = None,
        seed: Annotated[int, Field(ge=0)] = 0,
        cache: str | None = None,
        root: str | None = None,
        labels: str | None = None,
        augment: bool = False,
    ) -> None:
        self.augment = augment
        self.files: MTAN | None = None
        if root is not None:
            given = {"height": height, "width": width, "n_train": n_train, "n_val": n_val}
            _refuse_beside_root({**given, "domains": domains, "seed": seed, "cache": cache})
            self._open(root, labels or "label")
            return
        if labels is not None:
            raise UsageError("allowed only with 'root', whose label folder it names", ("labels",))
        self.domains = _checked_domains(domains)
        self.tasks = {"segmentation": len(CLASSES), "depth": 1, "normals": 3}
        self.input_shape = (3, height, width)
        self.seed = seed
        self.sizes = {"train": n_train, "val": n_val}
        self.folder = cache_folder(cache) / "scenes"

    def _open(self, root: str, labels: str) -> None:
        path = Path(root).expanduser()
        if not path.is_dir():
            hint = f"`mtlsuite data make-scenes --root {root} --labels {labels}` writes scenes there"
            raise UsageError(f"{root}: no such folder; {hint}", ("root",))
        self.files = MTAN(root, labels, self.augment)
        if "segmentation" not in self.files.tasks:
            others = sorted({split.name for split in path.glob("*/label*") if split.is_dir()})
            found = ", ".join(others) or "none"
            raise UsageError(f"{root}: no label folder {labels}; there is {found}", ("labels",))
        self.domains = (self.name,)
        self.tasks, self.input_shape = self.files.tasks, self.files.input_shape
        self.classes = self.files.classes

    def split(self, domain: str, part: str) -> SceneSplit | MTANSplit:
        """The scenes of a part; those of ``train`` also offer ``augmented`` with the option ``augment``."""
        self.check(domain, part)
        if self.files is not None:
            return self.files.split(self.files.name, part)
        parts = list(self.sizes) if part == "all" else [part]
        stored = [self._arrays(domain, each) for each in parts]
        joined = {key: torch.from_numpy(np.concatenate([a[key] for a in stored])) for key in stored[0]}
        targets = {"segmentation": joined["label"], "depth": joined["depth"], "normals": joined["normals"]}
        return (AugmentedSceneSplit if self.augment else SceneSplit)(joined["colour"], targets)

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


def _refuse_beside_root(given: dict[str, Any]) -> None:
    """The files say what is in them; whoever gives another number means something else."""
    parameters = inspect.signature(Scenes.__init__).parameters
    for name, value in given.items():
        if value != parameters[name].default:
            raise UsageError(
                f"found {value!r}; not allowed beside 'root', whose files are as they are", (name,)
            )


def _checked_domains(domains: list[str] | None) -> tuple[str, ...]:
    if domains is None:
        return tuple(DOMAINS)
    if not domains or len(set(domains)) < len(domains):
        raise UsageError(f"domains: one or more, each once, found {domains!r}", ("domains",))
    for domain in domains:
        if domain not in DOMAINS:
            raise UsageError(unknown_name("domain", domain, DOMAINS), ("domains",))
    return tuple(domains)
