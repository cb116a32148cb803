"""SegNet-MTAN: SegNet with attention modules of each task in every stage."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.registry import register
from .base import Tasks
from .classifiers import Widths
from .segnet import Features, SegNet, convolution, xavier


def attention(inputs: int, outputs: int) -> nn.Sequential:
    """A mask in (0, 1): 1x1 convolution, BatchNorm, ReLU, 1x1 convolution, BatchNorm, sigmoid."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.Sigmoid(),
    )


class TaskAttention(nn.Module):
    """The masks of one task, finest stage first: one a stage of the encoder, one a stage of the decoder."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        # Beside the trunk's features, every stage but the first sees the task's own from the stage before.
        self.encoder = nn.ModuleList(
            attention(width * (1 if i == 0 else 2), width) for i, width in enumerate(widths)
        )
        self.decoder = nn.ModuleList(
            attention(width + above, above) for above, width in pairwise([widths[0], *widths])
        )


@register("model", "segnet_mtan")
class MTAN(SegNet):
    """SegNet-MTAN: the trunk of :class:`SegNet`, whose features each task selects by masks of its own.

    Maps (B, C, H, W) to ``{task: (B, outputs, H, W)}``. In encoder stage i a task looks at the trunk's
    features after the first convolution, joined for i > 0 with its own from the stage before; its mask
    multiplies the trunk's features after the last convolution, and the product passes a 3x3 convolution that
    the tasks share and a 2x2 max-pool. In decoder stage i the task's features are upsampled (bilinear,
    align_corners), pass a shared 3x3 convolution and are joined with the trunk's unpooled features; the mask
    made of both multiplies the trunk's decoded features. With the default widths, 44,229,073 parameters
    for the three tasks of NYUv2, 41,206,984 for the two of Cityscapes.

    As in the published runs, the attention modules count as shared: ``specific_parameters()`` are the
    heads alone, and the other tasks' gradients of a task's attention are zero.

    Source: MTAN (Liu et al., 2019, section 3 and figure 2); code of Nash-MTL (Navon et al., 2022).

    Args:
        tasks: task -> number of output channels.
        input_shape: (C, H, W); default: RGB of any size. H and W need not be multiples of anything.
        widths: channels of the stages, finest first; each halves the size.

    Raises:
        UsageError: images with fewer than 2 ** len(widths) rows or columns.
    """

    def __init__(
        self,
        tasks: Tasks,
        input_shape: tuple[int, ...] | None = None,
        widths: Widths = [64, 128, 256, 512, 512],  # noqa: B006  (never changed; the schema shows it)
    ) -> None:
        super().__init__(tasks, input_shape, widths)
        self.attention = nn.ModuleDict({task: TaskAttention(widths) for task in tasks})
        self.down = nn.ModuleList(convolution(*pair) for pair in pairwise([*widths, widths[-1]]))
        self.up = nn.ModuleList(convolution(width, above) for above, width in pairwise([widths[0], *widths]))
        for part in (self.attention, self.down, self.up):
            part.apply(xavier)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        trunk = self.trunk.features(inputs)
        return {
            task: head(self._attended(trunk, cast(TaskAttention, self.attention[task])))
            for task, head in self.heads.items()
        }

    def _attended(self, trunk: Features, masks: TaskAttention) -> Tensor:
        """(B, widths[0], H, W): what a task selects from the features of the trunk."""
        own: list[Tensor] = []
        for i, mask in enumerate(masks.encoder):
            selected = mask(torch.cat([trunk.first[i], *own], dim=1)) * trunk.last[i]
            own = [F.max_pool2d(self.down[i](selected), 2)]
        features = own[0]
        for i in reversed(range(len(self.up))):
            size = trunk.unpooled[i].shape[-2:]
            upsampled = F.interpolate(features, size=size, mode="bilinear", align_corners=True)
            mask = masks.decoder[i](torch.cat([trunk.unpooled[i], self.up[i](upsampled)], dim=1))
            features = mask * trunk.decoded[i]
        return features
