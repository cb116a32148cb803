"""SAGE: the ascent against a plain loop, the noise by its statistics."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from problems import (
    OPTIMIZERS,
    Heads,
    One,
    domain_batches,
    domain_objective,
    mse,
    seeded,
    task_losses,
    task_objective,
)
from reference import Equal, Famo, Nash, Sage, Sam, flat, gradient, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mtlsuite as mtl
from mtlsuite.core.oracle import Oracle
from mtlsuite.wrappers import ascent


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("polar", ["exact", "newton_schulz"])
@pytest.mark.parametrize(("scale", "rho"), [("weight_norm", 0.1), ("none", 0.2)])
def test_ten_steps_of_the_ascent(optimizer: str, polar: str, scale: str, rho: float) -> None:
    ours, theirs = seeded(Heads), seeded(Heads)
    solver = mtl.SAGE(mtl.Equal(), rho=rho, gamma=0.0, polar=polar, scale=scale)
    stepper = OPTIMIZERS[optimizer](ours.parameters())
    for seed in range(10):
        solver.step(task_objective(ours, seed), stepper)
    parameters = list(theirs.parameters())
    rule = Sage(Equal([1 / 3] * 3), rho, polar, scale)
    train(rule, task_losses(theirs), range(10), parameters, 4, OPTIMIZERS[optimizer](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)


INSIDE = {
    "nash_mtl": (lambda: mtl.NashMTL(), lambda: Nash()),
    "famo": (lambda: mtl.FAMO(), lambda: Famo(3)),
    "sam": (lambda: mtl.SAM(mtl.Equal(), rho=0.2), lambda: Sam(Equal([1 / 3] * 3), 0.2)),
    "sage": (
        lambda: mtl.SAGE(mtl.FAMO(), rho=0.02, gamma=0.0, polar="exact"),
        lambda: Sage(Famo(3), 0.02),
    ),
}


@pytest.mark.parametrize("inside", INSIDE)
def test_ten_steps_around_other_solvers(inside: str) -> None:
    make, reference = INSIDE[inside]
    ours, theirs = seeded(Heads), seeded(Heads)
    solver, stepper = mtl.SAGE(make(), gamma=0.0), OPTIMIZERS["adam"](ours.parameters())
    for seed in range(10):
        solver.step(task_objective(ours, seed), stepper)
    parameters = list(theirs.parameters())
    rule = Sage(reference(), 0.05, polar="newton_schulz")
    train(rule, task_losses(theirs), range(10), parameters, 4, OPTIMIZERS["adam"](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)


@pytest.mark.parametrize("graph", ["joint", "separate"])
def test_ten_steps_on_domains(graph: str) -> None:
    ours, theirs = seeded(One), seeded(One)
    solver, stepper = mtl.SAGE(mtl.Equal(), gamma=0.0), OPTIMIZERS["sgd"](ours.parameters())
    for seed in range(10):
        solver.step(domain_objective(ours, seed, graph), stepper)
    parameters = list(theirs.parameters())
    rule = Sage(Equal([1 / 4] * 4), 0.05, polar="newton_schulz")
    losses = lambda seed: [mse(theirs(x), y) for x, y in domain_batches(seed)]  # noqa: E731
    train(rule, losses, range(10), parameters, len(parameters), OPTIMIZERS["sgd"](parameters))
    torch.testing.assert_close(flat(list(ours.parameters())), flat(parameters), rtol=0, atol=1e-8)


def mean_cosine(model: Heads, seed: int = 0) -> float:
    """S by hand: over all parameters, zeros where a task does not reach."""
    rows = [flat(gradient(loss, list(model.parameters()))) for loss in task_losses(model)(seed)]
    pairs = [float(a @ b / (a.norm() * b.norm())) for a, b in combinations(rows, 2)]
    return sum(pairs) / len(pairs)


def direction_of(solver: mtl.Solver, model: nn.Module, objective: mtl.Objective) -> torch.Tensor:
    solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    return flat([p.grad for p in model.parameters()]).clone()


SIZES = [(2, 3), 3, 2, 2]


@pytest.mark.parametrize("inner", [mtl.Equal, mtl.NashMTL, mtl.FAMO])
def test_noise_has_the_right_spread_on_every_entry(inner) -> None:
    """A matrix, a bias and two heads; the losses are linear, so the gradients are known by hand."""
    g = torch.Generator().manual_seed(0)
    matrix, bias, *heads = (
        torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in [(2, 3), 3, 2, 2]
    )
    parameters = [matrix, bias, *heads]
    rows = torch.randn(2, 13, generator=g, dtype=torch.float64)
    rows[0, 11:] = rows[1, 9:11] = 0

    def direction(solver: mtl.Solver) -> torch.Tensor:
        losses = lambda: 5 + rows @ torch.cat([p.flatten() for p in parameters])  # noqa: E731
        objective = mtl.Objective(losses, shared=[matrix, bias], specific=[[head] for head in heads])
        solver.step(objective, torch.optim.SGD(parameters, lr=0.0))
        return flat([p.grad for p in parameters]).clone()

    gamma, draws = 0.5, 400
    quiet = direction(mtl.SAGE(inner(), gamma=0.0))
    noise = torch.stack([direction(mtl.SAGE(inner(), gamma=gamma, seed=s)) - quiet for s in range(draws)])
    std = gamma * (1 - float(torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)))
    assert float(noise.std()) == pytest.approx(std, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=4 * std / noise.numel() ** 0.5)
    # entry by entry: an estimated standard deviation spreads by std / sqrt(2 n), a mean by std / sqrt(n)
    assert float((noise.std(0) / std - 1).abs().max()) < 5 / (2 * draws) ** 0.5
    assert float(noise.mean(0).abs().max()) < 5 * std / draws**0.5
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < 6 / draws**0.5


def test_metrics_are_what_they_say() -> None:
    model = seeded(Heads)
    solver = mtl.SAGE(mtl.Equal(), rho=0.05, gamma=0.25, polar="exact")
    report = solver.step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.0))
    cosine = mean_cosine(model)
    expected = {"sage/cosine": cosine, "sage/noise_std": 0.25 * (1 - cosine)}
    lengths = []
    for p in model.parameters():
        rank = min(p.reshape(len(p), -1).shape) if p.dim() > 1 else 1
        if p is model.heads["b"].weight or p is model.trunk[0].weight:
            assert rank in (1, 3)
        lengths.append(0.05 * float(p.detach().norm()) * rank**0.5 if p.dim() > 1 else 0.05)
    expected["sage/perturbation_norm"] = sum(length**2 for length in lengths) ** 0.5
    assert report.metrics == pytest.approx(expected)


def test_one_source_gets_no_noise() -> None:
    model = seeded(One)
    noisy, quiet = (
        direction_of(mtl.SAGE(mtl.Equal(), gamma=g), model, domain_objective(model, sizes=(6,)))
        for g in (9.0, 0.0)
    )
    assert torch.equal(noisy, quiet)
    solver = mtl.SAGE(mtl.Equal(), gamma=9.0)
    report = solver.step(domain_objective(model, sizes=(6,)), torch.optim.SGD(model.parameters(), lr=0.0))
    assert report.metrics["sage/cosine"] == 1.0
    assert report.metrics["sage/noise_std"] == 0.0


def test_seed_decides_the_noise() -> None:
    model = seeded(Heads)
    a, b, c = (
        direction_of(mtl.SAGE(mtl.Equal(), gamma=1.0, seed=seed), model, task_objective(model))
        for seed in (3, 3, 4)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_global_generator_is_left_alone() -> None:
    model = seeded(Heads)
    before = torch.get_rng_state()
    direction_of(mtl.SAGE(mtl.Equal(), gamma=1.0), model, task_objective(model))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_not_clipped_with_the_direction() -> None:
    """Nash clips its shared part to norm 1; the noise comes after it."""
    model = seeded(Heads)
    shared = sum(p.numel() for p in model.shared_parameters())
    noisy = direction_of(mtl.SAGE(mtl.NashMTL(), gamma=100.0), model, task_objective(model))
    assert float(noisy[:shared].norm()) > 10


def relative_perturbations(model: nn.Sequential, solver: mtl.Wrapper, inputs, targets) -> list[float]:
    """||eps_l|| / ||W_l|| as a solver inside finds them, and the relative change of the function."""
    start = [p.detach().clone() for p in model.parameters()]
    reference = model(inputs).detach()
    found = []

    class Spy(mtl.Equal):
        def direction(self, oracle):
            pairs = zip(model.parameters(), start, strict=True)
            found.extend(float((p - s).detach().norm() / s.norm()) for p, s in pairs)
            found.append(float((model(inputs).detach() - reference).norm() / reference.norm()))
            return super().direction(oracle)

    solver.inner = Spy()
    objective = mtl.Objective(lambda: [mse(model(x), targets) for x in (inputs, -inputs)], model.parameters())
    solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    return found


@pytest.mark.parametrize("polar", ["exact", "newton_schulz"])
def test_rescaling_two_layers_leaves_the_relative_perturbation(polar: str) -> None:
    def mlp(a: float):
        sizes = [(6, 8), (8, 5), (5, 3)]
        linear = lambda: [nn.Linear(m, n, bias=False) for m, n in sizes]  # noqa: E731
        first, second, third = seeded(lambda: nn.ModuleList(linear()))
        model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        with torch.no_grad():
            model[0].weight.mul_(a)
            model[2].weight.div_(a)
        return model

    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 6, generator=g, dtype=torch.float64)
    targets = torch.randn(9, 3, generator=g, dtype=torch.float64)

    def seen(make, a):
        return torch.tensor(relative_perturbations(mlp(a), make(), inputs, targets))

    sage = lambda: mtl.SAGE(mtl.Equal(), rho=0.1, gamma=0.0, polar=polar)  # noqa: E731
    torch.testing.assert_close(seen(sage, 7.0), seen(sage, 1.0), rtol=1e-9, atol=0)
    sam = lambda: mtl.SAM(mtl.Equal(), rho=0.1)  # noqa: E731
    assert float((seen(sam, 7.0) / seen(sam, 1.0) - 1).abs().max()) > 0.5


@pytest.mark.parametrize("polar", ["exact", "newton_schulz"])
def test_tensors_without_gradient_are_not_moved(polar: str) -> None:
    g = torch.Generator().manual_seed(0)
    used, idle, tiny = (
        torch.randn(3, 4, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    idle_vector = torch.randn(4, generator=g, dtype=torch.float64, requires_grad=True)
    start = {id(p): p.detach().clone() for p in (used, idle, tiny, idle_vector)}
    moved = {}

    class Spy(mtl.Equal):
        def direction(self, oracle):
            moved.update({id(p): not torch.equal(p.detach(), start[id(p)]) for p in oracle.space.parameters})
            return super().direction(oracle)

    objective = mtl.Objective(
        lambda: [(used**2).sum() + (idle * 0).sum(), used.sum() + 1e-14 * tiny.sum()],
        shared=[used, idle, tiny, idle_vector],
    )
    optimizer = torch.optim.SGD([used, idle, tiny, idle_vector], lr=0.0)
    mtl.SAGE(Spy(), gamma=0.0, polar=polar).step(objective, optimizer)
    assert [moved[id(p)] for p in (used, idle, tiny, idle_vector)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: mtl.SAGE(mtl.Equal()), (2, 4)),
        (lambda: mtl.SAGE(mtl.Equal(), gamma=0.0), (2, 2)),
        (lambda: mtl.SAGE(mtl.Equal(), rho=0.0), (1, 3)),
        (lambda: mtl.SAGE(mtl.NashMTL()), (2, 6)),
        (lambda: mtl.SAGE(mtl.NashMTL(), rho=0.0), (1, 3)),
        (lambda: mtl.SAGE(mtl.FAMO()), (3, 4)),
        (lambda: mtl.SAGE(mtl.SAM(mtl.Equal())), (3, 5)),
        (lambda: mtl.SAM(mtl.SAGE(mtl.Equal())), (3, 5)),
    ],
)
def test_costs_on_one_graph(passes, make, expected: tuple[int, int]) -> None:
    model = passes.watch(seeded(Heads))
    make().step(task_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.counts == expected


@pytest.mark.parametrize(("graph", "second"), [("auto", [18]), ("separate", [4, 6, 5, 3])])
def test_costs_a_small_pass_a_domain_and_one_of_all(passes, graph: str, second: list[int]) -> None:
    model = passes.watch(seeded(One))
    objective = domain_objective(model, graph=graph)
    mtl.SAGE(mtl.Equal()).step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    assert passes.sizes == [4, 6, 5, 3, *second]
    assert passes.backwards == passes.forwards


@pytest.mark.parametrize("polar_dtype", ["float32", "bfloat16"])
def test_polar_dtype_is_only_that_of_the_iteration(polar_dtype: str) -> None:
    model = seeded(Heads)
    exact = direction_of(mtl.SAGE(mtl.Equal(), gamma=0.0), model, task_objective(model))
    rough = direction_of(
        mtl.SAGE(mtl.Equal(), gamma=0.0, polar_dtype=polar_dtype), model, task_objective(model)
    )
    assert rough.dtype == torch.float64
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0, atol={"float32": 1e-5, "bfloat16": 0.2}[polar_dtype])


@pytest.mark.parametrize("scale", ["weight_norm", "none"])
def test_the_ascent_never_waits_for_the_device(scale: str) -> None:
    """Nothing is copied from the host or read back, both of which synchronise a GPU."""
    called: set[str] = set()

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.add(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    oracle = Oracle(task_objective(seeded(Heads)))
    oracle.mean_gradient()
    climb = ascent.SAGEAscent(scale=scale)
    with Recorded():
        climb(oracle)
    assert "baddbmm" in called
    assert not called & {"lift_fresh", "_local_scalar_dense", "nonzero", "is_nonzero", "equal"}


@pytest.mark.slow
def test_compiled_is_the_same_to_rounding() -> None:
    model = seeded(Heads)
    plain, compiled = (
        direction_of(mtl.SAGE(mtl.Equal(), gamma=0.0, compile=c), model, task_objective(model))
        for c in (False, True)
    )
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-12)


def test_compile_reaches_the_polar_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    factors = ascent.polar_factors
    monkeypatch.setattr(
        ascent, "polar_factors", lambda m, *a, compile, **k: asked.append(compile) or factors(m, *a, **k)
    )
    model = seeded(Heads)
    for compile_ in (True, False):
        direction_of(mtl.SAGE(mtl.Equal(), gamma=0.0, compile=compile_), model, task_objective(model))
    assert asked == [True, False]


def test_compile_is_not_for_the_exact_factor() -> None:
    with pytest.raises(mtl.UsageError, match="compile: allowed only with 'polar: newton_schulz'"):
        mtl.SAGE(mtl.Equal(), polar="exact", compile=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rho", -1), ("rho", "big"), ("rho", True), ("gamma", -1e-9), ("gamma", float("nan")),
        ("polar", "qr"), ("scale", "weights"), ("polar_dtype", "float16"), ("seed", 0.5),
        ("on_nonfinite", "stop"),
    ],
)  # fmt: skip
def test_bad_options(option: str, value: object) -> None:
    with pytest.raises(mtl.UsageError, match=rf"sage.*{option}.*{value!r}"):
        mtl.SAGE(mtl.Equal(), **{option: value})


def test_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(mtl.UsageError, match=r"'gama'.*did you mean 'gamma'"):
        mtl.SAGE(mtl.Equal(), gama=1.0)


def test_a_model_of_vectors_alone_moves_as_each_vector_would():
    theta = [torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in ([3.0, -1.0], [2.0])]
    points = []

    def losses() -> list[torch.Tensor]:
        points.append([p.detach().clone() for p in theta])
        return [theta[0] @ torch.tensor([3.0, 4.0], dtype=torch.float64) + 2 * theta[1].sum()]

    solver = mtl.SAGE(mtl.Equal(), rho=0.1, gamma=0.0)
    solver.step(mtl.Objective(losses, shared=theta), torch.optim.SGD(theta, 0.0))
    moved = [q - p for p, q in zip(*points, strict=True)]
    torch.testing.assert_close(moved[0], torch.tensor([0.06, 0.08], dtype=torch.float64))
    torch.testing.assert_close(moved[1], torch.tensor([0.1], dtype=torch.float64))
