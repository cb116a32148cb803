"""A solver of one's own, usable by name at once and inside every wrapper: it cares for the worst source."""

import torch

import mtlsuite as mtl


@mtl.register("solver", "worst_first")
class WorstFirst(mtl.Solver):
    """Weights the sources by a softmax of their losses; at temperature 0 only the largest would count."""

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        weights = torch.softmax(oracle.losses() / self.temperature, dim=0)
        return mtl.Direction(oracle.pullback(weights), weights)


WISHES = torch.tensor([[0.0, 0.0], [0.2, 0.1], [1.0, 1.0]])  # two sources agree, the third does not


def train(spec: object) -> tuple[list[float], list[float]]:
    """Where a point ends up that three sources pull to their wishes, and their squared distances."""
    point = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = torch.optim.SGD([point], lr=0.05)
    solver = mtl.build_solver(spec, n_sources=3)
    for _ in range(300):
        objective = mtl.Objective(lambda: (point - WISHES).square().sum(dim=1), shared=[point])
        report = solver.step(objective, optimizer)
    return [round(x, 2) for x in point.tolist()], [round(x, 2) for x in report.losses.tolist()]


for spec in ("equal", "worst_first", {"base": "worst_first", "wrap": ["sam"]}):
    print(spec, *train(spec))
