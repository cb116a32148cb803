"""Two tasks, one of them a hundred times as loud: the sum of losses against Nash-MTL inside SAGE."""

import torch
from torch import nn

import mtlsuite as mtl

CRITERIA = {"quiet": nn.functional.mse_loss, "loud": nn.functional.mse_loss}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(64, 1) for task in CRITERIA})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}


def train(spec: object, steps: int = 200) -> dict[str, float]:
    """Share of each task's variance that is left unexplained."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    solver = mtl.build_solver(spec, n_sources=2)
    for _ in range(steps):
        x = 3 * torch.rand(128, 2)
        targets = {"quiet": torch.sin(2 * x[:, :1]), "loud": 100 * torch.cos(2 * x[:, 1:])}
        report = solver.step(mtl.TaskObjective(model, x, targets, CRITERIA), optimizer)
    return {
        task: float(loss / targets[task].var()) for task, loss in zip(CRITERIA, report.losses, strict=True)
    }


for spec in ("equal", {"base": "nash_mtl", "wrap": [{"name": "sage", "rho": 0.001}]}):
    print(spec, {task: f"{share:.1%}" for task, share in train(spec).items()})
