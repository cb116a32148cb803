"""Image classifiers on the backbones of timm."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import torch
from torch import nn

from ..core.errors import UsageError
from ..core.registry import register
from .backbones import Dropout, Featurizer, linear_heads
from .base import MultiTaskModel, Tasks, image_channels
from .weights import attempt, is_file, load_weights, no_such_weights, read_file


@register("model", "timm")
class Timm(MultiTaskModel):
    """Any backbone of timm and one linear head a task; needs ``pip install 'mtlsuite[timm]'``.

    Source: PyTorch Image Models (Wightman, 2019). DomainBed's own default since July 2024 is a ResNet-50 of
    timm with BatchNorm not frozen; the published numbers are older.

    Args:
        tasks: task -> number of outputs.
        backbone: name of the model in timm, without the tag of its weights.
        input_shape: (C, H, W), tried out once with an image of zeros; default: that of the backbone.
        weights: timm's tag, such as ``a1_in1k``, which is downloaded; the path of a file with the state dict
            of the backbone; or null for random ones.
        dropout: probability that a feature is dropped before the heads.
        freeze_bn: BatchNorm, if there is any, stays in evaluation mode, its affine parameters still train;
            default: where the model starts from weights, but not where it starts from random ones.
        normalize: the model normalizes images, which come in [0, 1], by ImageNet's mean and deviation.
        options: further ones of the backbone, such as ``{"img_size": 96}``.

    Raises:
        UsageError: timm is not installed; no such backbone or weights, or weights that do not fit; images
            that the backbone does not take.
    """

    def __init__(
        self,
        tasks: Tasks,
        backbone: str,
        input_shape: tuple[int, ...] | None = None,
        weights: str | None = None,
        dropout: Dropout = 0.0,
        freeze_bn: bool | None = None,
        normalize: bool = False,
        options: dict[str, Any] = {},  # noqa: B006  (never changed; the schema shows it)
    ) -> None:
        channels = image_channels(input_shape)
        network = _network(backbone, weights, {"in_chans": channels, **options})
        n_features = _n_features(network, input_shape or (3, *network.default_cfg["input_size"][1:]))
        frozen = weights is not None if freeze_bn is None else freeze_bn
        trunk = Featurizer(network, channels, dropout, frozen, normalize)
        super().__init__(trunk, linear_heads(n_features, tasks))


def _network(backbone: str, weights: str | None, options: dict[str, Any]) -> Any:
    """A model of timm without its classifier."""
    timm = _package()
    _check_backbone(timm, backbone)
    tags = [name.removeprefix(f"{backbone}.") for name in timm.list_pretrained(f"{backbone}.*")]
    if weights is not None and weights in tags:
        name = f"{backbone}.{weights}"
        return attempt(name, lambda: timm.create_model(name, pretrained=True, num_classes=0, **options))
    if weights is not None and not is_file(weights):
        raise no_such_weights(f"weights of {backbone}", weights, tags)
    try:
        network = timm.create_model(backbone, pretrained=False, num_classes=0, **options)
    except Exception as error:  # whatever a backbone makes of options that do not fit
        raise UsageError(
            f"timm: {backbone} cannot be made: {type(error).__name__}: {error}", ("options",)
        ) from error
    if weights is not None:
        classifier = network.default_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else classifier
        load_weights(network, read_file(weights), weights, tuple(f"{head}." for head in heads))
    return network


def _package() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise UsageError(
            "the model timm needs the package timm: pip install 'mtlsuite[timm]'", ("name",)
        ) from None


def _check_backbone(timm: Any, backbone: str) -> None:
    names = timm.list_models()
    if backbone not in names:
        near = ", ".join(map(repr, difflib.get_close_matches(backbone, names, n=5, cutoff=0.5)))
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(
            f"unknown backbone {backbone!r}{hint} (allowed: the {len(names)} models of timm)", ("backbone",)
        )


@torch.no_grad()
def _n_features(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Number of features that a network gives for images of that shape."""
    shape = tuple(input_shape)
    try:
        features = network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"timm: images of the shape {shape} do not fit; a vision transformer takes the option "
            f"img_size: {error}",
            ("options",),
        ) from error
    if features.ndim != 2:
        raise UsageError(
            f"timm: the backbone gives {tuple(features.shape)} for one image, not one vector", ("backbone",)
        )
    return int(features.shape[1])
