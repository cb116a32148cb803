"""GGA: the search against a plain loop and against scripts of what it meets, and where theta ends up."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

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
    task_objective,
)
from reference import Equal, Famo, Nash, Problem, Sam, flat, gradient
from torch import Tensor, nn

import mtlsuite as mtl

SEARCH = {"start_step": 0, "end_step": 9, "n_search": 12, "radius": 0.05}


class Gga:
    """Moves theta to the best candidate for good, then asks ``inner``; ``fixed`` parameters stay."""

    def __init__(
        self, inner, seed: int, candidates: str, steps: range, fixed: Sequence[int] = (), tolerance=0.1
    ) -> None:
        self.inner, self.candidates, self.window = inner, candidates, steps
        self.fixed, self.tolerance = fixed, tolerance
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.accepted = -1, []

    def direction(self, problem: Problem) -> list[Tensor]:
        self.step += 1
        if self.step in self.window:
            self.accepted.append(self.search(problem))
        return self.inner.direction(problem)

    def after(self, problem: Problem) -> None:
        self.inner.after(problem)

    def search(self, problem: Problem) -> int:
        """How many candidates were accepted."""
        sizes = [p.numel() for p in problem.parameters]
        start = [p.detach().clone() for p in problem.parameters]
        best, best_quality, accepted = start, self.quality(problem), 0
        for _ in range(SEARCH["n_search"]):
            noise = torch.empty(sum(sizes), dtype=torch.float64)
            noise.uniform_(-SEARCH["radius"], SEARCH["radius"], generator=self.generator)
            if self.candidates == "independent":
                self.place(problem, best)
            for index, (p, u) in enumerate(zip(problem.parameters, noise.split(sizes), strict=True)):
                if index not in self.fixed:
                    p.data = p.data + u.view_as(p)
            quality = self.quality(problem)
            if quality[0] > best_quality[0] and quality[1] < best_quality[1] + self.tolerance:
                best = [p.detach().clone() for p in problem.parameters]
                best_quality, accepted = quality, accepted + 1
                self.place(problem, start)
        self.place(problem, best)
        return accepted

    @staticmethod
    def quality(problem: Problem) -> tuple[float, float]:
        rows = [flat(g) for g in problem.gradients()]
        cosines = [float(a @ b / (a.norm() * b.norm())) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        return min(cosines), sum(float(loss.detach()) for loss in problem.evaluate()) / len(rows)

    @staticmethod
    def place(problem: Problem, point: list[Tensor]) -> None:
        for p, value in zip(problem.parameters, point, strict=True):
            p.data = value.clone()


def losses_of(model: nn.Module, sizes: tuple[int, ...]) -> Callable[[int], list[Tensor]]:
    return lambda seed: [mse(model(x), y) for x, y in domain_batches(seed, sizes)]


INNER = {
    "equal": (mtl.Equal, lambda: Equal([1 / 3] * 3)),
    "nash_mtl": (mtl.NashMTL, Nash),
    "famo": (mtl.FAMO, lambda: Famo(3)),
}


@pytest.mark.parametrize(("inner", "optimizer"), [("equal", "sgd"), ("nash_mtl", "adam"), ("famo", "sgd")])
@pytest.mark.parametrize("candidates", ["independent", "walk"])
def test_steps_are_those_of_the_reference(inner: str, optimizer: str, candidates: str) -> None:
    """Two steps before the window, three in it (the last one included), two after it."""
    (solver_inside, rule_inside), sizes = INNER[inner], (4, 6, 5)
    ours, theirs = seeded(One), seeded(One)
    options = {**SEARCH, "start_step": 2, "end_step": 4, "candidates": candidates}
    solver = mtl.GGA(solver_inside(), **options, seed=7)
    parameters = list(theirs.parameters())
    rule = Gga(rule_inside(), 7, candidates, range(2, 5))
    steppers = [OPTIMIZERS[optimizer](m.parameters()) for m in (ours, theirs)]
    accepted = []
    for seed in range(7):
        report = solver.step(domain_objective(ours, seed, sizes=sizes), steppers[0])
        problem = Problem(lambda seed=seed: losses_of(theirs, sizes)(seed), parameters, len(parameters))
        for p, d in zip(parameters, rule.direction(problem), strict=True):
            p.grad = d
        steppers[1].step()
        rule.after(problem)
        torch.testing.assert_close(report.losses, problem.start, rtol=1e-9, atol=0)
        assert ("gga/accepted" in report.metrics) == (seed in (2, 3, 4))
        accepted += [report.metrics["gga/accepted"]] if seed in (2, 3, 4) else []
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-10)
    assert accepted == rule.accepted
    assert 3 <= sum(accepted) < 36  # some were accepted and some were not


def test_heads_count_in_the_cosine_and_move() -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    mtl.GGA(mtl.Equal(), **SEARCH, seed=3).step(
        task_objective(ours), torch.optim.SGD(ours.parameters(), lr=0.0)
    )
    plain, parameters = task_objective(theirs), list(theirs.parameters())
    rule = Gga(Equal([1 / 3] * 3), 3, "independent", range(1))
    rule.direction(Problem(plain.losses, parameters, 4))
    assert rule.accepted[0] > 0
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-13)


class Script:
    """Three sources on two parameters whose mean loss and gradients at the n-th point are as written.

    A point is (a, b, mean loss): the gradients stand at the angles 0, a and a + b in degrees, so that their
    cosines are cos a, cos b and cos(a + b).
    """

    def __init__(self, points: Sequence[tuple[float, float, float]]) -> None:
        self.theta = torch.tensor([0.5, -0.25], dtype=torch.float64, requires_grad=True)
        self.points, self.visited = [*points, points[-1]], []  # once more for the solver inside

    def losses(self) -> list[Tensor]:
        a, b, mean = self.points[len(self.visited)]
        self.visited.append(self.theta.detach().clone())
        angles = torch.tensor([0.0, a, a + b], dtype=torch.float64).deg2rad()
        rows = torch.stack([angles.cos(), angles.sin()], dim=1)
        offsets = torch.tensor([-0.25, 0.0, 0.25], dtype=torch.float64)
        return list(mean + offsets + rows @ (self.theta - self.theta.detach()))

    def search(self, **options) -> tuple[Tensor, mtl.StepReport]:
        """(2,) move of theta in a step of length zero."""
        start = self.theta.detach().clone()
        solver = mtl.GGA(
            mtl.Equal(),
            start_step=0,
            end_step=0,
            n_search=len(self.points) - 2,
            radius=0.1,
            seed=1,
            **options,
        )
        objective = mtl.Objective(self.losses, [self.theta], names=["a", "b", "c"])
        report = solver.step(objective, torch.optim.SGD([self.theta], lr=0.0))
        assert len(self.visited) == len(self.points)
        return self.theta.detach() - start, report


def noises(count: int, size: int = 2, radius: float = 0.1, seed: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.stack(
        [
            torch.empty(size, dtype=torch.float64).uniform_(-radius, radius, generator=draws)
            for _ in range(count)
        ]
    )


START = (60.0, 60.0, 1.0)  # cosines 0.5, 0.5, -0.5
SCRIPTS = {  # the candidates after START (degrees, degrees, mean loss), and which are accepted
    "better": ([(50, 50, 1.0)], [0]),
    "worse": ([(70, 70, 1.0)], []),
    "as good": ([(60, 60, 1.0)], []),
    "the minimum counts, not the mean": ([(1, 120, 1.0)], []),  # about 1, -0.5, -0.515: worse than -0.5
    "a higher minimum at a lower mean": ([(1, 118, 1.0)], [0]),  # mean of about 0.02, at the start 0.17
    "loss within tolerance": ([(50, 50, 1.49)], [0]),
    "loss at the tolerance": ([(50, 50, 1.5)], []),
    "loss above it": ([(50, 50, 2.0)], []),
    "loss much lower": ([(50, 50, -9.0)], [0]),
    "loss lower, cosine too": ([(61, 60, -9.0)], []),
    "better than the start, not than the best": ([(40, 40, 1.0), (50, 50, 1.0), (30, 30, 1.0)], [0, 2]),
    "tolerance counts from the best": ([(50, 50, 1.4), (40, 40, 1.8), (30, 30, 2.2)], [0, 1, 2]),
    "and not from the start": ([(50, 50, 0.2), (40, 40, 0.9), (30, 30, 0.6)], [0, 2]),
    "rejected ones leave no trace": ([(70, 70, 1.0), (50, 50, 9.0), (50, 50, 1.0), (80, 0, 1.0)], [2, 3]),
    "none": ([(70, 70, 1.0)] * 4, []),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("candidates", ["independent", "walk"])
def test_what_is_accepted(script: str, candidates: str) -> None:
    points, accepted = SCRIPTS[script]
    search = Script([START, *points])
    start = search.theta.detach().clone()
    moved, report = search.search(loss_tolerance=0.5, candidates=candidates)
    here, best, visited = torch.zeros(2).double(), torch.zeros(2).double(), [start]
    for number, noise in enumerate(noises(len(points))):
        here = here + noise
        visited.append(start + here)
        if number in accepted:
            best = here
            here = torch.zeros(2).double()
        if candidates == "independent":
            here = best
    visited.append(start + best)  # the solver inside
    torch.testing.assert_close(moved, best, rtol=0, atol=1e-15)
    torch.testing.assert_close(torch.stack(search.visited), torch.stack(visited), rtol=0, atol=1e-15)
    a, b, _ = ([START, *points])[accepted[-1] + 1 if accepted else 0]
    angles = torch.tensor([a, b, a + b], dtype=torch.float64).deg2rad()
    assert report.metrics["gga/cosine"] == pytest.approx(float(angles.cos().min()), abs=1e-12)
    assert report.metrics["gga/accepted"] == len(accepted)
    assert report.losses.mean() == pytest.approx(1.0)  # where the step began


def test_the_two_kinds_of_candidates_differ() -> None:
    """After a rejected move and then an accepted one; else the runs above would test the same thing."""
    points = [START, (70, 70, 1.0), (50, 50, 1.0)]
    found = [Script(points).search(candidates=candidates)[0] for candidates in ("independent", "walk")]
    first, second = noises(2)
    torch.testing.assert_close(found[0], second, rtol=0, atol=1e-15)
    torch.testing.assert_close(found[1], first + second, rtol=0, atol=1e-15)


def test_candidates_are_uniform_within_the_radius() -> None:
    script = Script([START, *[(70, 70, 1.0)] * 200])
    script.search()
    noise = torch.stack(script.visited[1:-1]) - script.visited[0]
    assert float(noise.abs().max()) <= 0.1
    assert float(noise.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)


def test_the_direction_is_that_of_the_place_that_theta_moved_to() -> None:
    model = seeded(One)
    objective = domain_objective(model, sizes=(4, 6, 5))
    report = mtl.GGA(mtl.Equal(), **SEARCH).step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    assert report.metrics["gga/accepted"] > 0
    expected = gradient(sum(objective.losses()) / 3, list(model.parameters()))
    found = flat([p.grad for p in model.parameters()])
    torch.testing.assert_close(found, flat(expected), rtol=0, atol=1e-14)


PARAMETERS = {
    "a layer": (lambda m: ["trunk.0.*"], {0, 1}),  # noqa: ARG005
    "weights": (lambda m: ["*.weight"], {0, 2, 4}),  # noqa: ARG005
    "one name": (lambda m: ["trunk.4.bias"], {3}),  # noqa: ARG005
    "tensors": (lambda m: [m.trunk[4].weight, m.heads["only"].bias], {2, 5}),
    "both": (lambda m: [m.trunk[0].bias, "heads.*"], {1, 4, 5}),
    "twice": (lambda m: ["trunk.4.*", "trunk.*"], {0, 1, 2, 3}),  # noqa: ARG005
    "all": (lambda m: "all", {0, 1, 2, 3, 4, 5}),  # noqa: ARG005
}


@pytest.mark.parametrize("chosen", PARAMETERS)
def test_only_the_chosen_parameters_move(chosen: str) -> None:
    choose, moving = PARAMETERS[chosen]
    ours, theirs = seeded(One), seeded(One)
    solver = mtl.GGA(mtl.Equal(), **SEARCH, parameters=choose(ours), loss_tolerance=5.0, seed=11)
    before = [p.detach().clone() for p in ours.parameters()]
    objective = domain_objective(ours, sizes=(4, 6, 5))
    report = solver.step(objective, torch.optim.SGD(ours.parameters(), lr=0.0))
    rule = Gga(Equal([1 / 3] * 3), 11, "independent", range(1), set(range(6)) - moving, tolerance=5.0)
    parameters = list(theirs.parameters())
    rule.direction(Problem(lambda: losses_of(theirs, (4, 6, 5))(0), parameters, 6))
    assert rule.accepted == [report.metrics["gga/accepted"]]
    assert rule.accepted[0] > 0
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-13)
    moved = {
        i for i, (p, q) in enumerate(zip(ours.parameters(), before, strict=True)) if not torch.equal(p, q)
    }
    assert moved == moving


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["trunk.*", "featurizer.*"], r"'featurizer\.\*'.*trunk\.0\.weight"),
        (["trunk"], r"'trunk'.*allowed: .*trunk\.0\.bias"),
        ([nn.Parameter(torch.zeros(3, 7))], r"shape \(3, 7\)"),
    ],
)
@pytest.mark.parametrize("start_step", [0, 5])
def test_unknown_parameters(parameters: list, message: str, start_step: int) -> None:
    """Told in the first step, also where the search begins later."""
    model = seeded(One)
    start = [p.detach().clone() for p in model.parameters()]
    solver = mtl.GGA(mtl.Equal(), **{**SEARCH, "start_step": start_step}, parameters=parameters)
    with pytest.raises(mtl.UsageError, match=message):
        solver.step(domain_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 5, "end_step": 4}, "end_step 4 .*start_step 5"),
        ({"start_step": -1}, "start_step"),
        ({"n_search": 0}, "n_search"),
        ({"radius": 0.0}, "radius"),
        ({"loss_tolerance": -0.1}, "loss_tolerance"),
        ({"candidates": "random"}, "candidates"),
        ({"parameters": "trunk.*"}, "parameters.*'all'"),
        ({"parameters": [1]}, "parameters"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(mtl.UsageError, match=f"gga.*{message}"):
        mtl.GGA(mtl.Equal(), **options)


def test_it_searches_from_the_first_to_the_last_step_of_the_window_only(passes) -> None:
    """By default 100 to 200; here 1 to 2, and theta moves there alone though the learning rate is 0."""
    default = mtl.GGA(mtl.Equal())
    assert (default.start_step, default.end_step, default.n_search) == (100, 200, 250)
    model = passes.watch(seeded(Heads))
    solver = mtl.GGA(mtl.Equal(), **{**SEARCH, "start_step": 1, "end_step": 2})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    moved, costs = [], []
    for seed in range(5):
        before = flat([p.detach() for p in model.parameters()]).clone()
        passes.reset()
        solver.step(task_objective(model, seed), optimizer)
        moved.append(not torch.equal(flat([p.detach() for p in model.parameters()]), before))
        costs.append(passes.counts)
    assert moved == [False, True, True, False, False]
    assert costs == [(1, 1), (14, 40), (14, 40), (1, 1), (1, 1)]  # 13 forwards and Jacobians more


def test_one_source_has_nothing_to_search_for(passes) -> None:
    found = []
    for make in (mtl.Equal, lambda: mtl.GGA(mtl.Equal(), **SEARCH)):
        model = passes.watch(seeded(One))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for seed in range(2):
            report = make().step(domain_objective(model, seed, sizes=(6,)), optimizer)
            assert not report.metrics
        found.append(flat([p.detach() for p in model.parameters()]))
    assert torch.equal(*found)
    assert passes.counts == (4, 4)


def test_a_single_loss_of_which_the_number_was_not_told() -> None:
    theta = torch.ones(3, dtype=torch.float64, requires_grad=True)
    objective = mtl.Objective(lambda: [(theta**2).sum()], [theta])
    mtl.GGA(mtl.Equal(), **SEARCH).step(objective, torch.optim.SGD([theta], lr=0.25))
    assert theta.tolist() == [0.5] * 3


class Bomb(mtl.Solver):
    """Fails where it is asked, if theta has been moved by the search."""

    name = "bomb"

    def __init__(self, what: str, parameters: list[Tensor]) -> None:
        super().__init__()
        self.what, self.parameters = what, parameters
        self.home = [p.detach().clone() for p in parameters]

    def direction(self, oracle) -> mtl.Direction:
        relocated = [not torch.equal(p, h) for p, h in zip(self.parameters, self.home, strict=True)]
        assert all(relocated)
        if self.what == "exception":
            raise RuntimeError("boom")
        if self.what == "interrupt":
            raise KeyboardInterrupt
        return mtl.Direction(oracle.mean_gradient() * float("nan"))


def gga(inner: mtl.Solver) -> mtl.GGA:
    return mtl.GGA(inner, start_step=0, end_step=9, n_search=8, radius=0.2, loss_tolerance=9.0)


AROUND = {
    "gga": gga,
    "sam(gga)": lambda b: mtl.SAM(gga(b), rho=0.1),
    "sage(gga)": lambda b: mtl.SAGE(gga(b), rho=0.1),
    "samo(gga)": lambda b: mtl.SAMO(gga(b), rho=0.1),
    "arithmetic(gga)": lambda b: mtl.Arithmetic(gga(b), inner_lr=0.1),
    "gga(equilibrium)": lambda b: gga(mtl.GradientEquilibrium(b)),
    "gsam(gga)": lambda b: mtl.GSAM(gga(b), rho=0.1),
    "sagm(gga)": lambda b: mtl.SAGM(gga(b), rho=0.1, clean="mean"),
    "sam(sage(gga))": lambda b: mtl.SAM(mtl.SAGE(gga(b), rho=0.1), rho=0.1),
    "gga(sam)": lambda b: gga(mtl.SAM(b, rho=0.1)),
    "gga(samo)": lambda b: gga(mtl.SAMO(b, rho=0.1)),
    "gga(gga)": lambda b: gga(gga(b)),
    "gga(sam(gga))": lambda b: gga(mtl.SAM(gga(b), rho=0.1)),
}
FAILURES = {"exception": RuntimeError, "interrupt": KeyboardInterrupt, "nan": mtl.NonFiniteError}


@pytest.mark.parametrize(
    ("around", "dtype"),
    [(name, torch.bfloat16) for name in AROUND]
    + [
        (name, dtype) for name in ("gga", "sam(gga)", "samo(gga)") for dtype in (torch.float32, torch.float64)
    ],
    ids=str,
)
def test_a_failure_inside_brings_theta_back_bit_for_bit(around: str, dtype: torch.dtype) -> None:
    model = seeded(One, dtype=dtype)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for what, error in FAILURES.items():
        solver = AROUND[around](Bomb(what, list(model.parameters())))
        with pytest.raises(error):
            solver.step(domain_objective(model, sizes=(4, 3, 5), dtype=dtype), optimizer)
        assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True)), what
    assert not optimizer.state


@pytest.mark.parametrize("around", ["gga", "sam(gga)", "gga(samo)"])
def test_a_skipped_step_leaves_theta_and_is_not_counted(around: str) -> None:
    model = seeded(One)
    start = [p.detach().clone() for p in model.parameters()]
    objective = domain_objective(model, sizes=(4, 3))
    expected = torch.stack(list(objective.losses())).detach()
    solver = AROUND[around](Bomb("nan", list(model.parameters())))
    solver.on_nonfinite = "skip"
    before, draws = solver.state_dict(), solver.generator.get_state()
    report = solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    assert report.metrics == {f"{solver.name}/skipped": 1.0}
    torch.testing.assert_close(report.losses, expected)
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))
    assert solver.state_dict()["attributes"] == before["attributes"]
    assert torch.equal(solver.generator.get_state(), draws)


@pytest.mark.parametrize("failing", [1, 2, 9, 14])
def test_a_failure_in_the_search_brings_theta_back(failing: int) -> None:
    """In the first forward, among the candidates, and in that of the solver inside."""
    model = seeded(Heads)
    start = [p.detach().clone() for p in model.parameters()]
    calls = []

    def hook(*_) -> None:
        calls.append(1)
        if len(calls) == failing:
            raise RuntimeError("boom")

    model.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="boom"):
        mtl.GGA(mtl.Equal(), **SEARCH).step(
            task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1)
        )
    assert len(calls) == failing
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True))


@pytest.mark.parametrize("candidates", ["independent", "walk"])
def test_a_wrapper_that_displaces_comes_back_to_the_theta_that_moved_along(candidates: str) -> None:
    """SAM(GGA): searched around theta + epsilon, asked at the best point there; theta gets the same move."""
    ours, theirs = seeded(One), seeded(One)
    sizes = (4, 6, 5)
    solver = mtl.SAM(mtl.GGA(mtl.FAMO(), **SEARCH, candidates=candidates), rho=0.3, seed=6)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0)
    report = solver.step(domain_objective(ours, sizes=sizes), optimizer)

    parameters = list(theirs.parameters())
    problem = Problem(lambda: losses_of(theirs, sizes)(0), parameters, 6)
    start = [p.detach().clone() for p in parameters]
    epsilon = Sam(None, 0.3).epsilon(problem)
    for p, e in zip(parameters, epsilon, strict=True):
        p.data = p.data + e
    displaced = [p.detach().clone() for p in parameters]
    rule = Gga(Famo(3), 6, candidates, range(1))
    direction = rule.direction(problem)
    move = [p.detach() - d for p, d in zip(parameters, displaced, strict=True)]
    assert rule.accepted[0] > 0
    expected = flat([s + m for s, m in zip(start, move, strict=True)])
    torch.testing.assert_close(flat([p.detach() for p in ours.parameters()]), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(flat([p.grad for p in ours.parameters()]), flat(direction), rtol=0, atol=1e-13)
    torch.testing.assert_close(report.losses, problem.start, rtol=1e-12, atol=0)


def test_famo_inside_learns_from_where_the_step_began() -> None:
    """Its progress includes that of the search."""
    ours, theirs = seeded(One), seeded(One)
    sizes = (4, 6, 5)
    solver = mtl.GGA(mtl.FAMO(), **SEARCH, seed=2)
    solver.step(domain_objective(ours, sizes=sizes), torch.optim.SGD(ours.parameters(), lr=0.05))
    famo, parameters = Famo(3), list(theirs.parameters())
    problem = Problem(lambda: losses_of(theirs, sizes)(0), parameters, 6)
    for p, d in zip(parameters, Gga(famo, 2, "independent", range(1)).direction(problem), strict=True):
        p.data = p.data - 0.05 * d
    famo.after(problem)
    torch.testing.assert_close(solver.inner.logits.detach(), famo.logits.detach(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: mtl.SAM(s, rho=0.1)], ids=["gga", "sam(gga)"])
def test_resume_in_the_window_is_exact(after: int, wrap) -> None:
    """The counter and the generator go on where they stood, whatever seed the new solver had."""
    make = lambda seed: wrap(mtl.GGA(mtl.NashMTL(), **{**SEARCH, "start_step": 2, "end_step": 4}, seed=seed))  # noqa: E731
    model, solver = seeded(One), make(1)
    if isinstance(solver, mtl.SAM):
        solver.reseed(1)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    run = lambda s, m, o, seeds: [s.step(domain_objective(m, seed), o) for seed in seeds]  # noqa: E731
    run(solver, model, optimizer, range(after))
    file = io.BytesIO()
    torch.save([solver.state_dict(), model.state_dict(), optimizer.state_dict()], file)
    first = run(solver, model, optimizer, range(after, 6))
    file.seek(0)
    states = torch.load(file, weights_only=True)
    again, resumed = seeded(One, seed=99), make(77)
    stepper = OPTIMIZERS["adam"](again.parameters())
    for part, state in zip((resumed, again, stepper), states, strict=True):
        part.load_state_dict(state)
    second = run(resumed, again, stepper, range(after, 6))
    assert torch.equal(*(flat([p.detach() for p in m.parameters()]) for m in (model, again)))
    assert [r.metrics for r in first] == [r.metrics for r in second]
    assert sum("gga/accepted" in r.metrics for r in second) == 5 - max(after, 2)


def test_batch_norm_moves_once_and_as_at_theta() -> None:
    ours, plain = (seeded(lambda: One(nn.BatchNorm2d(3))) for _ in range(2))
    objective = domain_objective(ours)
    plain(torch.cat([x for x, _ in objective.minibatches]))
    report = mtl.GGA(mtl.FAMO(), **SEARCH).step(objective, torch.optim.SGD(ours.parameters(), lr=0.1))
    assert report.metrics["gga/accepted"] > 0
    for mine, theirs in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-15)


def test_frozen_parameters_stay() -> None:
    model = seeded(One)
    model.trunk[0].weight.requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    solver = mtl.GGA(mtl.Equal(), **SEARCH, parameters=["trunk.*"], loss_tolerance=9.0)
    report = solver.step(domain_objective(model), torch.optim.SGD(model.parameters(), lr=0.0))
    assert report.metrics["gga/accepted"] > 0
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert moved == [False, True, True, True, False, False]


def test_a_zero_gradient_has_cosine_zero_and_is_searched_from() -> None:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    objective = mtl.Objective(lambda: [(theta**2).sum(), (theta**2).sum() * 2], [theta])
    report = mtl.GGA(mtl.Equal(), **SEARCH).step(objective, torch.optim.SGD([theta], lr=0.0))
    assert report.metrics["gga/cosine"] == pytest.approx(1.0)
    assert report.metrics["gga/accepted"] >= 1
    assert theta.detach().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_evaluates_and_keeps_the_same_point(dtype: torch.dtype) -> None:
    """What theta becomes is a candidate to the last bit, and its cosine is the one that was logged."""
    model = seeded(Heads, dtype=dtype)
    visited = []
    model.register_forward_pre_hook(
        lambda *_: visited.append(flat([p.detach() for p in model.parameters()]).clone())
    )
    objective = task_objective(model, dtype=dtype)
    report = mtl.GGA(mtl.Equal(), **SEARCH, loss_tolerance=9.0).step(
        objective, torch.optim.SGD(model.parameters(), lr=0.0)
    )
    assert report.metrics["gga/accepted"] > 0
    theta = flat([p.detach() for p in model.parameters()])
    assert torch.equal(visited[-1], theta)
    assert any(torch.equal(theta, point) for point in visited[1:-1])
    cosine = mtl.Oracle(objective).jacobian().cosine()
    assert float(cosine.min()) == report.metrics["gga/cosine"]
    assert len(TASKS) == len(cosine)
