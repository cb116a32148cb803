"""bf16 autocast, gradient accumulation and a compiled model: all of them live in the losses."""

import sys

import torch
from torch import Tensor, nn

import mtlsuite as mtl


def train(chunks: int = 1, autocast: bool = False, compiled: bool = False, steps: int = 50) -> Tensor:
    """(steps, 2) losses of two tasks.

    Args:
        chunks: forwards that make up one step, a share of the batch each.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2))
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    solver = mtl.SAGE(mtl.NashMTL(n_sources=2), rho=0.01, gamma=0)
    found = []
    for _ in range(steps):
        x = torch.randn(64, 8)
        batch = list(zip(x.chunk(chunks), torch.sin(x[:, :2]).chunk(chunks), strict=True))

        def losses(batch=batch) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # here, never around solver.step
                parts = [(forward(x) - y).square().mean(dim=0) for x, y in batch]
            return torch.stack(parts).mean(dim=0)  # chunks of equal size

        found.append(solver.step(mtl.Objective(losses, model.parameters()), optimizer).losses)
    return torch.stack(found)


if __name__ == "__main__":
    plain, ways = train(), {"bf16": {"autocast": True}, "4 chunks": {"chunks": 4}}
    for name, way in (ways | ({"compiled": {"compiled": True}} if "--compile" in sys.argv else {})).items():
        print(f"{name}: last losses {train(**way)[-1].tolist()}, in one float32 go {plain[-1].tolist()}")
