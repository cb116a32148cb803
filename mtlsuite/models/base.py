"""What every model of the suite offers: a shared trunk and one head a task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.types import Count

Tasks = Annotated[dict[str, Count], Field(min_length=1)]


class MultiTaskModel(nn.Module):
    """A trunk shared by the tasks and one head for each; maps (B, C, H, W) to ``{task: prediction}``.

    Predictions are as the head's last layer gives them: logits, depths, normals of any length. The
    log-softmax and the normalization to unit length belong to the tasks' losses and metrics.

    Args:
        trunk: maps the input to features.
        heads: task -> module from the features to the prediction.
    """

    name: str = ""

    def __init__(self, trunk: nn.Module, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.trunk(inputs)
        return {task: head(features) for task, head in self.heads.items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        """All parameters that are in no head."""
        in_heads = {id(parameter) for parameter in self.heads.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in in_heads]

    def specific_parameters(self) -> list[list[nn.Parameter]]:
        """The parameters of each task's head, in the order of the tasks."""
        return [list(head.parameters()) for head in self.heads.values()]


def image_channels(input_shape: tuple[int, ...] | None) -> int:
    """C of (C, H, W); three where the shape of the images is left open.

    Raises:
        UsageError: the inputs are no images.
    """
    if input_shape is None:
        return 3
    if len(input_shape) != 3:
        raise UsageError(
            f"inputs of the shape {input_shape}; this model reads images (channels, height, width)"
        )
    return input_shape[0]
