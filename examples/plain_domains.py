"""Three domains to learn from, one to be tested on: a shortcut holds in the former and not in the latter."""

import torch
from torch import Tensor, nn

import mtlsuite as mtl

SHORTCUTS, HELD_OUT = (0.95, 0.8, 0.65), 0.1  # how often the second input agrees with the label
SPECS = ("equal", {"base": "nash_mtl"}, {"base": "equal", "wrap": [{"name": "sage", "rho": 0.05}]})


def draw(agreement: float, n: int) -> tuple[Tensor, Tensor]:
    """Inputs (n, 2): a noisy view of the label, and the shortcut; labels (n,)."""
    labels = torch.randint(2, (n,))
    agrees = torch.rand(n) < agreement
    signs = torch.stack([2 * labels - 1, (2 * labels - 1) * (2 * agrees - 1)], dim=1)
    return signs + 0.8 * torch.randn(n, 2), labels


for spec in SPECS:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    solver = mtl.build_solver(spec, n_sources=len(SHORTCUTS))
    for _ in range(120):
        minibatches = [draw(agreement, 64) for agreement in SHORTCUTS]
        objective = mtl.DomainObjective(model, minibatches, nn.functional.cross_entropy)
        report = solver.step(objective, optimizer)
    x, y = draw(HELD_OUT, 5000)
    accuracy = (model(x).argmax(dim=1) == y).float().mean()
    losses = [round(loss, 2) for loss in report.losses.tolist()]
    print(spec, f"training losses {losses}, held-out accuracy {accuracy:.1%}")
