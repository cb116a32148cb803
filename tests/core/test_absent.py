"""Sources without a target in a batch: a loss of zero, and the others go as if they did not exist."""

from __future__ import annotations

import copy

import pytest
import torch
from problems import (
    TASKS,
    WRAPPERS,
    Heads,
    Masked,
    One,
    Passes,
    domain_batches,
    mse,
    nested,
    seeded,
    task_batch,
)
from reference import flat
from torch import Tensor, nn

import mtlsuite as mtl

SOLVERS = dict(
    [nested(base) for base in ("nash_mtl", "famo")]
    + [nested({"name": "torchjd", "aggregator": name}) for name in ("MGDA", "UPGrad", "ConFIG")]
    + [nested({"name": "torchjd", "scalarizer": name}) for name in ("GeometricMean",)]
    + [nested(base, name) for base in ("nash_mtl", "famo") for name in WRAPPERS]
)


def task_objective(
    model: nn.Module, seed: int = 0, absent: tuple[str, ...] = (), how=None
) -> mtl.TaskObjective:
    inputs, targets = task_batch(seed)
    for task in absent:
        targets[task] = None if how is None else torch.full_like(targets[task], how)
    return mtl.TaskObjective(model, inputs, targets, {task: Masked() for task in model.heads})


def domain_objective(
    model: nn.Module, present: tuple[int, ...], seed: int = 0, **kwargs
) -> mtl.DomainObjective:
    batches = [batch if d in present else None for d, batch in enumerate(domain_batches(seed, (4, 6, 5)))]
    return mtl.DomainObjective(model, batches, mse, **kwargs)


def gradient(model: nn.Module) -> Tensor:
    return flat([p.grad for p in model.parameters()]).clone()


def step(spec: dict, objective: mtl.Objective, model: nn.Module) -> mtl.StepReport:
    return mtl.build_solver(spec, seed=1).step(objective, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_others_go_as_if_it_did_not_exist(name: str) -> None:
    """Domain 1 of three is missing: the step is that of domains 0 and 2 alone."""
    model = seeded(One)
    alone = copy.deepcopy(model)
    batches = domain_batches(0, (4, 6, 5))
    report = step(SOLVERS[name], domain_objective(model, (0, 2)), model)
    wanted = step(SOLVERS[name], mtl.DomainObjective(alone, [batches[0], batches[2]], mse), alone)
    assert torch.equal(gradient(model), gradient(alone))
    assert torch.equal(flat(list(model.parameters())), flat(list(alone.parameters())))
    assert report.losses.tolist() == [wanted.losses[0], 0.0, wanted.losses[1]]
    assert report.absent == ("1",)
    if wanted.weights is not None:
        assert report.weights.tolist() == [wanted.weights[0], 0.0, wanted.weights[1]]


@pytest.mark.parametrize("how", [None, float("nan")])
def test_equal_weights_count_it_as_a_loss_of_zero(how) -> None:
    model = seeded(Heads)
    report = step({"base": "equal"}, task_objective(model, absent=("b",), how=how), model)
    inputs, targets = task_batch(0)
    found = gradient(model)
    model = seeded(Heads)
    prediction = model(inputs)
    (sum(mse(prediction[task], targets[task]) for task in "ac") / 3).backward()
    wanted = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    torch.testing.assert_close(found, flat(wanted), rtol=0, atol=1e-15)
    assert (report.losses[1], report.weights.tolist()) == (0, [1 / 3, 0, 1 / 3])


@pytest.mark.parametrize(
    "spec",
    [
        {"base": {"name": "equal", "weights": [1.0, 5.0, 2.0]}},
        {"base": {"name": "equal", "reduction": "sum"}},
    ],
)
def test_given_weights_keep_their_sources(spec: dict) -> None:
    model = seeded(One)
    report = step(spec, domain_objective(model, (0, 2)), model)
    first, last = spec["base"].get("weights", [1.0, 1.0, 1.0])[::2]
    assert report.weights.tolist() == [first, 0.0, last]


def test_nothing_at_all_is_no_step() -> None:
    model = seeded(Heads)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters())
    report = mtl.NashMTL().step(task_objective(model, absent=tuple(TASKS)), optimizer)
    assert report.losses.tolist() == [0.0, 0.0, 0.0]
    assert report.absent == tuple(TASKS)
    assert report.metrics == {"nash_mtl/skipped": 1.0}
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not optimizer.state


@pytest.mark.parametrize("name", SOLVERS)
def test_sources_come_and_go_in_a_run_that_resumes(name: str) -> None:
    spec = SOLVERS[name]
    seen = [(), ("b",), ("a", "c"), (), ("c",)]

    def make(seed: int):
        model = seeded(Heads)
        return (
            model,
            mtl.build_solver(spec, n_sources=3, seed=seed),
            torch.optim.Adam(model.parameters(), lr=0.01),
        )

    model, solver, optimizer = run = make(1)
    again = make(2)
    for number, absent in enumerate(seen):
        if number == 3:
            for part, other in zip(run, again, strict=True):
                other.load_state_dict(copy.deepcopy(part.state_dict()))
            again[1].step(task_objective(again[0], 3, seen[3]), again[2])
            again[1].step(task_objective(again[0], 4, seen[4]), again[2])
        report = solver.step(task_objective(model, number, absent), optimizer)
        assert report.losses.isfinite().all()
        assert report.absent == absent
    assert flat(list(model.parameters())).isfinite().all()
    assert torch.equal(flat(list(model.parameters())), flat(list(again[0].parameters())))


def test_nash_solves_again_for_a_source_that_was_never_weighed() -> None:
    """Between two updates of the weights, a source appears for the first time."""
    model = seeded(Heads)
    solver = mtl.NashMTL(update_weights_every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    solver.step(task_objective(model, absent=("b",)), optimizer)
    report = solver.step(task_objective(model), optimizer)
    wanted = mtl.NashMTL().step(task_objective(model), optimizer).weights
    assert torch.equal(report.weights, wanted)
    solver.step(task_objective(model), optimizer)
    solver.step(task_objective(model, absent=("b",)), optimizer)
    solver.step(task_objective(model, 1, absent=("b",)), optimizer)
    assert solver.alpha[1] == wanted[1]  # kept while it is away


def test_famo_leaves_the_logit_of_an_absent_source_alone() -> None:
    model = seeded(Heads)
    solver, optimizer = mtl.FAMO(), torch.optim.SGD(model.parameters(), lr=0.05)
    for number in range(3):
        solver.step(task_objective(model, number), optimizer)
    before = solver.logits.detach().clone()
    solver.step(task_objective(model, 3, absent=("b",)), optimizer)
    moved = (solver.logits.detach() != before).tolist()
    assert moved == [True, False, True]


@pytest.mark.parametrize("name", ["UW", "IMTLL", "GradVac", "UPGrad"])
def test_the_first_batch_may_lack_a_source(name: str) -> None:
    kind = "scalarizer" if name in ("UW", "IMTLL") else "aggregator"
    model = seeded(One)
    solver = mtl.build_solver({"base": {"name": "torchjd", kind: name}}, n_sources=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for present in ((0, 2), (0, 1, 2), (1,), (0, 1, 2)):
        report = solver.step(domain_objective(model, present), optimizer)
        assert report.weights.isfinite().all()


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_further_minibatches_of_all_sources_may_lack_one(graph: str) -> None:
    model = seeded(One)
    batches = domain_batches(0, (4, 6, 5))
    further = [batches[0], None, batches[2]]
    objective = mtl.DomainObjective(model, batches, mse, graph=graph, more=lambda _: further)
    solver = mtl.build_solver({"base": {"name": "torchjd", "aggregator": "MoDo"}})
    report = solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    assert report.weights.isfinite().all()


def test_alignment_is_measured_among_those_present() -> None:
    """A zero row would have cosine 0 with the others."""
    model = seeded(One)
    wanted = (
        mtl.Oracle(mtl.DomainObjective(model, domain_batches(0, (4, 6, 5))[:2], mse)).jacobian().mean_cosine()
    )
    report = step({"base": "equal", "wrap": ["gga_l"]}, domain_objective(model, (0, 1)), model)
    assert report.metrics["gga_l/cosine"] == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_a_missing_minibatch_is_not_forwarded(passes: Passes, graph: str) -> None:
    model = passes.watch(seeded(lambda: One(nn.BatchNorm2d(3))))
    step({"base": "equal"}, domain_objective(model, (0, 2), graph=graph), model)
    assert sorted(passes.sizes) == ([9] if graph == "joint" else [4, 5])


def test_domains_times_tasks() -> None:
    model = seeded(Heads)
    inputs, targets = task_batch(0)
    without = {**targets, "b": None}
    batches = [(inputs, targets), (inputs + 1, without), None]
    objective = mtl.ProductObjective(model, batches, dict.fromkeys(TASKS, mse), names=["x", "y", "z"])
    report = step({"base": "nash_mtl"}, objective, model)
    assert report.absent == ("y/b", "z/a", "z/b", "z/c")
    assert (report.losses != 0).tolist() == [True, True, True, True, False, True, False, False, False]


def test_closures_say_what_is_absent() -> None:
    model = seeded(Heads)
    inputs, targets = task_batch(0)
    losses = lambda: [mse(model(inputs)[task], targets[task]) for task in TASKS]  # noqa: E731
    objective = mtl.Objective(losses, model.parameters(), names=list(TASKS), absent=[2])
    assert step({"base": "famo"}, objective, model).absent == ("c",)
    with pytest.raises(mtl.UsageError, match=r"absent: found \[7\]"):
        mtl.Objective(losses, model.parameters(), names=list(TASKS), absent=[7])


def test_further_minibatches_may_lack_it() -> None:
    model = seeded(One)
    batches = domain_batches(0, (4, 6, 5))
    objective = mtl.DomainObjective(model, batches, mse, more=lambda _: [batches[0], None, batches[2]])
    solver = mtl.Fish(mtl.Equal(), inner_lr=0.01, inner_steps=2, minibatches="fresh")
    assert solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1)).losses.isfinite().all()


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_each_task_with_images_of_its_own(graph: str) -> None:
    model = seeded(Heads)
    batches = {task: (task_batch(n)[0], task_batch(n)[1][task]) for n, task in enumerate(TASKS)}
    objective = mtl.MultiInputObjective(model, batches, dict.fromkeys(TASKS, mse), graph=graph)
    losses = [mse(model(x)[task], y) for task, (x, y) in batches.items()]
    rows = torch.stack(
        [
            flat(
                [
                    torch.zeros_like(p) if g is None else g
                    for p, g in zip(objective.space.parameters, gs, strict=True)
                ]
            )
            for gs in (
                torch.autograd.grad(loss, objective.space.parameters, allow_unused=True) for loss in losses
            )
        ]
    )
    oracle = mtl.Oracle(objective)
    torch.testing.assert_close(oracle.losses(), torch.stack(losses).detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(oracle.jacobian().rows, rows, rtol=1e-10, atol=1e-12)
    batches["b"] = None
    report = step(
        {"base": "nash_mtl", "wrap": ["sam"]},
        mtl.MultiInputObjective(model, batches, dict.fromkeys(TASKS, mse)),
        model,
    )
    assert report.absent == ("b",)
    with pytest.raises(mtl.UsageError, match="no batch"):
        mtl.MultiInputObjective(model, {"a": batches["a"]}, dict.fromkeys(TASKS, mse))
