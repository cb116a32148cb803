"""Two processes with unequal shards of the batches take the steps of one process that has them all."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import (
    NESTINGS,
    OPTIMIZERS,
    TASKS,
    TYPICAL,
    Heads,
    Masked,
    One,
    domain_batches,
    mse,
    nested,
    seeded,
    task_batch,
)
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.core.ranks import ALONE, Ranks
from mtlsuite.core.sharded import ShardedObjective, sharded

STEPS = 3
WHOLE = (0, 1)  # the shards of one process


def part(batch, shards: tuple[int, ...]):
    """The samples of some shards: shard 0 has the first sample, shard 1 the others."""
    inputs, targets = batch
    chosen = [i for i in range(len(inputs)) if min(i, 1) in shards]
    take = partial(torch.index_select, dim=0, index=torch.tensor(chosen))
    return take(inputs), {t: take(y) for t, y in targets.items()} if isinstance(targets, dict) else take(
        targets
    )


def tasks(model: nn.Module, seed: int, shards: tuple[int, ...]) -> mtl.Objective:
    inputs, targets = part(task_batch(seed), shards)
    return mtl.TaskObjective(
        model,
        inputs,
        targets,
        dict.fromkeys(TASKS, mse),
        more=lambda draw: [part(task_batch(seed + 50 * draw), shards)],
    )


def masked_tasks(model: nn.Module, seed: int, shards: tuple[int, ...]) -> mtl.Objective:
    """Shard 0 has nothing to say of task a, nobody has of task b, and of task c many entries are missing."""
    inputs, targets = task_batch(seed)
    targets["a"][0], targets["b"][:], targets["c"][1::2, :2] = torch.nan, torch.nan, torch.nan
    return mtl.TaskObjective(model, *part((inputs, targets), shards), dict.fromkeys(TASKS, Masked()))


def domains(
    model: nn.Module, seed: int, shards: tuple[int, ...], graph: str = "separate", lacking: bool = False
) -> mtl.Objective:
    def minibatches(seed: int):
        return [part(batch, shards) for batch in domain_batches(seed)]

    found = minibatches(seed)
    if lacking:  # domain 3 is on rank 1 alone, domain 1 nowhere
        found[1] = None
        found[3] = None if 1 not in shards else part(domain_batches(seed)[3], (1,))
    return mtl.DomainObjective(
        model, found, mse, graph=graph, more=lambda draw: minibatches(seed + 50 * draw)
    )


def closures(model: nn.Module, seed: int, shards: tuple[int, ...]) -> mtl.Objective:
    """Losses from the user's own code are taken for means over shards of the same size."""
    inputs, targets = task_batch(seed, 8)
    half = {(0,): slice(0, 4), (1,): slice(4, 8), WHOLE: slice(0, 8)}[shards]

    def losses() -> list[Tensor]:
        prediction = model(inputs[half])
        return [mse(prediction[t], y[half]) for t, y in targets.items()]

    return mtl.Objective(losses, model.parameters(), names=list(targets))


Make = Callable[[nn.Module, int, tuple[int, ...]], mtl.Objective]
KINDS: dict[str, tuple[type[nn.Module], Make]] = {
    "domains": (One, domains),
    "joint domains": (One, partial(domains, graph="joint")),
    "lacking domains": (One, partial(domains, lacking=True)),
    "lacking joint domains": (One, partial(domains, lacking=True, graph="joint")),
    "auto domains": (One, partial(domains, graph="auto")),
    "lacking auto domains": (One, partial(domains, lacking=True, graph="auto")),
    "tasks": (Heads, tasks),
    "masked tasks": (Heads, masked_tasks),
    "closures": (Heads, closures),
}
torchjd = [nested({"name": "torchjd", "aggregator": n}) for n in ("UPGrad", "ConFIG", "MoDo", "PCGrad")]
torchjd += [nested({"name": "torchjd", "scalarizer": n}) for n in ("UW", "FAMO")]
sequential = {"base": "equal", "wrap": [{"name": "gradient_equilibrium", "apply": "sequential"}]}
SPECS = TYPICAL | dict(torchjd) | {"sequential": sequential, "low": {"base": "nash_mtl", "memory": "low"}}
CASES = {f"{name} on domains": (spec, "domains") for name, spec in NESTINGS.items() if name.count("(") < 2}
CASES |= {
    f"{name} on {kind}": (spec, kind)
    for name, spec in SPECS.items()
    for kind in KINDS
    if not ("MoDo" in name and (kind in ("masked tasks", "closures") or kind.startswith("lacking")))
}


def run(
    spec: dict, kind: str, shards: tuple[int, ...], ranks: Ranks, optimizer: str = "adam"
) -> list[Tensor]:
    """Losses and weights of every step, and the parameters in the end."""
    make, objective = KINDS[kind]
    model = seeded(make)
    solver, steps = mtl.build_solver(spec, seed=3), OPTIMIZERS[optimizer](model.parameters())
    told = []
    for step in range(STEPS):
        report = solver.step(sharded(objective(model, step, shards), ranks), steps)
        told += [report.losses] + ([] if report.weights is None else [report.weights])
    return [*told, *(p.detach() for p in model.parameters())]


def broken(ranks: Ranks, shards: tuple[int, ...], on_nonfinite: str) -> tuple[str, list[Tensor]]:
    """What a step says of a NaN that one rank alone has, and the parameters after it."""
    model = seeded(Heads)
    inputs, targets = task_batch(0)
    targets["c"][4] = torch.inf
    objective = mtl.TaskObjective(model, *part((inputs, targets), shards), dict.fromkeys(TASKS, mse))
    solver = mtl.build_solver({"base": "nash_mtl", "wrap": ["sam"], "on_nonfinite": on_nonfinite})
    try:
        report = solver.step(sharded(objective, ranks), OPTIMIZERS["sgd"](model.parameters()))
        said = ", ".join(report.metrics)
    except mtl.NonFiniteError as error:
        said = str(error)
    return said, [p.detach() for p in model.parameters()]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, object] = {}
    for name, (spec, kind) in CASES.items():
        try:
            found[name] = run(spec, kind, (rank,), Ranks())
        except Exception:
            found[name] = traceback.format_exc()
    for how in ("raise", "skip"):
        found[how] = broken(Ranks(), (rank,), how)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(two: list[dict], name: str) -> None:
    expected = run(*CASES[name], WHOLE, ALONE)
    first, second = (found[name] for found in two)
    assert not isinstance(first, str), first
    for ours, theirs, alone in zip(first, second, expected, strict=True):
        assert torch.equal(ours, theirs)  # bit for bit, or the ranks would drift apart
        torch.testing.assert_close(ours, alone, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("how", ["raise", "skip"])
def test_all_ranks_hear_of_what_one_has(two: list[dict], how: str) -> None:
    said, parameters = broken(ALONE, WHOLE, how)
    start = list(seeded(Heads).parameters())
    for found in two:
        assert found[how][0] == said
        assert all(map(torch.equal, found[how][1], parameters))
        assert all(map(torch.equal, parameters, start))


def test_one_process_needs_nothing() -> None:
    objective = tasks(seeded(Heads), 0, WHOLE)
    assert sharded(objective) is objective


def test_the_number_of_sources_must_be_known() -> None:
    model = seeded(One)
    objective = mtl.Objective(lambda: [model(torch.ones(2, 1, 4, 4).double()).sum()], model.parameters())
    ranks = copy.copy(ALONE)
    ranks.size = 2  # type: ignore[misc]
    with pytest.raises(mtl.UsageError, match="names"):
        sharded(objective, ranks)


@pytest.mark.parametrize("found", [2, 4])
def test_the_number_of_losses_is_checked(found: int) -> None:
    theta = torch.zeros(2, requires_grad=True)
    objective = mtl.Objective(lambda: [theta.sum()] * found, [theta], names=["a", "b", "c"])
    with pytest.raises(mtl.UsageError, match=f"gave {found} losses, it has 3 sources"):
        mtl.Oracle(ShardedObjective(objective, ALONE)).losses()
