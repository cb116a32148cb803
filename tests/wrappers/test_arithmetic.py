"""Arithmetic meta-learning and Fish against an unrolled inner SGD."""

from functools import partial

import pytest
import torch
from problems import TASKS, Heads, One, domain_batches, mse, seeded, task_batch
from torch import nn

import mtlsuite as mtl
from mtlsuite.wrappers.equilibrium import equilibrate

X = torch.randn(3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def loss(model: nn.Module, k: int) -> torch.Tensor:
    return (model(X[k]) - k).square().mean()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def objective(model: nn.Module, n_sources: int = 3) -> mtl.Objective:
    minibatches = [(X[k], float(k)) for k in range(n_sources)]
    return mtl.DomainObjective(model, minibatches, lambda prediction, k: (prediction - k).square().mean())


def unrolled(model: nn.Module, inner_lr: float, inner_steps: int, n_sources: int = 3) -> list[torch.Tensor]:
    """theta after each source of the walk, theta itself first."""
    optimizer = torch.optim.SGD(model.parameters(), inner_lr)
    points = [flat(model)]
    for k in range(n_sources):
        for _ in range(inner_steps):
            optimizer.zero_grad()
            loss(model, k).backward()
            optimizer.step()
        points.append(flat(model))
    return points


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_arithmetic_with_sgd_outside_is_the_average_of_the_inner_iterates(inner_steps):
    lr, model = 0.05, mlp()
    points = unrolled(mlp(), lr, inner_steps)
    solver = mtl.Arithmetic(mtl.Equal(), inner_lr=lr, inner_steps=inner_steps, order="fixed", total=2.0)
    solver.step(objective(model), torch.optim.SGD(model.parameters(), lr))
    torch.testing.assert_close(flat(model), torch.stack(points[1:]).mean(dim=0), rtol=0, atol=1e-14)


def test_weights_for_three_sources():
    weights = [mtl.Arithmetic(mtl.Equal()).outer_weight(i, 3) for i in (1, 2, 3)]
    assert weights == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert [mtl.Fish(mtl.Equal()).outer_weight(i, 4) for i in range(1, 5)] == [0.25] * 4


@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_fish_steps_towards_the_end_of_the_walk(n_sources):
    inner_lr, lr, model = 0.1, 0.03, mlp()
    points = unrolled(mlp(), inner_lr, 1, n_sources)
    solver = mtl.Fish(mtl.Equal(), inner_lr=inner_lr, order="fixed")
    solver.step(objective(model, n_sources), torch.optim.SGD(model.parameters(), lr))
    expected = points[0] + lr / (n_sources * inner_lr) * (points[-1] - points[0])
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_ten_steps_against_plain_loops(optimizer):
    model, twin = mlp(), mlp()
    ours, theirs = optimizer(model.parameters(), 0.01), optimizer(twin.parameters(), 0.01)
    solver = mtl.Arithmetic(mtl.Equal(), inner_lr=0.02, seed=5)
    draws = torch.Generator().manual_seed(5)
    for _ in range(10):
        solver.step(objective(model), ours)
        start = [p.detach().clone() for p in twin.parameters()]
        total = [torch.zeros_like(p) for p in start]
        for a, k in zip((1 / 2, 1 / 3, 1 / 6), torch.randperm(3, generator=draws).tolist(), strict=True):
            gradients = torch.autograd.grad(loss(twin, k), list(twin.parameters()))
            with torch.no_grad():
                for p, g, t in zip(twin.parameters(), gradients, total, strict=True):
                    t += a * g
                    p -= 0.02 * g
        with torch.no_grad():
            for p, value, t in zip(twin.parameters(), start, total, strict=True):
                p.copy_(value)
                p.grad = t
        theirs.step()
    torch.testing.assert_close(flat(model), flat(twin), rtol=0, atol=1e-12)


def test_a_small_walk_with_fish_is_erm():
    model, twin = mlp(), mlp()
    mtl.Fish(mtl.Equal(), inner_lr=1e-9).step(objective(model), torch.optim.SGD(model.parameters(), 0.1))
    mtl.Equal().step(objective(twin), torch.optim.SGD(twin.parameters(), 0.1))
    torch.testing.assert_close(flat(model), flat(twin), rtol=0, atol=1e-8)


def test_rows_keep_their_source():
    """Nash inside sees row k as source k, whatever the order of the walk."""
    reports = []
    for seed in range(6):
        model = mlp()
        solver = mtl.Fish(mtl.NashMTL(3), inner_lr=1e-9, seed=seed)
        reports.append(solver.step(objective(model), torch.optim.SGD(model.parameters(), 0.1)).weights)
    for weights in reports[1:]:
        torch.testing.assert_close(weights, reports[0], rtol=1e-5, atol=0)


def test_cost(monkeypatch):
    forwards, backwards, original = [], [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backwards.append(1) or original(*a, **k))
    model = mlp()
    model.register_forward_hook(lambda *_: forwards.append(1))
    mtl.Arithmetic(mtl.Equal()).step(objective(model), torch.optim.SGD(model.parameters(), 0.1))
    assert (len(forwards), len(backwards)) == (4, 3)  # one to know the losses at theta, three on the walk


def kinds() -> dict[str, tuple]:
    """For each kind of objective: the model, batches by draw, the objective of them, the losses by hand."""
    per_task = dict.fromkeys(TASKS, mse)
    shifts = [lambda x, s=s: x + s for s in (0.0, 0.5, -1.0)]

    def by_domain(model: nn.Module, batches: list) -> list[torch.Tensor]:
        return [mse(model(x), y) for x, y in batches]

    def by_task(model: nn.Module, batches: list) -> list[torch.Tensor]:
        return [mse(model(x)[t], y[t]) for x, y in batches for t in TASKS]

    def views(draw: int) -> list:
        [(x, y)] = domain_batches(draw, (5,))
        return [(shift(x), y) for shift in shifts]

    def of_views(model: nn.Module, _: list, more) -> mtl.Objective:
        return mtl.ViewObjective(model, *domain_batches(0, (5,))[0], shifts, mse, more=more)

    def of_domains(model: nn.Module, batches: list, more, graph: str = "auto") -> mtl.Objective:
        return mtl.DomainObjective(model, batches, mse, graph=graph, more=more)

    return {
        "domain": (One, lambda draw: domain_batches(draw, (4, 3, 5)), of_domains, by_domain),
        "joint": (
            One,
            lambda draw: domain_batches(draw, (4, 3)),
            partial(of_domains, graph="joint"),
            by_domain,
        ),
        "one domain": (One, lambda draw: domain_batches(draw, (4,)), of_domains, by_domain),
        "view": (One, views, of_views, by_domain),
        "task": (
            Heads,
            lambda draw: [task_batch(draw, 4)],
            lambda model, batches, more: mtl.TaskObjective(model, *batches[0], per_task, more=more),
            by_task,
        ),
        "product": (
            Heads,
            lambda draw: [task_batch(draw, 4), task_batch(draw + 10, 3)],
            lambda model, batches, more: mtl.ProductObjective(model, batches, per_task, more=more),
            by_task,
        ),
    }


KINDS = kinds()


def fresh_walk(model: nn.Module, kind: str, inner_lr: float, inner_steps: int) -> list[torch.Tensor]:
    """theta after each source of a walk whose steps on a source are on the minibatches of draw 0, 1, ..."""
    _, batches, _, losses = KINDS[kind]
    optimizer = torch.optim.SGD(model.parameters(), inner_lr)
    points = [flat(model)]
    for k in range(len(losses(model, batches(0)))):
        for draw in range(inner_steps):
            optimizer.zero_grad()
            losses(model, batches(draw))[k].backward()
            optimizer.step()
        points.append(flat(model))
    return points


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_fresh_minibatches_are_an_unrolled_sgd_on_them(kind: str, inner_steps: int) -> None:
    make, batches, objective_of, _ = KINDS[kind]
    model, twin = seeded(make), seeded(make)
    points = fresh_walk(twin, kind, 0.05, inner_steps)
    n_sources = len(points) - 1
    solver = mtl.Fish(mtl.Equal(), inner_lr=0.05, inner_steps=inner_steps, order="fixed", minibatches="fresh")
    solver.step(objective_of(model, batches(0), batches), torch.optim.SGD(model.parameters(), 0.02))
    expected = points[0] + 0.02 / (n_sources * 0.05) * (points[-1] - points[0])
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=1e-14)


def test_ten_steps_with_fresh_minibatches_against_plain_loops():
    model, twin = seeded(One), seeded(One)
    ours, theirs = (torch.optim.Adam(m.parameters(), 0.01) for m in (model, twin))
    options = {"inner_lr": 0.03, "inner_steps": 3, "minibatches": "fresh"}
    solver, draws = mtl.Arithmetic(mtl.Equal(), **options, seed=8), torch.Generator().manual_seed(8)
    for seed in range(10):
        more = lambda draw, seed=seed: domain_batches(100 * seed + draw, (4, 3, 5))  # noqa: E731
        solver.step(mtl.DomainObjective(model, more(0), mse, more=more), ours)
        start, total = [p.detach().clone() for p in twin.parameters()], 0
        for a, k in zip((1 / 2, 1 / 3, 1 / 6), torch.randperm(3, generator=draws).tolist(), strict=True):
            before = flat(twin)
            for draw in range(3):
                x, y = more(draw)[k]
                gradients = torch.autograd.grad(mse(twin(x), y), list(twin.parameters()))
                for p, g in zip(twin.parameters(), gradients, strict=True):
                    p.data -= 0.03 * g
            total = total + a * (before - flat(twin)) / 0.03
        pieces = total.split([p.numel() for p in start])
        for p, value, piece in zip(twin.parameters(), start, pieces, strict=True):
            p.data = value
            p.grad = piece.view_as(p)
        theirs.step()
    torch.testing.assert_close(flat(model), flat(twin), rtol=0, atol=1e-10)


def test_fresh_and_same_differ_only_in_the_further_steps():
    found = {}
    for minibatches in ("same", "fresh"):
        for inner_steps in (1, 2):
            model = seeded(One)
            batches = KINDS["domain"][1]
            solver = mtl.Fish(mtl.Equal(), inner_lr=0.05, inner_steps=inner_steps, minibatches=minibatches)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            solver.step(mtl.DomainObjective(model, batches(0), mse, more=batches), optimizer)
            found[minibatches, inner_steps] = flat(model)
    assert torch.equal(found["same", 1], found["fresh", 1])
    assert not torch.allclose(found["same", 2], found["fresh", 2])


def test_fresh_minibatches_within_sam():
    """The walk sets out from theta + epsilon, epsilon from the minibatches of the step."""
    model, twin = seeded(One), seeded(One)
    _, batches, objective_of, losses = KINDS["domain"]
    gradients = torch.autograd.grad(sum(losses(twin, batches(0))) / 3, list(twin.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    start = flat(twin)
    for p, g in zip(twin.parameters(), gradients, strict=True):
        p.data += 0.3 * g / norm
    points = fresh_walk(twin, "domain", 0.05, 3)
    walk = mtl.Fish(mtl.Equal(), inner_lr=0.05, inner_steps=3, order="fixed", minibatches="fresh")
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    mtl.SAM(walk, rho=0.3).step(objective_of(model, batches(0), batches), optimizer)
    expected = start + 0.02 / (3 * 0.05) * (points[-1] - points[0])
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=1e-14)


def test_fresh_minibatches_within_gradient_equilibrium():
    """Each step of the walk is along a row refined among those of the same draw at the same point."""
    model, twin = seeded(One), seeded(One)
    _, batches, objective_of, losses = KINDS["domain"]
    start, parameters = flat(twin), list(twin.parameters())
    for k in range(3):
        for draw in range(3):
            rows = torch.stack(
                [
                    torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
                    for loss in losses(twin, batches(draw))
                ]
            )
            step = equilibrate(rows, alpha=0.2, steps=2)[k].split([p.numel() for p in parameters])
            for p, piece in zip(parameters, step, strict=True):
                p.data -= 0.05 * piece.view_as(p)
    walk = mtl.Fish(mtl.Equal(), inner_lr=0.05, inner_steps=3, order="fixed", minibatches="fresh")
    solver = mtl.GradientEquilibrium(walk, alpha=0.2, steps=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    solver.step(objective_of(model, batches(0), batches), optimizer)
    expected = start + 0.02 / (3 * 0.05) * (flat(twin) - start)
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("wrap", [lambda s: s, mtl.SAM, mtl.GradientEquilibrium, mtl.SAMO])
@pytest.mark.parametrize("kind", ["domain", "task", "view", "product"])
def test_fresh_minibatches_that_nobody_supplies(kind: str, wrap) -> None:
    make, batches, objective_of, _ = KINDS[kind]
    model = seeded(make)
    start = flat(model)
    solver = wrap(mtl.Arithmetic(mtl.Equal(), inner_steps=2, inner_lr=0.1, minibatches="fresh"))
    with pytest.raises(mtl.UsageError, match=r"Objective has no minibatches.*more="):
        solver.step(objective_of(model, batches(0), None), torch.optim.SGD(model.parameters(), 0.1))
    assert torch.equal(flat(model), start)


def test_one_step_a_source_needs_no_supply():
    batches, found = KINDS["domain"][1], []
    for minibatches in ("fresh", "same"):
        model = seeded(One)
        solver = mtl.Arithmetic(mtl.Equal(), minibatches=minibatches)
        solver.step(mtl.DomainObjective(model, batches(0), mse), torch.optim.SGD(model.parameters(), 0.1))
        found.append(flat(model))
    assert torch.equal(*found)


def test_fresh_minibatches_leave_batch_norm_alone():
    model, plain = (seeded(lambda: One(nn.BatchNorm2d(3))) for _ in range(2))
    batches = KINDS["domain"][1]
    solver = mtl.Arithmetic(mtl.Equal(), inner_lr=0.1, inner_steps=3, minibatches="fresh")
    objective = mtl.DomainObjective(model, batches(0), mse, more=batches)
    solver.step(objective, torch.optim.SGD(model.parameters(), 0.1))
    plain(torch.cat([x for x, _ in batches(0)]))
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_a_fresh_minibatch_that_is_not_finite(on_nonfinite: str) -> None:
    model = seeded(One)
    start = flat(model)

    def more(draw: int) -> list:
        return [(x * float("nan"), y) for x, y in KINDS["domain"][1](draw)]

    options = {"inner_lr": 0.1, "inner_steps": 2, "minibatches": "fresh", "on_nonfinite": on_nonfinite}
    solver = mtl.Arithmetic(mtl.NashMTL(), **options)
    objective = mtl.DomainObjective(model, KINDS["domain"][1](0), mse, more=more)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if on_nonfinite == "raise":
        with pytest.raises(mtl.NonFiniteError):
            solver.step(objective, optimizer)
    else:
        assert solver.step(objective, optimizer).metrics == {"arithmetic/skipped": 1.0}
    assert torch.equal(flat(model), start)


def test_an_unknown_supply_is_refused():
    with pytest.raises(mtl.UsageError, match=r"fish: minibatches.*'same' or 'fresh'.*'new'"):
        mtl.Fish(mtl.Equal(), minibatches="new")
