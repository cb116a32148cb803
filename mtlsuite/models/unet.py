"""A small encoder-decoder for dense tasks."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.registry import register
from .base import MultiTaskModel
from .classifiers import Norm, Widths, conv_block


class _Trunk(nn.Module):
    def __init__(self, channels: int, widths: list[int], norm: Norm) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Sequential(
                conv_block(before, after, norm, stride=1 if i == 0 else 2), conv_block(after, after, norm)
            )
            for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        upward = widths[::-1]
        self.decoder = nn.ModuleList(conv_block(low + high, high, norm) for low, high in pairwise(upward))

    def forward(self, inputs: Tensor) -> Tensor:
        levels = [inputs]
        for stage in self.encoder:
            levels.append(stage(levels[-1]))
        features = levels.pop()
        for stage in self.decoder:
            skip = levels.pop()
            up = F.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            features = cast(Tensor, stage(torch.cat([up, skip], dim=1)))
        return features


@register("model", "unet")
class UNet(MultiTaskModel):
    """Small U-Net for dense tasks: a shared encoder and decoder with skip connections, one head (3x3 conv,
    ReLU, 1x1 conv) a task; predictions are (B, outputs, H, W).

    Args:
        tasks: task -> number of output channels.
        input_shape: (C, H, W).
        widths: channels from the finest level to the coarsest; each level halves the size.
        norm: normalization after each convolution of the trunk.
    """

    def __init__(
        self,
        tasks: dict[str, int],
        input_shape: tuple[int, ...],
        widths: Widths = [16, 32, 64],  # noqa: B006  (never changed; the schema shows it)
        norm: Norm = "group",
    ) -> None:
        finest = widths[0]
        heads = {
            task: nn.Sequential(conv_block(finest, finest, "none"), nn.Conv2d(finest, n, 1))
            for task, n in tasks.items()
        }
        super().__init__(_Trunk(input_shape[0], widths, norm), cast("dict[str, nn.Module]", heads))
