"""GSAM and SAGM: by hand, against plain loops over every ascent and solver inside, and what they cost."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from problems import OPTIMIZERS, Heads, One, domain_objective, seeded, task_losses, task_objective
from reference import Equal, Famo, Nash, Problem, Sage, Sam, combine, flat, train
from torch import Tensor

import mtlsuite as mtl

RHO, ALPHA = 0.2, 0.3
WRAPPERS = {"gsam": mtl.GSAM, "sagm": mtl.SAGM}
INNER = {
    "equal": (mtl.Equal, lambda: Equal([1 / 3] * 3)),
    "nash_mtl": (mtl.NashMTL, Nash),
    "famo": (mtl.FAMO, lambda: Famo(3)),
    "famo-here": (lambda: mtl.FAMO(before="here"), lambda: Famo(3, before="here")),
}


class Disam(Sam):
    def epsilon(self, problem: Problem) -> list[Tensor]:
        losses = torch.stack(list(problem.evaluate()))
        spread = losses.mean() - 0.4 * (losses - losses.mean()).square().mean()
        found = torch.autograd.grad(spread, problem.parameters)
        return [self.rho * g / flat(found).norm() for g in found]


ASCENTS = {  # the option, and its displacement in a plain loop
    "sam": ("sam", lambda: Sam(None, RHO)),
    "disam": ({"name": "disam", "rho": 0.1, "lambda": 0.4}, lambda: Disam(None, 0.1)),
    "sage": ({"name": "sage", "polar": "exact"}, lambda: Sage(None, RHO)),
}


class TwoPoints:
    """A gradient at theta, and the direction of ``inner`` at theta + epsilon."""

    def __init__(self, inner, ascent, clean: str) -> None:
        self.inner, self.ascent, self.clean = inner, ascent, clean

    def direction(self, problem: Problem) -> list[Tensor]:
        g = problem.mean_gradient() if self.clean == "mean" else self.inner.direction(problem)
        g = [piece.detach().clone() for piece in g]
        kept = [p.detach().clone() for p in problem.parameters]
        for p, e in zip(problem.parameters, self.displacement(problem, g), strict=True):
            p.data = p.data + e
        there = self.inner.direction(problem)
        for p, old in zip(problem.parameters, kept, strict=True):
            p.data = old
        return self.join(g, there)

    def after(self, problem: Problem) -> None:
        self.inner.after(problem)


class Gsam(TwoPoints):
    def displacement(self, problem: Problem, g: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        return self.ascent.epsilon(problem)

    def join(self, g: list[Tensor], there: list[Tensor]) -> list[Tensor]:
        cosine = torch.nn.functional.cosine_similarity(flat(g), flat(there), dim=0)
        along = cosine * flat(g).norm() / flat(there).norm()
        return [d - ALPHA * (a - along * d) for a, d in zip(g, there, strict=True)]


class Sagm(TwoPoints):
    def displacement(self, problem: Problem, g: list[Tensor]) -> list[Tensor]:
        return [e - ALPHA * a for e, a in zip(self.ascent.epsilon(problem), g, strict=True)]

    def join(self, g: list[Tensor], there: list[Tensor]) -> list[Tensor]:
        return combine([0.5, 0.5], [g, there])


REFERENCES = {"gsam": Gsam, "sagm": Sagm}


def check_ten_steps(name: str, inner: str, ascent: str, clean: str, optimizer: str) -> None:
    (solver_inside, rule_inside), (option, displacement) = INNER[inner], ASCENTS[ascent]
    ours, theirs = seeded(Heads), seeded(Heads)
    solver = WRAPPERS[name](solver_inside(), rho=RHO, alpha=ALPHA, ascent=option, clean=clean)
    stepper = OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        solver.step(task_objective(ours, seed), stepper)
    rule = REFERENCES[name](rule_inside(), displacement(), clean)
    parameters = list(theirs.parameters())
    train(rule, task_losses(theirs), range(10), parameters, 4, OPTIMIZERS[optimizer](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-9)


ALL = list(product(INNER, ASCENTS, ("inner", "mean"), OPTIMIZERS))
SOME = [  # every solver inside and every ascent meet both values of clean and both optimizers
    ("equal", "sam", "inner", "sgd"),
    ("equal", "disam", "inner", "adam"),
    ("equal", "sage", "mean", "sgd"),
    ("nash_mtl", "sam", "mean", "adam"),
    ("nash_mtl", "disam", "inner", "sgd"),
    ("nash_mtl", "sage", "inner", "adam"),
    ("famo", "sam", "inner", "adam"),
    ("famo", "disam", "mean", "sgd"),
    ("famo-here", "sage", "inner", "sgd"),
    ("famo-here", "sam", "mean", "adam"),
]


@pytest.mark.parametrize("case", SOME, ids="-".join)
@pytest.mark.parametrize("name", WRAPPERS)
def test_ten_steps_are_those_of_the_reference(name: str, case: tuple[str, str, str, str]) -> None:
    check_ten_steps(name, *case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ALL if case not in SOME], ids="-".join)
@pytest.mark.parametrize("name", WRAPPERS)
def test_ten_steps_are_those_of_the_reference_always(name: str, case: tuple[str, str, str, str]) -> None:
    check_ten_steps(name, *case)


def gradient_of(solver: mtl.Solver, model: torch.nn.Module, objective: mtl.Objective | None = None) -> Tensor:
    """The direction, as it stands in the gradients after a step of length zero."""
    solver.step(objective or task_objective(model), torch.optim.SGD(model.parameters(), lr=0.0))
    return flat([p.grad for p in model.parameters()]).clone()


def quadratic(theta: Tensor) -> mtl.Objective:
    """Two sources with the mean (x^2 + 4 y^2) / 2."""
    return mtl.Objective(lambda: [theta[0] ** 2, 4 * theta[1] ** 2], [theta])


def at_3_1() -> Tensor:
    return torch.tensor([3.0, 1.0], dtype=torch.float64, requires_grad=True)


def test_gsam_by_hand() -> None:
    """g = (3, 4), so eps = (0.3, 0.4), d_p = (3.3, 5.6), g . d_p = 32.3 and ||d_p||^2 = 42.25."""
    theta = at_3_1()
    solver = mtl.GSAM(mtl.Equal(), rho=0.5, alpha=0.5)
    report = solver.step(quadratic(theta), torch.optim.SGD([theta], lr=0.0))
    expected = [3.3 - 0.5 * (403.2 / 845), 5.6 + 0.5 * (237.6 / 845)]
    assert theta.grad.tolist() == pytest.approx(expected, abs=1e-14)
    assert report.losses.tolist() == [9.0, 4.0]
    assert report.metrics["gsam/perturbation_norm"] == pytest.approx(0.5)


def test_sagm_by_hand() -> None:
    """eps - alpha g = (0.3, 0.4) - 0.05 (3, 4), so d_p = (3.15, 4.8)."""
    theta = at_3_1()
    solver = mtl.SAGM(mtl.Equal(), rho=0.5, alpha=0.05)
    report = solver.step(quadratic(theta), torch.optim.SGD([theta], lr=0.0))
    assert theta.grad.tolist() == pytest.approx([3.075, 4.4], abs=1e-14)
    assert report.metrics["sagm/perturbation_norm"] == pytest.approx(0.25)


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_two_choices_of_clean_differ_by_hand(name: str) -> None:
    """Weights (2, 0) inside: d_p and g see the first source alone, the ascent and ``mean`` see both."""
    found = {}
    for clean in ("inner", "mean"):
        theta = at_3_1()
        inner = mtl.Equal(weights=[2.0, 0.0])
        WRAPPERS[name](inner, rho=0.5, alpha=0.05, clean=clean).step(
            quadratic(theta), torch.optim.SGD([theta], lr=0.0)
        )
        found[clean] = theta.grad.tolist()
    expected = {  # g = (12, 0) or (3, 4); d_p = 4 (3.3, 0) for gsam
        "gsam": {"inner": [13.2, 0.0], "mean": [13.2, -0.05 * 4]},
        "sagm": {"inner": [(12 + 4 * (3.3 - 0.6)) / 2, 0.0], "mean": [(3 + 4 * 3.15) / 2, 2.0]},
    }[name]
    for clean, direction in expected.items():
        assert found[clean] == pytest.approx(direction, abs=1e-13), clean


@pytest.mark.parametrize("inner", [mtl.Equal, mtl.NashMTL, mtl.FAMO])
def test_gsam_without_alpha_is_sam(inner) -> None:
    gsam = gradient_of(mtl.GSAM(inner(), rho=0.3, alpha=0.0), seeded(Heads))
    sam = gradient_of(mtl.SAM(inner(), rho=0.3), seeded(Heads))
    torch.testing.assert_close(gsam, sam, rtol=0, atol=1e-13)  # the mean of rows or one pullback: rounding


@pytest.mark.parametrize("inner", [mtl.Equal, mtl.NashMTL, mtl.FAMO])
def test_sagm_without_alpha_is_the_mean_of_two_gradients(inner) -> None:
    clean, there = (gradient_of(s, seeded(Heads)) for s in (inner(), mtl.SAM(inner(), rho=0.3)))
    sagm = gradient_of(mtl.SAGM(inner(), rho=0.3, alpha=0.0), seeded(Heads))
    torch.testing.assert_close(sagm, (clean + there) / 2, rtol=0, atol=1e-14)


def test_what_gsam_takes_away_is_orthogonal_and_grows_with_alpha() -> None:
    sam, weak, strong = (
        gradient_of(mtl.GSAM(mtl.NashMTL(), rho=0.3, alpha=a, clean="mean"), seeded(Heads))
        for a in (0.0, 0.5, 1.0)
    )
    taken = sam - strong
    assert abs(float(taken @ sam)) < 1e-12 * float(taken.norm() * sam.norm())
    assert taken.norm() > 0.01
    torch.testing.assert_close(sam - weak, 0.5 * taken, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", WRAPPERS)
def test_without_radius_only_the_step_back_is_left(name: str) -> None:
    """rho = 0: GSAM is the solver inside; SAGM looks at theta - alpha g, for x^2 + 4 y^2 at (1 - alpha) x."""
    theta = at_3_1()
    WRAPPERS[name](mtl.Equal(), rho=0, alpha=0.1).step(quadratic(theta), torch.optim.SGD([theta], lr=0.0))
    expected = [3.0, 4.0] if name == "gsam" else [(3 + 2.7) / 2, (4 + 4 * 0.6) / 2]
    assert theta.grad.tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(
    ("inner", "options", "expected"),
    [
        (mtl.Equal, {}, (2, 2)),
        (mtl.Equal, {"clean": "mean"}, (2, 2)),
        (mtl.Equal, {"ascent": "sage"}, (2, 2)),
        (mtl.Equal, {"ascent": "disam"}, (3, 3)),  # its gradient is not the mean one
        (mtl.NashMTL, {}, (2, 6)),  # the ascent takes the mean of the rows
        (mtl.NashMTL, {"clean": "mean"}, (2, 4)),
        (mtl.FAMO, {}, (4, 3)),  # another pullback for the ascent, and a look after the step
        (mtl.FAMO, {"clean": "mean"}, (3, 2)),
    ],
)
def test_costs(passes, name: str, inner, options: dict, expected: tuple[int, int]) -> None:
    model = passes.watch(seeded(Heads))
    WRAPPERS[name](inner(), **options).step(
        task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert passes.counts == expected


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(
    ("ascent", "rho"),
    [("sam", 0.3), ({"name": "sam"}, 0.3), ({"name": "sam", "rho": 0.7}, 0.7), ({"name": "disam"}, 0.3)],
)
def test_the_radius_is_that_of_the_ascent_or_else_the_wrappers(name: str, ascent, rho: float) -> None:
    solver = WRAPPERS[name](mtl.Equal(), rho=0.3, alpha=0.0, ascent=ascent)
    model = seeded(Heads)
    report = solver.step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert report.metrics[f"{name}/perturbation_norm"] == pytest.approx(rho)


@pytest.mark.parametrize("name", WRAPPERS)
def test_adaptive_and_yaml(name: str) -> None:
    entry = {"name": name, "alpha": 0.0, "ascent": {"name": "sam", "rho": 0.5, "adaptive": True}}
    found = gradient_of(mtl.build_solver({"base": "equal", "wrap": [entry]}), seeded(Heads))
    there = gradient_of(mtl.SAM(mtl.Equal(), rho=0.5, adaptive=True), seeded(Heads))
    clean = gradient_of(mtl.Equal(), seeded(Heads))
    expected = there if name == "gsam" else (there + clean) / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_what_the_ascent_logs() -> None:
    model = seeded(Heads)
    solver = mtl.GSAM(mtl.FAMO(), ascent={"name": "disam", "lambda": 0.2})
    assert solver.ascent.lambda_ == 0.2
    report = solver.step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    variance = report.losses.var(correction=0).item()
    assert report.metrics["gsam/loss_variance"] == pytest.approx(variance, rel=1e-12)
    assert "famo/logit_0" in report.metrics


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(
    ("option", "message", "key"),
    [
        ({"ascent": "sagee"}, "unknown ascent 'sagee'.*'sage'", ("ascent", "name")),
        ({"ascent": {"rho": 1.0}}, "'name'", ("ascent",)),
        ({"ascent": 3}, "ascent.*found 3", ("ascent",)),
        ({"ascent": {"name": "sam", "rh": 1}}, "unknown option 'rh'.*'rho'", ("ascent", "rh")),
        ({"ascent": {"name": "sam", "rho": -1}}, "rho.*found -1", ("ascent", "rho")),
        ({"ascent": {"name": "sage", "gamma": 1}}, "unknown option 'gamma'", ("ascent", "gamma")),
        ({"clean": "dirty"}, "clean.*'inner' or 'mean'", ("clean",)),
        ({"rho": -1}, "rho.*found -1", ("rho",)),
        ({"alpha": float("nan")}, "alpha.*found nan", ("alpha",)),
    ],
)
def test_bad_options(name: str, option: dict, message: str, key: tuple[str, ...]) -> None:
    with pytest.raises(mtl.UsageError, match=f"{name}.*{message}") as caught:
        WRAPPERS[name](mtl.Equal(), **option)
    assert caught.value.key == key
    with pytest.raises(mtl.UsageError, match=f"{name}.*{message}") as caught:
        mtl.build_solver({"base": "equal", "wrap": ["sam", {"name": name, **option}]})
    assert caught.value.key == ("wrap", 1, *key)


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_option_is_not_changed_by_its_use(name: str) -> None:
    spec = {"name": "disam", "lambda": 0.2}
    WRAPPERS[name](mtl.Equal(), ascent=spec)
    assert spec == {"name": "disam", "lambda": 0.2}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_zero_gradient_moves_nothing(name: str) -> None:
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    objective = mtl.Objective(lambda: [(theta**2).sum(), (theta**4).sum()], [theta])
    WRAPPERS[name](mtl.Equal()).step(objective, torch.optim.SGD([theta], lr=1.0))
    assert torch.equal(theta.detach(), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_solver_with_a_rhythm_counts_steps_not_questions(name: str) -> None:
    """Weights renewed every second step: those of step 1 are what step 0 found where it was displaced."""
    model, plain = seeded(Heads), seeded(Heads)
    solver = WRAPPERS[name](mtl.NashMTL(update_weights_every=2), rho=0.3, alpha=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = [solver.step(task_objective(model, seed), optimizer).weights for seed in range(3)]
    assert torch.equal(weights[1], weights[0])
    assert not torch.equal(weights[2], weights[1])
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    always = WRAPPERS[name](mtl.NashMTL(), rho=0.3, alpha=0.1).step(task_objective(plain), optimizer)
    assert torch.equal(weights[0], always.weights)


@pytest.mark.parametrize("name", WRAPPERS)
def test_frozen_parameters_are_no_part_of_it(name: str) -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    for model in (ours, theirs):
        model.trunk[0].weight.requires_grad_(False)
    solver = WRAPPERS[name](mtl.FAMO(), rho=RHO, alpha=ALPHA)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
    frozen = ours.trunk[0].weight.clone()
    for seed in range(3):
        solver.step(task_objective(ours, seed), optimizer)
    parameters = [p for p in theirs.parameters() if p.requires_grad]
    rule = REFERENCES[name](Famo(3), Sam(None, RHO), "inner")
    train(rule, task_losses(theirs), range(3), parameters, 3, torch.optim.SGD(parameters, lr=0.05))
    torch.testing.assert_close(
        flat(list(ours.parameters())), flat(list(theirs.parameters())), rtol=0, atol=1e-12
    )
    assert torch.equal(ours.trunk[0].weight, frozen)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("sizes", [(5,), (4, 3), (4, 3, 2)])
def test_any_number_of_domains(name: str, sizes: tuple[int, ...]) -> None:
    model = seeded(One)
    objective = domain_objective(model, sizes=sizes)

    def losses(seed: int) -> list[Tensor]:  # noqa: ARG001
        return list(objective.losses())

    ours = gradient_of(WRAPPERS[name](mtl.Equal(), rho=RHO, alpha=ALPHA), model, objective)
    rule = REFERENCES[name](Equal([1 / len(sizes)] * len(sizes)), Sam(None, RHO), "inner")
    problem = Problem(lambda: losses(0), list(model.parameters()), 6)
    torch.testing.assert_close(ours, flat(rule.direction(problem)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_low_precision_is_near_double(name: str, dtype: torch.dtype, tolerance: float) -> None:
    solver = lambda: WRAPPERS[name](mtl.Equal(), rho=RHO, alpha=ALPHA)  # noqa: E731
    low = seeded(Heads, dtype=dtype)
    high = seeded(Heads, dtype=dtype).double()
    found = gradient_of(solver(), low, task_objective(low, dtype=dtype))
    expected = gradient_of(solver(), high, task_objective(high))
    assert found.dtype == dtype
    assert float((found.double() - expected).norm()) < tolerance * float(expected.norm())


@pytest.mark.parametrize("name", WRAPPERS)
def test_skip_where_only_the_displaced_loss_is_not_finite(name: str) -> None:
    """FAMO inside has been asked at theta already when the second question fails; it forgets the first."""
    model = seeded(Heads)
    start = flat([p.detach() for p in model.parameters()]).clone()
    moved = lambda: not torch.equal(flat([p.detach() for p in model.parameters()]), start)  # noqa: E731
    plain = task_objective(model)

    def losses() -> list[Tensor]:
        first, *rest = plain.losses()
        return [first * (float("nan") if moved() else 1.0), *rest]

    shared, specific = model.shared_parameters(), model.specific_parameters()
    objective = mtl.Objective(losses, shared, specific, names=["a", "b", "c"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    solver = WRAPPERS[name](mtl.FAMO(n_sources=3), on_nonfinite="skip")
    report = solver.step(objective, optimizer)
    assert report.metrics == {f"{name}/skipped": 1.0}
    assert report.losses.isfinite().all()
    assert not moved()
    assert torch.equal(solver.inner.logits.detach(), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(mtl.NonFiniteError, match="'a'"):
        WRAPPERS[name](mtl.FAMO()).step(objective, optimizer)
    assert not moved()
