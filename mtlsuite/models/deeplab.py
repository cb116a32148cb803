"""DeepLab on a dilated ResNet-50: one backbone for all tasks, one head a task."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from ..core.errors import UsageError
from ..core.registry import register
from .base import MultiTaskModel, Tasks, image_channels
from .weights import load_weights, read_weights


@register("model", "deeplab_resnet50")
class DeepLabResNet50(MultiTaskModel):
    """A ResNet-50 whose last two stages are dilated (output stride 8), shared, and a DeepLab head a task.

    Maps (B, C, H, W) to ``{task: (B, outputs, H, W)}``. A head is torchvision's ``DeepLabHead``: atrous
    spatial pyramid pooling (2048 -> 256 channels, rates 12, 24, 36, and the mean over the image), 3x3
    convolution, BatchNorm, ReLU, 1x1 convolution; its output is upsampled to H x W, bilinear with
    align_corners. In training mode the mean over the image needs batches of two or more (BatchNorm).

    Sources: DeepLabv3 (Chen et al., 2017, section 3.3); as a multi-task model, the NYUv2 example of LibMTL
    (Lin and Zhang, 2023), where the backbone starts from the weights ``IMAGENET1K_V1``.

    Args:
        tasks: task -> number of output channels.
        input_shape: (C, H, W); default: RGB. Any H and W.
        encoder_weights: ``IMAGENET1K_V1`` or ``IMAGENET1K_V2`` (torchvision downloads them), the path of a
            file with the state dict of torchvision's ``resnet50``, or None for random ones. The model does
            not normalise its input.

    Raises:
        UsageError: no such weights, or weights that do not fit.
    """

    def __init__(
        self,
        tasks: Tasks,
        input_shape: tuple[int, ...] | None = None,
        encoder_weights: str | None = None,
    ) -> None:
        resnet = resnet50(replace_stride_with_dilation=[False, True, True])
        channels = image_channels(input_shape)
        if channels != 3:
            resnet.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
        trunk = nn.Sequential()
        for name, layer in resnet.named_children():
            if name not in ("avgpool", "fc"):
                trunk.add_module(name, layer)
        if encoder_weights is not None:
            _load(trunk, encoder_weights)
        super().__init__(trunk, {task: DeepLabHead(2048, n) for task, n in tasks.items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        size = inputs.shape[-2:]
        return {
            task: F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
            for task, coarse in super().forward(inputs).items()
        }


def _load(trunk: nn.Module, weights: str) -> None:
    """Set the trunk to the weights of that name or file, those of the classifier left out."""
    try:
        load_weights(trunk, read_weights(weights, ResNet50_Weights), weights, ("fc.",))
    except UsageError as error:
        raise UsageError(error.message, ("encoder_weights",)) from error
