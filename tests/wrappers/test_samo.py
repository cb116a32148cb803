"""SAMO against a plain loop that draws the same z, against SAM, by its displacements and by what it costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from problems import (
    OPTIMIZERS,
    TASKS,
    Heads,
    One,
    domain_batches,
    domain_objective,
    mse,
    seeded,
    task_batch,
    task_objective,
)
from reference import Equal, Famo, Nash, Problem, flat, gradient
from torch import Tensor, nn

import mtlsuite as mtl

RHO, EPS = 0.2, 0.05


class Displaced:
    """K losses and gradients met at K points, for a rule inside: losses that are linear around theta."""

    def __init__(self, problem: Problem, losses: list[Tensor], rows: list[list[Tensor]]) -> None:
        self.parameters, self.n_shared, self.start = problem.parameters, problem.n_shared, problem.start
        self.losses, self.rows = losses, rows

    def evaluate(self) -> list[Tensor]:
        return [
            loss + sum((g * (p - p.detach())).sum() for g, p in zip(row, self.parameters, strict=True))
            for loss, row in zip(self.losses, self.rows, strict=True)
        ]

    def gradients(self) -> list[list[Tensor]]:
        return self.rows


class Samo:
    """Per source: difference of the losses over 2 mu, times z; rescaled tensor by tensor; mixed; moved there.

    ``own[k]`` numbers the private parameters of source k; ``model`` is in evaluation mode for the
    probes.
    """

    def __init__(self, inner, model: nn.Module, own: list[list[int]], beta: float, seed: int) -> None:
        self.inner, self.model, self.own, self.beta = inner, model, own, beta
        self.generator = torch.Generator().manual_seed(seed)

    def direction(self, problem: Problem) -> list[Tensor]:
        with still(self.model):  # the probes, in evaluation mode, shall see the statistics of one forward
            mean = problem.mean_gradient()
        estimates = self.estimates(problem, mean)
        losses, rows = [], []
        for k, estimate in enumerate(estimates):
            eps = self.displacement(k, mean, estimate, problem.n_shared)
            loss = self.at(problem, eps, lambda k=k: problem.evaluate()[k])
            rows.append(
                self.at(problem, eps, lambda k=k: gradient(problem.evaluate()[k], problem.parameters))
            )
            losses.append(loss.detach())
        return self.inner.direction(Displaced(problem, losses, rows))

    def estimates(self, problem: Problem, mean: list[Tensor]) -> list[list[Tensor]]:
        z = torch.empty(flat(mean).numel(), dtype=torch.float64).normal_(generator=self.generator)
        pieces = [part.view_as(g) for part, g in zip(z.split([g.numel() for g in mean]), mean, strict=True)]
        self.model.eval()
        above = self.at(problem, [EPS * piece for piece in pieces], problem.evaluate)
        below = self.at(problem, [-EPS * piece for piece in pieces], problem.evaluate)
        self.model.train()
        found = []
        for plus, minus in zip(above, below, strict=True):
            raw = [((plus - minus) / (2 * EPS)).detach() * piece for piece in pieces]
            found.append([e * g.norm() / e.norm() for e, g in zip(raw, mean, strict=True)])
        return found

    def displacement(self, k: int, mean: list[Tensor], estimate: list[Tensor], n_shared: int) -> list[Tensor]:
        mixed = [(1 - self.beta) * g + self.beta * e for g, e in zip(mean, estimate, strict=True)]
        length = flat(mixed[:n_shared]).norm()
        eps = [RHO * m / length for m in mixed[:n_shared]] + [torch.zeros_like(g) for g in mean[n_shared:]]
        if self.own[k]:
            length = flat([mean[index] for index in self.own[k]]).norm()
        for index in self.own[k]:
            eps[index] = RHO * mean[index] / length
        return eps

    @staticmethod
    def at(problem: Problem, eps: list[Tensor], ask):
        kept = [p.detach().clone() for p in problem.parameters]
        for p, e in zip(problem.parameters, eps, strict=True):
            p.data = p.data + e
        found = ask()
        for p, old in zip(problem.parameters, kept, strict=True):
            p.data = old
        return found


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """After the block the BatchNorm statistics are what they were before it."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)


def train(rule: Samo, losses, seeds, parameters: list[Tensor], n_shared: int, optimizer) -> None:
    """The forward of :class:`Problem`, the first of the step, is the one that moves statistics."""
    for seed in seeds:
        problem = Problem(lambda seed=seed: losses(seed), parameters, n_shared)
        with still(rule.model):
            for p, d in zip(parameters, rule.direction(problem), strict=True):
                p.grad = d
            optimizer.step()
            rule.inner.after(problem)


HEADS_OWN = [[4, 5], [6, 7], [8, 9]]
INNER = {
    "equal": (mtl.Equal, lambda: Equal([1 / 3] * 3)),
    "nash_mtl": (mtl.NashMTL, Nash),
    "famo": (mtl.FAMO, lambda: Famo(3)),
    "famo-here": (lambda: mtl.FAMO(before="here"), lambda: Famo(3, before="here")),
}


def tasks(model: nn.Module):
    def losses(seed: int) -> list[Tensor]:
        inputs, targets = task_batch(seed)
        prediction = model(inputs)
        return [mse(prediction[t], targets[t]) for t in TASKS]

    return losses


CASES = [
    ("equal", 0.3, True),
    ("equal", 1.0, False),
    ("equal", 0.0, True),
    ("nash_mtl", 0.3, False),
    ("nash_mtl", 1.0, True),
    ("famo", 0.3, True),
    ("famo", 1.0, False),
    ("famo-here", 0.3, False),
    ("famo-here", 1.0, True),
]


@pytest.mark.parametrize(("inner", "beta", "norm"), CASES)
def test_ten_steps_with_heads_are_those_of_the_reference(inner: str, beta: float, norm: bool) -> None:
    """With a BatchNorm layer (``norm``) the probes differ from the rest, and statistics move."""
    optimizer = "adam" if beta == 1.0 else "sgd"
    solver_inside, rule_inside = INNER[inner]
    n_shared = 6 if norm else 4
    own = [[index + n_shared - 4 for index in group] for group in HEADS_OWN]
    ours, theirs = (seeded(lambda: Heads(nn.BatchNorm2d(3) if norm else None)) for _ in range(2))
    solver = mtl.SAMO(solver_inside(), rho=RHO, beta=beta, zo_eps=EPS, seed=5)
    stepper = OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        solver.step(task_objective(ours, seed), stepper)
    parameters = list(theirs.parameters())
    rule = Samo(rule_inside(), theirs, own, beta, seed=5)
    train(rule, tasks(theirs), range(10), parameters, n_shared, OPTIMIZERS[optimizer](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-9)
    for mine, plain in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("graph", "norm"), [("separate", False), ("joint", False), ("joint", True)], ids=str)
@pytest.mark.parametrize("sizes", [(7,), (4, 3), (4, 3, 5)], ids=len)
def test_domains_are_those_of_the_reference(graph: str, norm: bool, sizes: tuple[int, ...]) -> None:
    """All parameters are shared; K = 1 among them."""
    ours, theirs = (seeded(lambda: One(nn.BatchNorm2d(3) if norm else None)) for _ in range(2))
    solver = mtl.SAMO(mtl.FAMO(), rho=RHO, beta=0.4, zo_eps=EPS, seed=2)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
    for seed in range(3):
        solver.step(domain_objective(ours, seed, graph, sizes=sizes), optimizer)

    def losses(seed: int) -> list[Tensor]:
        batches = domain_batches(seed, sizes)
        predictions = theirs(torch.cat([x for x, _ in batches])).split(sizes)
        return [mse(p, y) for p, (_, y) in zip(predictions, batches, strict=True)]

    parameters = list(theirs.parameters())
    rule = Samo(Famo(len(sizes)), theirs, [[]] * len(sizes), 0.4, seed=2)
    train(rule, losses, range(3), parameters, len(parameters), torch.optim.SGD(parameters, lr=0.05))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-10)


def gradient_of(solver: mtl.Solver, model: nn.Module, objective: mtl.Objective) -> Tensor:
    solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    return flat([p.grad for p in model.parameters()]).clone()


def all_shared(model: Heads, seed: int = 0) -> mtl.Objective:
    plain = task_objective(model, seed)
    return mtl.Objective(plain.losses, model.parameters(), names=["a", "b", "c"], modules=[model])


OBJECTIVES = {
    "task": (Heads, all_shared),
    "domain": (One, lambda model: domain_objective(model, graph="separate")),
    "batch norm": (lambda: One(nn.BatchNorm2d(3)), domain_objective),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("inner", [mtl.Equal, mtl.NashMTL, mtl.FAMO])
def test_without_estimate_and_private_parameters_it_is_sam(kind: str, inner) -> None:
    make, objective = OBJECTIVES[kind]
    models = [seeded(make) for _ in range(2)]
    solvers = mtl.SAMO(inner(), rho=0.3, beta=0.0), mtl.SAM(inner(), rho=0.3)
    found = [gradient_of(s, m, objective(m)) for s, m in zip(solvers, models, strict=True)]
    # Bit for bit where both combine the same rows; else SAM takes one pullback of the sum.
    torch.testing.assert_close(*found, rtol=0, atol=0 if inner is mtl.NashMTL else 1e-13)
    for ours, theirs in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(ours, theirs)


class Visits:
    """Where the model was evaluated: its parameters there, and which parts were in training mode."""

    def __init__(self, model: nn.Module) -> None:
        self.points: list[list[Tensor]] = []
        self.modes: list[list[bool]] = []
        self.model = model
        model.register_forward_pre_hook(self._visit)

    def _visit(self, *_) -> None:
        self.points.append([p.detach().clone() for p in self.model.parameters()])
        self.modes.append([m.training for m in self.model.modules()])

    def displacement(self, visit: int) -> list[Tensor]:
        return [p - q for p, q in zip(self.points[visit], self.points[0], strict=True)]


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_where_the_sources_are_looked_at(beta: float) -> None:
    """The shared part by rho, the own head by rho along its own gradient, the other heads not at all."""
    model = seeded(Heads)
    visits = Visits(model)
    mean = flat(gradient(sum(task_objective(model).losses()) / 3, list(model.parameters())))
    pieces = mean.split([p.numel() for p in model.parameters()])
    visits.points.clear()
    solver = mtl.SAMO(mtl.Equal(), rho=0.3, beta=beta)
    solver.step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    first = 3 if beta else 1
    assert len(visits.points) == first + 3
    for k in range(3):
        moved = visits.displacement(first + k)
        assert float(flat(moved[:4]).norm()) == pytest.approx(0.3, rel=1e-12)
        own = torch.cat([pieces[index] for index in HEADS_OWN[k]])
        expected = 0.3 * own / own.norm()
        torch.testing.assert_close(flat([moved[i] for i in HEADS_OWN[k]]), expected, rtol=0, atol=1e-14)
        others = [moved[i] for i in range(4, 10) if i not in HEADS_OWN[k]]
        assert not any(piece.any() for piece in others)


def test_a_head_fed_by_several_domains_moves_along_its_own_gradient() -> None:
    """In a product objective the head of a task is private to several sources; its gradient is the mean's."""
    model = seeded(Heads)
    batches = [task_batch(d, 4) for d in range(2)]
    objective = mtl.ProductObjective(model, batches, dict.fromkeys(TASKS, mse), graph="joint")
    mean = gradient(sum(objective.losses()) / 6, list(model.parameters()))
    visits = Visits(model)
    mtl.SAMO(mtl.Equal(), rho=0.3, beta=0.0).step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    for source in range(6):
        moved, own = visits.displacement(1 + source), HEADS_OWN[source % 3]
        piece = flat([mean[index] for index in own])
        torch.testing.assert_close(
            flat([moved[index] for index in own]), 0.3 * piece / piece.norm(), rtol=0, atol=1e-14
        )


def test_with_the_estimate_alone_sources_differ_in_sign_only() -> None:
    model = seeded(One)
    visits = Visits(model)
    solver = mtl.SAMO(mtl.Equal(), rho=0.3, beta=1.0, seed=3)
    objective = domain_objective(model, graph="joint")
    mean = gradient(sum(objective.losses()) / 4, list(model.parameters()))
    visits.points.clear()
    solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    first = visits.displacement(3)
    signs = []
    for k in range(4):
        moved = visits.displacement(3 + k)
        signs.append(float(torch.sign(moved[0].flatten() @ first[0].flatten())))
        torch.testing.assert_close(flat(moved), signs[k] * flat(first), rtol=0, atol=1e-15)
        ratios = [float(e.norm() / g.norm()) for e, g in zip(moved, mean, strict=True)]
        assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-9)  # tensor by tensor as long as g
    losses = []
    for visit in (1, 2):
        for p, value in zip(model.parameters(), visits.points[visit], strict=True):
            p.data = value
        losses.append(torch.stack(list(objective.losses())).detach())
    slope = torch.sign(losses[0] - losses[1])
    above = flat(visits.displacement(1)) @ flat(first)
    assert signs == (slope * slope[0]).tolist()
    assert float(above * slope[0]) > 0  # and towards where the loss was higher


def test_probes_are_at_plus_and_minus_the_same_normal_step() -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 300)))
    x, _ = task_batch(0)
    visits = Visits(model)
    objective = mtl.Objective(lambda: [(model(x) ** 2).mean()] * 2, model.parameters(), modules=[model])
    solver = mtl.SAMO(mtl.Equal(), rho=0.1, zo_eps=0.01)
    solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    above, below = flat(visits.displacement(1)), flat(visits.displacement(2))
    torch.testing.assert_close(above, -below, rtol=0, atol=1e-15)
    assert float(above.std()) == pytest.approx(0.01, rel=0.05)  # 5100 entries
    assert abs(float(above.mean())) < 0.001


def test_only_the_probes_are_in_evaluation_mode_and_modes_come_back() -> None:
    model = seeded(lambda: Heads(nn.BatchNorm2d(3)))
    model.heads["b"].eval()  # as a user may have it
    before = [m.training for m in model.modules()]
    plain = copy.deepcopy(model)
    visits = Visits(model)
    mtl.SAMO(mtl.NashMTL()).step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    off = [False] * len(before)
    assert visits.modes == [before, off, off, before, before, before]
    assert [m.training for m in model.modules()] == before
    plain(task_batch(0)[0])
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


@pytest.mark.parametrize("failing", [1, 2, 3, 5, 6])
def test_a_failure_anywhere_brings_theta_and_modes_back(failing: int) -> None:
    """Forwards 2 and 3 are the probes, 4 to 6 the displaced points."""
    model = seeded(lambda: Heads(nn.BatchNorm2d(3)))
    start = [p.detach().clone() for p in model.parameters()]
    calls = []

    def hook(*_) -> None:
        calls.append(1)
        if len(calls) == failing:
            raise RuntimeError("boom")

    model.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="boom"):
        mtl.SAMO(mtl.Equal()).step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))
    assert all(m.training for m in model.modules())
    assert model.trunk[1].running_mean is not None


class Watcher(mtl.Equal):
    """Notes what it is shown."""

    def direction(self, oracle):
        self.seen = [oracle.losses().clone(), oracle.jacobian().rows.clone(), oracle.probe().clone()]
        self.start = oracle.start_losses().clone()
        return super().direction(oracle)


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_the_solver_inside_sees_the_losses_and_rows_of_the_displaced_points(graph: str) -> None:
    model = seeded(One)
    objective = domain_objective(model, graph=graph)
    watcher, visits = Watcher(), Visits(model)
    report = mtl.SAMO(watcher, rho=0.5).step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    points = visits.points[-4:]
    for k, point in enumerate(points):
        for p, value in zip(model.parameters(), point, strict=True):
            p.data = value
        loss = objective.source(k)
        torch.testing.assert_close(watcher.seen[0][k], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            watcher.seen[1][k], flat(gradient(loss, list(model.parameters()))), rtol=0, atol=1e-12
        )
    assert torch.equal(watcher.seen[0], watcher.seen[2])
    assert not torch.allclose(watcher.seen[0], watcher.start)
    assert torch.equal(report.losses, watcher.start)


@pytest.mark.parametrize(
    ("make", "objective", "beta", "expected"),
    [
        (Heads, task_objective, 0.5, (6, 4)),  # 3 and 1, then K whole ones
        (Heads, task_objective, 0.0, (4, 4)),
        (One, lambda m: domain_objective(m, graph="separate"), 0.5, (16, 8)),  # the same in quarters
        (One, lambda m: domain_objective(m, graph="joint"), 0.5, (7, 5)),
    ],
)
@pytest.mark.parametrize("inner", [mtl.Equal, mtl.NashMTL])
def test_costs(passes, make, objective, beta: float, expected: tuple[int, int], inner) -> None:
    model = passes.watch(seeded(make))
    solver = mtl.SAMO(inner(), beta=beta)
    solver.step(objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.counts == expected


@pytest.mark.parametrize("inner", [mtl.Equal, mtl.NashMTL, mtl.FAMO])
def test_without_radius_it_is_the_solver_inside(passes, inner) -> None:
    a, b = seeded(Heads), passes.watch(seeded(Heads))
    expected = gradient_of(inner(), a, task_objective(a))
    passes.reset()
    assert torch.equal(gradient_of(mtl.SAMO(inner(), rho=0), b, task_objective(b)), expected)
    assert passes.forwards == (2 if inner is mtl.FAMO else 1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_zero_gradient_moves_nothing(beta: float) -> None:
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    objective = mtl.Objective(lambda: [(theta**2).sum(), (theta**4).sum()], [theta])
    mtl.SAMO(mtl.Equal(), beta=beta).step(objective, torch.optim.SGD([theta], lr=1.0))
    assert torch.equal(theta.detach(), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_tensor_without_gradient_is_not_displaced(beta: float) -> None:
    """Nor is a head whose gradient vanishes; the others are, and nothing is NaN."""
    used, unused = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    head = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    seen = []

    def losses() -> list[Tensor]:
        seen.append([p.detach().clone() for p in (used, unused, head)])
        return [(used**2).sum() + (unused * 0).sum(), (used**4).sum() + (head**2).sum()]

    objective = mtl.Objective(losses, [used, unused], [[], [head]])
    mtl.SAMO(mtl.Equal(), rho=0.1, beta=beta).step(objective, torch.optim.SGD([used, unused, head], lr=1.0))
    for point in seen[-2:]:
        assert float((point[0] - 1).norm()) == pytest.approx(0.1, rel=1e-12)
        assert torch.equal(point[1], torch.ones(3, dtype=torch.float64))
        assert torch.equal(point[2], torch.zeros(2, dtype=torch.float64))


def test_frozen_parameters_do_not_move() -> None:
    model = seeded(Heads)
    model.trunk[0].weight.requires_grad_(False)
    model.heads["b"].bias.requires_grad_(False)
    visits = Visits(model)
    solver = mtl.SAMO(mtl.NashMTL(), rho=0.3)
    solver.step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    for visit in range(1, 6):
        moved = visits.displacement(visit)
        assert [bool(piece.any()) for piece in moved[:4]] == [False, True, True, True]
        assert not moved[7].any()
    own = visits.displacement(4)
    assert float(own[6].norm()) == pytest.approx(0.3)
    assert float(flat(own[1:4]).norm()) == pytest.approx(0.3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_low_precision_is_near_double(dtype: torch.dtype, tolerance: float) -> None:
    low, high = seeded(Heads, dtype=dtype), seeded(Heads, dtype=dtype).double()
    found = gradient_of(mtl.SAMO(mtl.Equal(), rho=0.3, beta=0.0), low, task_objective(low, dtype=dtype))
    expected = gradient_of(mtl.SAMO(mtl.Equal(), rho=0.3, beta=0.0), high, task_objective(high))
    assert found.dtype == dtype
    assert float((found.double() - expected).norm()) < tolerance * float(expected.norm())
    estimated = gradient_of(mtl.SAMO(mtl.Equal(), rho=0.3), low, task_objective(low, dtype=dtype))
    assert estimated.isfinite().all()
    assert not torch.equal(estimated, found)


@pytest.mark.parametrize("graph", ["joint", "separate"])
@pytest.mark.parametrize("inner", [mtl.Equal, mtl.FAMO])
def test_a_loss_that_is_nan_at_a_displaced_point_alone(graph: str, inner) -> None:
    theta = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def source(k: int) -> Tensor:
        displaced = not torch.equal(theta.detach(), torch.ones(3, dtype=torch.float64))
        bad = k == 1 and displaced and theta.requires_grad and torch.is_grad_enabled()
        return (theta**2).sum() * (k + 1) * (float("nan") if bad else 1.0)

    objective = mtl.Objective(
        lambda: [source(0), source(1)], [theta], source=source, names=["a", "b"], graph=graph
    )
    optimizer = torch.optim.SGD([theta], lr=0.1)
    with pytest.raises(mtl.NonFiniteError):
        mtl.SAMO(inner(), rho=0.1).step(objective, optimizer)
    solver = mtl.SAMO(inner(n_sources=2), rho=0.1, on_nonfinite="skip", seed=4)
    before = solver.generator.get_state()
    assert solver.step(objective, optimizer).metrics == {"samo/skipped": 1.0}
    assert torch.equal(solver.generator.get_state(), before)
    assert torch.equal(theta.detach(), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("option", [{"rho": -1}, {"beta": 1.1}, {"beta": -0.1}, {"zo_eps": 0.0}])
def test_bad_options(option: dict) -> None:
    with pytest.raises(mtl.UsageError, match=f"samo.*{next(iter(option))}"):
        mtl.SAMO(mtl.Equal(), **option)
