"""SegNet: an encoder and decoder of plain convolutions, with unpooling by the encoder's pooling indices."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UsageError
from ..core.registry import register
from .base import MultiTaskModel, Tasks, image_channels
from .classifiers import Widths


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution with a bias, BatchNorm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def xavier(module: nn.Module) -> None:
    """Give a convolution Xavier-normal weights and zero biases; for ``Module.apply``."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Stage(nn.Module):
    """The convolutions of one stage: the first changes the number of channels, ``n_more`` follow."""

    def __init__(self, inputs: int, outputs: int, n_more: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs)
        self.rest = nn.Sequential(*(convolution(outputs, outputs) for _ in range(n_more)))

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.rest(self.first(inputs)))


class Features(NamedTuple):
    """What the stages of a trunk compute, each list from the finest stage to the coarsest.

    Stage i halves (B, ., H, W) i times, rounded down.
    """

    first: list[Tensor]
    """(B, widths[i], ...) after the first convolution of encoder stage i."""
    last: list[Tensor]
    """(B, widths[i], ...) after its last convolution."""
    unpooled: list[Tensor]
    """(B, widths[i], ...) at the beginning of decoder stage i."""
    decoded: list[Tensor]
    """(B, widths[i - 1], ...) at its end; for stage 0, widths[0]."""


class SegNetTrunk(nn.Module):
    """Encoder and decoder; maps (B, C, H, W) to (B, widths[0], H, W).

    Raises:
        UsageError: the images are too small to be halved once a stage.
    """

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        # As in VGG-16, two convolutions in the two finest stages and three in the coarser ones.
        self.encoder = nn.ModuleList(
            Stage(before, after, 1 if i < 2 else 2)
            for i, (before, after) in enumerate(pairwise([channels, *widths]))
        )
        self.decoder = nn.ModuleList(
            Stage(after, before, 1 if i < 2 else 2)
            for i, (before, after) in enumerate(pairwise([widths[0], *widths]))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.features(inputs).decoded[0]

    def features(self, inputs: Tensor) -> Features:
        """What all stages compute for (B, C, H, W)."""
        self.check_size(inputs.shape[-2:])
        found, indices, features = Features([], [], [], []), [], inputs
        for stage in cast("list[Stage]", self.encoder):
            found.first.append(stage.first(features))
            found.last.append(stage.rest(found.first[-1]))
            features, where = F.max_pool2d(found.last[-1], 2, return_indices=True)
            indices.append(where)
        for i in reversed(range(len(indices))):
            # The size is said, because pooling drops the last row or column of an odd one.
            size = found.last[i].shape[-2:]
            found.unpooled.insert(0, F.max_unpool2d(features, indices[i], [2, 2], output_size=size))
            features = self.decoder[i](found.unpooled[0])
            found.decoded.insert(0, features)
        return found

    def check_size(self, size: tuple[int, ...]) -> None:
        """Refuse images of (H, W) pixels that cannot be halved once a stage."""
        least = 2 ** len(self.encoder)
        if min(size) < least:
            raise UsageError(
                f"images of {' x '.join(map(str, size))} pixels; {len(self.encoder)} widths halve them as "
                f"often, so at least {least} x {least} are needed, or fewer widths",
                ("widths",),
            )


@register("model", "segnet")
class SegNet(MultiTaskModel):
    """SegNet, one trunk for all tasks, split only in the heads (3x3 convolution, 1x1 convolution).

    Maps (B, C, H, W) to ``{task: (B, outputs, H, W)}``. Encoder stage i is two (i < 2) or three 3x3
    convolutions with BatchNorm and ReLU, then a 2x2 max-pool that keeps its indices; decoder stage i begins
    with unpooling by them and mirrors the encoder. Xavier-normal weights, zero biases. With the default
    widths, 25,055,185 parameters for the three tasks of NYUv2 (111,889 of them in the heads) and 25,017,672
    for the two of Cityscapes (74,376), as in the benchmarks of the MTAN lineage.

    Sources: SegNet (Badrinarayanan et al., 2017, section 3); with split heads, MTAN (Liu et al., 2019,
    section 4.1) and the code of Nash-MTL (Navon et al., 2022).

    Args:
        tasks: task -> number of output channels.
        input_shape: (C, H, W); default: RGB of any size. H and W need not be multiples of anything.
        widths: channels of the stages, finest first; each halves the size.

    Raises:
        UsageError: images with fewer than 2 ** len(widths) rows or columns.
    """

    trunk: SegNetTrunk

    def __init__(
        self,
        tasks: Tasks,
        input_shape: tuple[int, ...] | None = None,
        widths: Widths = [64, 128, 256, 512, 512],  # noqa: B006  (never changed; the schema shows it)
    ) -> None:
        finest = widths[0]
        heads = {
            task: nn.Sequential(nn.Conv2d(finest, finest, 3, padding=1), nn.Conv2d(finest, n, 1))
            for task, n in tasks.items()
        }
        super().__init__(
            SegNetTrunk(image_channels(input_shape), widths), cast("dict[str, nn.Module]", heads)
        )
        if input_shape is not None:
            self.trunk.check_size(input_shape[1:])
        self.apply(xavier)
