"""What every model of the suite offers: a shared trunk and one head a task."""

from __future__ import annotations

from torch import Tensor, nn


class MultiTaskModel(nn.Module):
    """A trunk shared by the tasks and one head for each; maps (B, C, H, W) to ``{task: prediction}``.

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
        """The parameters that every task reaches."""
        return list(self.trunk.parameters())

    def specific_parameters(self) -> list[list[nn.Parameter]]:
        """The parameters of each task alone, in the order of the tasks."""
        return [list(head.parameters()) for head in self.heads.values()]
