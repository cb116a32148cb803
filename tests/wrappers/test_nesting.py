"""Every solver inside every wrapper: what must hold whatever is nested in what."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from problems import Heads, One, domain_objective, seeded, task_objective
from reference import flat
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mtlsuite as mtl

CLASSES = {
    "equal": mtl.Equal,
    "nash_mtl": mtl.NashMTL,
    "famo": mtl.FAMO,
    "sam": mtl.SAM,
    "sage": mtl.SAGE,
    "disam": mtl.DISAM,
    "samo": mtl.SAMO,
    "gsam": mtl.GSAM,
    "sagm": mtl.SAGM,
    "gga": mtl.GGA,
    "gga_l": mtl.GGAL,
    "gradient_equilibrium": mtl.GradientEquilibrium,
    "arithmetic": mtl.Arithmetic,
    "fish": mtl.Fish,
}


def wrapped(solver: mtl.Solver, spec: dict) -> mtl.Solver:
    for entry in reversed(spec["wrap"]):
        options = {key: value for key, value in entry.items() if key != "name"}
        solver = CLASSES[entry["name"]](solver, **options)
    return solver


def by_hand(spec: dict, seed: int = 0) -> mtl.Solver:
    solver = wrapped(CLASSES[spec["base"]](n_sources=3), spec)
    solver.reseed(seed)
    return solver


def train(solver: mtl.Solver, model: nn.Module, optimizer, seeds) -> list[mtl.StepReport]:
    return [solver.step(task_objective(model, seed), optimizer) for seed in seeds]


def values(model: nn.Module) -> Tensor:
    return flat([p.detach() for p in model.parameters()]).clone()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def test_yaml_and_python_are_the_same_solver(nesting: dict) -> None:
    found = []
    for solver in (mtl.build_solver(nesting, n_sources=3, seed=5), by_hand(nesting, seed=5)):
        model = seeded(Heads)
        reports = train(solver, model, adam(model), range(3))
        assert all(report.losses.isfinite().all() for report in reports)
        found.append(values(model))
    assert found[0].isfinite().all()
    assert torch.equal(*found)


def test_learning_rate_zero_leaves_the_parameters(nesting: dict) -> None:
    model = seeded(Heads)
    start = values(model)
    train(mtl.build_solver(nesting), model, torch.optim.SGD(model.parameters(), lr=0.0), range(2))
    moves = sum(entry.get("radius", 0) * entry.get("n_search", 0) for entry in nesting["wrap"])
    assert float((values(model) - start).abs().max()) <= 4 * moves  # gga alone moves them, by so much at most


def test_resume_is_exact(nesting: dict) -> None:
    """Through a file, mid-run, the generator included."""
    model = seeded(Heads)
    solver, optimizer = mtl.build_solver(nesting, n_sources=3, seed=1), adam(model)
    train(solver, model, optimizer, range(3))
    file = io.BytesIO()
    torch.save([solver.state_dict(), model.state_dict(), optimizer.state_dict()], file)
    train(solver, model, optimizer, range(3, 6))

    file.seek(0)
    solver_state, model_state, optimizer_state = torch.load(file, weights_only=True)
    again = seeded(Heads, seed=99)
    again.load_state_dict(model_state)
    resumed, stepper = mtl.build_solver(nesting, seed=77), adam(again)  # K only from the state
    resumed.load_state_dict(solver_state)
    stepper.load_state_dict(optimizer_state)
    train(resumed, again, stepper, range(3, 6))
    assert torch.equal(values(again), values(model))


def test_a_state_in_memory_is_a_snapshot(typical: dict) -> None:
    """Later steps change neither the state that was taken nor a second solver that loaded it."""
    model = seeded(Heads)
    start = copy.deepcopy(model.state_dict())
    solver = mtl.build_solver(typical, n_sources=3)
    stepper = torch.optim.SGD(model.parameters(), lr=0.05)
    train(solver, model, stepper, range(2))
    state = solver.state_dict()
    model.load_state_dict(start)
    train(solver, model, stepper, range(3))
    expected = values(model)
    for _ in range(2):
        model.load_state_dict(start)
        solver.load_state_dict(state)
        train(solver, model, stepper, range(3))
        assert torch.equal(values(model), expected)


def test_a_deep_copy_goes_its_own_way(typical: dict) -> None:
    model = seeded(Heads)
    solver, optimizer = mtl.build_solver(typical, n_sources=3), adam(model)
    train(solver, model, optimizer, range(2))
    twin, twin_model = copy.deepcopy(solver), copy.deepcopy(model)
    twin_optimizer = adam(twin_model)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(solver, model, optimizer, range(2, 5))
    train(twin, twin_model, twin_optimizer, range(2, 5))
    assert torch.equal(values(model), values(twin_model))


@pytest.mark.parametrize("graph", ["joint", "separate"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_moves_once_a_step(typical: dict, graph: str, momentum: float | None) -> None:
    """As much as in one plain forward of the same minibatches, whatever the solver evaluates."""
    model = seeded(lambda: One(nn.BatchNorm2d(3, momentum=momentum)))
    solver = mtl.build_solver(typical)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        plain = copy.deepcopy(model)
        objective = domain_objective(model, seed, graph)
        inputs = [x for x, _ in objective.minibatches]
        for x in [torch.cat(inputs)] if graph == "joint" else inputs:
            plain(x)
        solver.step(objective, optimizer)
        for (name, ours), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=name)
        assert model.trunk[1].track_running_stats


def test_batch_norm_in_eval_mode_does_not_move(typical: dict) -> None:
    model = seeded(lambda: One(nn.BatchNorm2d(3)))
    model.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    mtl.build_solver(typical).step(domain_objective(model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert not any(m.training for m in model.modules())


def test_tracking_instance_norm_moves_once_a_step() -> None:
    model = seeded(lambda: One(nn.InstanceNorm2d(3, track_running_stats=True)))
    plain = copy.deepcopy(model)
    objective = domain_objective(model, graph="joint")
    plain(torch.cat([x for x, _ in objective.minibatches]))
    mtl.SAM(mtl.FAMO()).step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


class Allocations(TorchDispatchMode):
    """Operations that return a fresh tensor of at least ``size`` entries."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs or {}))}
        for t in _tensors(result):
            fresh = t.untyped_storage().data_ptr() not in known and t.device.type != "meta"
            if fresh and t.numel() >= self.size and "set_" not in str(func):
                self.found.append(str(func))
        return result


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def test_no_large_allocation_after_the_first_steps(nesting: dict) -> None:
    layers = lambda: nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))  # noqa: E731
    model = seeded(layers)
    n_entries = sum(p.numel() for p in model.parameters())
    inputs = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solver = mtl.build_solver(nesting)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    slots = []
    for step in range(5):
        losses = lambda: [(model(x) ** 2).mean() + 1 for x in inputs]  # noqa: E731
        with Allocations(n_entries) as allocations:
            solver.step(mtl.Objective(losses, model.parameters()), optimizer)
        slots.append(len(solver._pool._slots))
        assert step < 2 or not allocations.found
    assert len(set(slots[1:])) == 1


def test_what_the_user_keeps_is_never_overwritten(typical: dict) -> None:
    kept: list[tuple[str, object, Tensor]] = []

    class Keeper(mtl.Equal):
        def direction(self, oracle):
            rows = oracle.jacobian().rows
            direction = super().direction(oracle)
            vector = direction.vector
            for name, tensor in {
                "vector": vector,
                "slice": vector[3:9],
                "detached": vector.detach(),
                "views": oracle.space.views(vector)[0],
                "row": rows[1],
                "gradient": oracle.mean_gradient().view(-1, 1),
                "shared": oracle.jacobian().shared,
            }.items():
                kept.append((name, tensor, tensor.clone()))
            kept.append(("numpy", torch.from_numpy(vector.numpy()[2:4]), vector[2:4].clone()))
            return mtl.Direction(vector.clone())

    model = seeded(Heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    solver = wrapped(Keeper(), typical)
    for seed in range(4):
        report = solver.step(task_objective(model, seed), optimizer)
        gradient = next(model.parameters()).grad
        kept.append(("losses", report.losses, report.losses.clone()))
        kept.append(("grad", gradient, gradient.clone()))
    for name, tensor, copy_ in kept:
        assert torch.equal(tensor, copy_), name


def test_the_number_of_sources_may_change() -> None:
    """Domains that come and go: nothing was said about K."""
    for spec in ("equal", "nash_mtl"):
        solver = mtl.build_solver({"base": spec, "wrap": ["sage", "sam"]})
        model = seeded(One)
        for sizes in ((4, 4), (3, 2, 5), (6,), (4, 4)):
            report = solver.step(domain_objective(model, sizes=sizes), adam(model))
            assert report.losses.shape == (len(sizes),)
            assert values(model).isfinite().all()


def test_one_source_works_everywhere(typical: dict) -> None:
    model = seeded(One)
    solver = mtl.build_solver(typical, n_sources=1)
    before = None
    for _ in range(5):
        report = solver.step(domain_objective(model, sizes=(8,)), adam(model))
        before = report.losses if before is None else before
    assert report.losses < before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("wrapper", [mtl.SAM, mtl.SAGE, lambda s: mtl.SAGE(mtl.SAM(s))])
def test_an_exception_inside_leaves_the_parameters(wrapper, dtype: torch.dtype) -> None:
    class Bomb(mtl.Solver):
        name = "bomb"

        def direction(self, oracle):  # noqa: ARG002
            moved = [not torch.equal(p, s) for p, s in zip(model.parameters(), start, strict=True)]
            assert all(moved)
            raise RuntimeError("boom")

    model = seeded(Heads, dtype=dtype).to(memory_format=torch.channels_last)
    start = [p.detach().clone(memory_format=torch.preserve_format) for p in model.parameters()]
    optimizer = adam(model)
    with pytest.raises(RuntimeError, match="boom"):
        wrapper(Bomb()).step(task_objective(model, dtype=dtype), optimizer)
    for p, s in zip(model.parameters(), start, strict=True):
        assert torch.equal(p, s)
        assert p.stride() == s.stride()
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_and_channels_last_train(typical: dict, dtype: torch.dtype) -> None:
    model = seeded(Heads, dtype=dtype).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    reports = [
        mtl.build_solver(typical).step(task_objective(model, dtype=dtype), optimizer) for _ in range(6)
    ]
    assert reports[-1].losses.sum() < reports[0].losses.sum()


def test_layout_does_not_change_the_direction() -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = seeded(lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.Flatten())).to(memory_format=layout)
        inputs = torch.randn(2, 5, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        losses = lambda: [(model(x) ** 2).mean() for x in inputs]  # noqa: B023, E731
        objective = mtl.Objective(losses, model.parameters())
        mtl.SAGE(mtl.NashMTL(), gamma=0.0).step(objective, torch.optim.SGD(model.parameters(), lr=0.1))
        found.append(values(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_one_generator_serves_all_that_are_nested() -> None:
    mine = torch.Generator().manual_seed(12)
    solver = mtl.SAGE(mtl.SAGE(mtl.Equal()), generator=mine)
    assert solver.generator is mine
    assert solver.inner.generator is mine
    assert solver.inner.inner.generator is mine
    other = torch.Generator().manual_seed(3)
    solver.generator = other
    assert solver.inner.inner.generator is other


def test_the_noise_of_two_nested_wrappers_is_independent() -> None:
    """Were both to start from the same seed, the sum would have twice, not sqrt(2) times, the spread."""
    model = seeded(Heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def gradient(gamma: float, inner_gamma: float) -> Tensor:
        inner = mtl.SAGE(mtl.Equal(), rho=0.0, gamma=inner_gamma)
        mtl.SAGE(inner, rho=0.0, gamma=gamma).step(task_objective(model), optimizer)
        return flat([p.grad for p in model.parameters()]).clone()

    quiet, outer, both = gradient(0.0, 0.0), gradient(1.0, 0.0), gradient(1.0, 1.0)
    ratio = (both - quiet).norm() / (outer - quiet).norm()
    assert float(ratio) == pytest.approx(2**0.5, rel=0.25)


def test_reseed_starts_anew() -> None:
    model = seeded(Heads)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    solver = mtl.SAGE(mtl.Equal(), gamma=1.0, seed=4)

    def gradient() -> Tensor:
        solver.step(task_objective(model), optimizer)
        return flat([p.grad for p in model.parameters()]).clone()

    first, second = gradient(), gradient()
    solver.reseed(4)
    assert torch.equal(gradient(), first)
    assert not torch.equal(first, second)
    solver.generator = torch.Generator().manual_seed(4)
    assert torch.equal(gradient(), first)


@pytest.mark.parametrize(
    ("state_of", "loaded_by"),
    [
        ({"base": "equal"}, {"base": "famo"}),
        ({"base": "nash_mtl"}, {"base": "equal"}),
        ({"base": "equal", "wrap": ["sam"]}, {"base": "equal"}),
        ({"base": "equal"}, {"base": "equal", "wrap": ["sam"]}),
        ({"base": "equal", "wrap": ["sam"]}, {"base": "equal", "wrap": ["sage"]}),
        ({"base": "famo", "wrap": ["sam"]}, {"base": "equal", "wrap": ["sam"]}),
        ({"base": "famo", "wrap": ["sam", "sage"]}, {"base": "famo", "wrap": ["sage", "sam"]}),
    ],
)
def test_the_state_of_another_solver_is_refused_untouched(state_of: dict, loaded_by: dict) -> None:
    state = mtl.build_solver(state_of, n_sources=3, seed=1).state_dict()
    solver = mtl.build_solver(loaded_by, n_sources=3, seed=2)
    before = solver.generator.get_state()
    with pytest.raises(mtl.UsageError, match="state"):
        solver.load_state_dict(state)
    assert torch.equal(solver.generator.get_state(), before)


@pytest.mark.parametrize("state", [{}, {"model": 1}, {"solver": "equal"}])
def test_no_state_at_all_is_refused(state: dict) -> None:
    with pytest.raises(mtl.UsageError, match=r"no state|not of"):
        mtl.Equal().load_state_dict(state)
    with pytest.raises(mtl.UsageError, match=r"no state|not of"):
        mtl.SAM(mtl.Equal()).load_state_dict(state)


def nan_objective(model, what: str, position: int = 1) -> mtl.Objective:
    """Source ``position`` of three has a NaN loss, or a finite loss whose gradient is infinite."""
    inner = task_objective(model)
    parameter = model.trunk[0].bias

    def losses():
        found = list(inner.losses())
        at_zero = (parameter - parameter.detach()).sum()
        bad = {"loss": found[position] * float("nan"), "gradient": found[position] + at_zero.abs().sqrt()}
        bad["infinite"] = found[position] + float("inf")
        found[position] = bad[what]
        return found

    return mtl.Objective(
        losses, model.shared_parameters(), model.specific_parameters(), names=list("abc"), modules=[model]
    )


@pytest.mark.parametrize("what", ["loss", "gradient", "infinite"])
def test_not_finite_raises_and_leaves_everything(typical: dict, what: str) -> None:
    model = seeded(Heads)
    solver, optimizer = mtl.build_solver(typical), adam(model)
    train(solver, model, optimizer, range(2))
    start, state = values(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(mtl.NonFiniteError, match="'b'"):
        solver.step(nan_objective(model, what), optimizer)
    assert torch.equal(values(model), start)
    for ours, theirs in zip(_tensors(optimizer.state_dict()), _tensors(state), strict=True):
        assert torch.equal(ours, theirs)
    train(solver, model, optimizer, [2])
    assert values(model).isfinite().all()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_skip_goes_on(typical: dict, what: str) -> None:
    model = seeded(Heads)
    solver = mtl.build_solver({**typical, "on_nonfinite": "skip"})
    optimizer = adam(model)
    train(solver, model, optimizer, range(2))
    start = values(model)
    report = solver.step(nan_objective(model, what), optimizer)
    assert report.metrics == {f"{solver.name}/skipped": 1.0}
    assert report.losses.shape == (3,)
    assert bool(report.losses.isfinite().all()) == (what == "gradient")
    assert torch.equal(values(model), start)
    report = train(solver, model, optimizer, [2])[0]
    assert f"{solver.name}/skipped" not in report.metrics
    assert values(model).isfinite().all()
    assert not torch.equal(values(model), start)
