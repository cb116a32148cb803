"""Models of segmentation-models-pytorch: one encoder for all tasks, one decoder and head a task."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import UsageError, unknown_name
from ..core.registry import register
from .base import MultiTaskModel, Tasks, image_channels

Architecture = Literal[
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan",
    "upernet", "segformer", "dpt",
]  # fmt: skip
_OURS = {
    "self",
    "kwargs",
    "encoder_name",
    "encoder_weights",
    "in_channels",
    "classes",
    "activation",
    "aux_params",
}
_TIMM = "tu-"  # how segmentation-models-pytorch marks the encoders that it takes from timm


@register("model", "smp")
class SMP(MultiTaskModel):
    """Any encoder of segmentation-models-pytorch, run once for all tasks, and a decoder and head a task.

    Maps (B, C, H, W) to ``{task: (B, outputs, H, W)}``. Needs ``pip install 'mtlsuite[smp]'``. Where an
    architecture looks at the first stages of its encoder only (``pspnet`` at three of five), the parameters
    of the others are shared ones without a gradient. In training mode the architectures that pool over the
    whole image need batches of two or more (BatchNorm).

    Source: segmentation-models-pytorch (Iakubovskii, 2019); for the split, hard parameter sharing (Caruana,
    1997).

    Args:
        tasks: task -> number of output channels.
        input_shape: (C, H, W), tried out once with an image of zeros; default: RGB of any size that the
            encoder takes.
        architecture: family of the decoders.
        encoder_name: a name of segmentation-models-pytorch, or ``tu-`` before a name of timm (``dpt``: a
            vision transformer of timm).
        encoder_weights: name of pretrained weights of that encoder (they are downloaded), or None for
            random ones. The model does not normalise its input.
        options: of the architecture, by the names of segmentation-models-pytorch: ``encoder_depth``,
            ``decoder_channels``, ...
        encoder_options: of an encoder of timm, such as ``{"img_size": [288, 384]}``.

    Raises:
        UsageError: the package is not installed; unknown encoder, weights or option; weights that cannot be
            downloaded; a combination that segmentation-models-pytorch refuses; images of a size that the
            encoder does not take.
    """

    def __init__(
        self,
        tasks: Tasks,
        input_shape: tuple[int, ...] | None = None,
        architecture: Architecture = "unet",
        encoder_name: str = "resnet34",
        encoder_weights: str | None = None,
        options: dict[str, Any] = {},  # noqa: B006  (never changed; the schema shows it)
        encoder_options: dict[str, Any] = {},  # noqa: B006
    ) -> None:
        package = _package()
        family = package.MODEL_ARCHITECTURES_MAPPING[architecture]
        _check_encoder(package, encoder_name, encoder_weights)
        _check_options(architecture, family, options)
        _check_encoder_options(encoder_name, family, encoder_options)
        pretrained = _pretrained(encoder_name, encoder_weights)
        common = {"in_channels": image_channels(input_shape), **options, **encoder_options}
        made = [
            # All but the first are made for their decoder and head, so they need no weights.
            _made(
                family, pretrained if i == 0 else {**pretrained, "encoder_weights": None}, classes=n, **common
            )
            for i, n in enumerate(tasks.values())
        ]
        super().__init__(
            made[0].encoder, {task: _Head(model) for task, model in zip(tasks, made, strict=True)}
        )
        self.stride: int = made[0].encoder.output_stride if family.requires_divisible_input_shape else 1
        if input_shape is not None:
            self._try(input_shape)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        size = inputs.shape[-2:]
        if any(side % self.stride for side in size):
            near = [max(1, round(side / self.stride)) * self.stride for side in size]
            raise UsageError(
                f"smp: images of {_by(size)} pixels; this encoder takes multiples of {self.stride}, "
                f"such as {_by(near)}"
            )
        predictions = super().forward(inputs)
        for prediction in predictions.values():
            if prediction.shape[-2:] != size:
                raise UsageError(
                    f"smp: images of {_by(size)} pixels give predictions of {_by(prediction.shape[-2:])}; "
                    "the options encoder_depth and upsampling of the architecture, or the images, must fit",
                    ("options",),
                )
        return predictions

    def _try(self, input_shape: tuple[int, ...]) -> None:
        """Refuse at once what the encoder or the decoders cannot read."""
        self.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, *input_shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"smp: images of {_by(input_shape[1:])} pixels do not fit: {error}") from error
        finally:
            self.train()


class _Head(nn.Module):
    """Decoder and last layers of one task, taken from a model of segmentation-models-pytorch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.last = model.segmentation_head

    def forward(self, features: Any) -> Tensor:
        # A vision transformer gives its prefix tokens beside the features.
        parts = features if isinstance(features, tuple) else (features,)
        prediction: Tensor = self.last(self.decoder(*parts))
        return prediction


def _package() -> Any:
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError:
        raise UsageError(
            "the model smp needs the package segmentation-models-pytorch: pip install 'mtlsuite[smp]'",
            ("name",),
        ) from None


def _check_encoder(package: Any, name: str, weights: str | None) -> None:
    timm = importlib.import_module("timm")
    known = package.encoders.encoders
    from_timm = name.startswith(_TIMM)
    names = [_TIMM + model for model in timm.list_models()] if from_timm else list(known)
    if name not in names:
        near = ", ".join(map(repr, difflib.get_close_matches(name, names, n=5, cutoff=0.5)))
        raise UsageError(
            f"unknown encoder {name!r}{f'; did you mean {near}?' if near else ''} (allowed: the {len(known)} "
            f"encoders of segmentation-models-pytorch, or {_TIMM}NAME for a model NAME of timm)",
            ("encoder_name",),
        )
    if weights is not None:
        pretrained = f"{name.removeprefix(_TIMM)}."
        tags = (
            [full.removeprefix(pretrained) for full in timm.list_pretrained(f"{pretrained}*")]
            if from_timm
            else known[name]["pretrained_settings"]
        )
        if weights not in tags:
            raise UsageError(unknown_name(f"weights of {name}", weights, tags), ("encoder_weights",))


def _check_options(architecture: str, family: type, options: Mapping[str, Any]) -> None:
    allowed = set(inspect.signature(family.__init__).parameters) - _OURS  # type: ignore[misc]
    for name in options:
        if name not in allowed:
            raise UsageError(unknown_name(f"option of {architecture}", name, allowed), ("options", name))


def _check_encoder_options(encoder: str, family: type, options: Mapping[str, Any]) -> None:
    if options and not encoder.startswith(_TIMM):
        raise UsageError(
            f"encoders of timm ({_TIMM}...) have options, {encoder!r} has none", ("encoder_options",)
        )
    for name in options:
        if name in inspect.signature(family.__init__).parameters:  # type: ignore[misc]
            raise UsageError(f"{name!r} is no option of the encoder", ("encoder_options", name))


def _pretrained(name: str, weights: str | None) -> dict[str, Any]:
    """Encoder and weights as segmentation-models-pytorch wants them: those of timm are part of the name."""
    if weights is not None and name.startswith(_TIMM):
        return {"encoder_name": f"{name}.{weights}", "encoder_weights": True}
    return {"encoder_name": name, "encoder_weights": weights}


def _made(family: type, encoder: Mapping[str, Any], **options: Any) -> Any:
    try:
        return family(**encoder, **options)
    except OSError as error:
        raise UsageError(
            f"cannot load the weights of {encoder['encoder_name']}: {error}", ("encoder_weights",)
        ) from error
    except Exception as error:  # whatever an encoder or a decoder makes of options that do not fit
        raise UsageError(
            f"smp: {family.__name__} on {encoder['encoder_name']} cannot be made: "
            f"{type(error).__name__}: {error}"
        ) from error


def _by(size: Any) -> str:
    return " x ".join(map(str, size))
