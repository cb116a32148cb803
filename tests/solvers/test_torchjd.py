"""Every aggregator and scalarizer of the installed TorchJD, against TorchJD asked directly."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest
import torch
from problems import Passes, mse, seeded
from reference import flat
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.core import registry
from mtlsuite.experiments.config import validate
from mtlsuite.solvers._torchjd import classes
from mtlsuite.solvers.torchjd import TorchJD

aggregation = pytest.importorskip(
    "torchjd.aggregation", reason="the extra mtlsuite[torchjd] is not installed"
)
scalarization = pytest.importorskip("torchjd.scalarization")
pytest.importorskip("cvxpy", reason="TorchJD is installed without its optional dependencies")

pytestmark = pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")  # NashMTL, cvxpy

BASES = {"Aggregator", "WeightedAggregator", "GramianWeightedAggregator", "Weighting", "Scalarizer"}
TWO_BATCHES = {"MoDo", "SDMGrad"}
RANDOM = {"GradDrop", "GradVac", "PCGrad", "Random"}
UNWEIGHTED = {"ConFIG", "GradDrop", "TrimmedMean"}
LEARNED = {"UW", "IMTLL"}
LEAST = {"Krum": 3, "TrimmedMean": 3, "NashMTL": 2}  # with the options below


def discovered(room: Any, base: type) -> list[str]:
    """What TorchJD exports, found without our catalogue; a weighting counts where it is no aggregator."""
    names = [name for name in room.__all__ if name not in BASES]
    alone = [n.removesuffix("Weighting") for n in names if n.endswith("Weighting")]
    methods = [n for n in names if issubclass(getattr(room, n), base)]
    return methods + [n for n in alone if n not in names]


METHODS = [
    *(("aggregator", name) for name in discovered(aggregation, aggregation.Aggregator)),
    *(("scalarizer", name) for name in discovered(scalarization, scalarization.Scalarizer)),
]
AGGREGATORS = [name for kind, name in METHODS if kind == "aggregator"]
every = pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(*method, id=" ".join(method), marks=[pytest.mark.slow] * (method[1] == "NashMTL"))
        for method in METHODS
    ],
)
every_aggregator = pytest.mark.parametrize("name", AGGREGATORS)


def options(name: str, k: int = 3) -> dict[str, Any]:
    """Options that must be given, and a few that matter; lists have one entry a source."""
    some = [0.5, 2.0, 1.0][:k]
    return {
        "CAGrad": {"c": 0.4},
        "Constant": {"weights": some},
        "COSMOS": {"lambda_": 0.3, "weights": some},
        "CRMOGM": {"weighting": "GradVac", "alpha": 0.7},
        "DWA": {"steps_per_epoch": 2},
        "ExcessMTL": {"n_warmup_steps": 1},
        "FairGrad": {"alpha": 2.0},
        "Krum": {"n_byzantine": 0, "n_selected": 2},
        "PBI": {"theta": 0.5, "weights": some},
        "STCH": {"mu": 0.5, "weights": some},
        "TrimmedMean": {"trim_number": 1},
        "UPGrad": {"pref_vector": some},
    }.get(name, {})


class Tiny(nn.Module):
    """A shared layer of 8 entries and a head of 3 a task."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 2)
        self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(k))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        features = self.trunk(inputs).tanh()
        return [head(features) for head in self.heads]

    def shared_parameters(self) -> list[Tensor]:
        return list(self.trunk.parameters())

    def specific_parameters(self) -> list[list[Tensor]]:
        return [list(head.parameters()) for head in self.heads]


def batch(seed: int, k: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6, 3, generator=g, dtype=torch.float64)
    targets = [torch.randn(6, 1, generator=g, dtype=torch.float64) + t for t in range(k)]
    return inputs.to(dtype), [target.to(dtype) for target in targets]


def objective(model: Tiny, seed: int) -> mtl.TaskObjective:
    k, dtype = len(model.heads), model.trunk.weight.dtype
    return mtl.TaskObjective(
        model, *batch(seed, k, dtype), [mse] * k, more=lambda draw: [batch(1000 * draw + seed, k, dtype)]
    )


def tiny(k: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tiny:
    return seeded(lambda: Tiny(k), seed, dtype)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def values(model: nn.Module) -> Tensor:
    return flat([p.detach() for p in model.parameters()]).clone()


def train(solver: mtl.Solver, model: Tiny, seeds: range, optimizer: Any = None) -> list[mtl.StepReport]:
    optimizer = optimizer or sgd(model)
    return [solver.step(objective(model, seed), optimizer) for seed in seeds]


def made(kind: str, name: str, k: int = 3, wrap: tuple[str, ...] = (), **more: Any) -> mtl.Solver:
    base = {"name": "torchjd", kind: name, **options(name, k)}
    return mtl.build_solver({"base": base, "wrap": list(wrap)}, **more)


def jacobian(model: Tiny, inputs: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(K,) losses and (K, P) rows, one autograd call a source."""
    parameters = list(model.parameters())
    losses = torch.stack([mse(p, t) for p, t in zip(model(inputs), targets, strict=True)])
    found = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    zeros = [torch.zeros_like(p) for p in parameters]
    rows = [flat([z if g is None else g for g, z in zip(row, zeros, strict=True)]) for row in found]
    return losses.detach(), torch.stack(rows)


# What is offered


def test_every_method_of_torchjd_is_offered() -> None:
    for kind in ("aggregator", "scalarizer"):
        assert set(classes(kind)) == {name for found, name in METHODS if found == kind}
    assert len(METHODS) >= 33


@every
@pytest.mark.parametrize(
    ("k", "dtype"), [(1, torch.float64), (2, torch.float32), (3, torch.float32), (3, torch.float64)]
)
def test_trains_with_any_number_of_sources(kind: str, name: str, k: int, dtype: torch.dtype) -> None:
    model = tiny(k, dtype)
    if k < LEAST.get(name, 1):
        with pytest.raises(mtl.UsageError, match=f"{name} with {k} source"):
            made(kind, name, k, n_sources=k)
        with pytest.raises(mtl.UsageError, match=f"{name} with {k} source"):
            train(made(kind, name, k), model, range(1))
        return
    start = values(model)
    reports = train(made(kind, name, k, n_sources=k), model, range(3))
    assert values(model).isfinite().all()
    assert not torch.equal(values(model), start)
    if name in UNWEIGHTED:
        assert reports[-1].weights is None
    else:
        assert reports[-1].weights.shape == (k,)
        assert reports[-1].weights.isfinite().all()


@pytest.mark.parametrize("kind", ["aggregator", "scalarizer"])
def test_half_precision_parameters(kind: str) -> None:
    model = tiny(2, torch.bfloat16)
    train(made(kind, {"aggregator": "AlignedMTL", "scalarizer": "UW"}[kind]), model, range(2))
    assert values(model).isfinite().all()


# Against TorchJD itself


def draws_like(solver: mtl.Solver) -> None:
    """Seed torch's global generator as the solver is about to."""
    torch.manual_seed(int(torch.randint(2**62, (), generator=solver.generator.clone_state())))


@every_aggregator
def test_shared_part_is_that_of_torchjd_over_many_steps(name: str) -> None:
    model = tiny()
    solver, optimizer = made("aggregator", name, n_sources=3), sgd(model)
    direct = by_hand(name)
    n_shared = sum(p.numel() for p in model.shared_parameters())
    for seed in range(4):
        _, rows = jacobian(model, *batch(seed, 3, torch.float64))
        shared = rows[:, :n_shared]
        with torch.random.fork_rng():
            draws_like(solver)
            if name in TWO_BATCHES:
                one, two = (
                    jacobian(model, *batch(1000 * draw + seed, 3, torch.float64))[1][:, :n_shared]
                    for draw in (1, 2)
                )
                expected = direct(one @ two.T) @ shared
            else:
                expected = direct(shared)
        report = solver.step(objective(model, seed), optimizer)
        found = flat([p.grad for p in model.parameters()])
        torch.testing.assert_close(found[:n_shared], expected, rtol=1e-7, atol=1e-9)
        weights = torch.ones(3, dtype=torch.float64) if name in UNWEIGHTED else report.weights
        torch.testing.assert_close(found[n_shared:], weights @ rows[:, n_shared:], rtol=1e-12, atol=1e-12)


def by_hand(name: str) -> Any:
    given = {k: torch.tensor(v).double() if isinstance(v, list) else v for k, v in options(name).items()}
    if name in TWO_BATCHES:
        return getattr(aggregation, f"{name}Weighting")(**given)
    if name == "CRMOGM":
        inner = aggregation.CRMOGMWeighting(aggregation.GradVacWeighting(), alpha=0.7)
        return aggregation.GramianWeightedAggregator(inner)
    return getattr(aggregation, name)(**given, **({"n_tasks": 3} if name == "NashMTL" else {}))


@pytest.mark.parametrize("name", [name for kind, name in METHODS if kind == "scalarizer"])
def test_direction_is_the_gradient_of_the_scalar_over_many_steps(name: str) -> None:
    model, solver = tiny(), made("scalarizer", name, n_sources=3)
    optimizer = sgd(model)
    given = {k: torch.tensor(v).double() if isinstance(v, list) else v for k, v in options(name).items()}
    given.pop("steps_per_epoch", None)
    takes_shape = name in {*LEARNED, "FAMO"}
    direct = getattr(scalarization, name)(**given, **({"shape": 3} if takes_shape else {})).double()
    learner = torch.optim.Adam(direct.parameters(), lr=0.025) if name in LEARNED else None

    def losses(seed: int) -> Tensor:
        inputs, targets = batch(seed, 3, torch.float64)
        return torch.stack([mse(p, t) for p, t in zip(model(inputs), targets, strict=True)])

    for seed in range(7):
        with torch.random.fork_rng():
            draws_like(solver)
            value = direct(losses(seed))
        expected = flat(torch.autograd.grad(value, list(model.parameters()), retain_graph=True))
        if learner is not None:
            learner.zero_grad()
            value.backward(inputs=list(direct.parameters()))
            learner.step()
        solver.step(objective(model, seed), optimizer)
        found = flat([p.grad for p in model.parameters()])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        if name == "FAMO":
            direct.update(losses(seed).detach())
        if name == "DWA" and seed % 2 == 1:
            direct.step()


# Reproducible, resumable, the same inside wrappers


@every
def test_a_run_follows_from_the_solvers_seed_alone(kind: str, name: str) -> None:
    found = []
    for solver_seed, global_seed in ((3, 0), (3, 1), (4, 0)):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            model = tiny()
            train(made(kind, name, seed=solver_seed), model, range(3))
            assert torch.equal(torch.get_rng_state(), before)
        found.append(values(model))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]) == (name not in RANDOM and name != "CRMOGM")


@every
@pytest.mark.parametrize("wrap", [(), ("sam",), ("sage",)], ids=lambda wrap: "".join(wrap) or "bare")
def test_resume_is_exact(kind: str, name: str, wrap: tuple[str, ...]) -> None:
    model = tiny()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    solver = made(kind, name, wrap=wrap, n_sources=3, seed=1)
    train(solver, model, range(3), optimizer)
    file = io.BytesIO()
    torch.save([solver.state_dict(), model.state_dict(), optimizer.state_dict()], file)
    train(solver, model, range(3, 6), optimizer)
    assert values(model).isfinite().all()

    file.seek(0)
    solver_state, model_state, optimizer_state = torch.load(file, weights_only=True)
    again = tiny(seed=99)
    again.load_state_dict(model_state)
    resumed, stepper = made(kind, name, wrap=wrap, seed=77), torch.optim.Adam(again.parameters(), lr=0.01)
    resumed.load_state_dict(solver_state)
    stepper.load_state_dict(optimizer_state)
    train(resumed, again, range(3, 6), stepper)
    assert torch.equal(values(again), values(model))


class Insistent(mtl.Wrapper):
    """Asks the solver inside three times and takes the last answer."""

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        return [self.inner.direction(oracle) for _ in range(3)][-1]


@every
def test_being_asked_often_in_a_step_changes_nothing(kind: str, name: str) -> None:
    if name in RANDOM:
        pytest.skip("draws anew each time")
    given = {"weighting": "MGDA"} if name == "CRMOGM" else options(name)
    found = []
    for wrapper in (lambda solver: solver, Insistent):
        model = tiny()
        train(wrapper(TorchJD(**{kind: name}, **given)), model, range(5))
        found.append(values(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@every
def test_a_skipped_step_leaves_the_state(kind: str, name: str) -> None:
    found = []
    for stumbles in (False, True):
        model = tiny()
        solver = made(kind, name, n_sources=3)
        solver.on_nonfinite = "skip"
        train(solver, model, range(2))
        if stumbles:
            broken = objective(model, 0)
            broken.minibatches = [(inputs * torch.nan, targets) for inputs, targets in broken.minibatches]
            assert "torchjd/skipped" in solver.step(broken, sgd(model)).metrics
        train(solver, model, range(2, 4))
        found.append(values(model))
    assert torch.equal(*found)


@every
def test_a_deep_copy_goes_its_own_way(kind: str, name: str) -> None:
    model = tiny()
    solver = made(kind, name, n_sources=3)
    train(solver, model, range(2))
    twin, twin_model = copy.deepcopy(solver), copy.deepcopy(model)
    train(solver, model, range(2, 4))
    train(twin, twin_model, range(2, 4))
    assert torch.equal(values(model), values(twin_model))


def test_state_of_another_method_or_number_of_sources_is_refused() -> None:
    model = tiny()
    solver = made("scalarizer", "UW")
    train(solver, model, range(1))
    with pytest.raises(mtl.UsageError, match="scalarizer UW, this one is scalarizer IMTLL"):
        made("scalarizer", "IMTLL").load_state_dict(solver.state_dict())
    with pytest.raises(mtl.UsageError, match="for 3 sources, this one is for 2"):
        made("scalarizer", "UW", n_sources=2).load_state_dict(solver.state_dict())
    with pytest.raises(mtl.UsageError, match="built for 3 sources"):
        train(solver, tiny(2), range(1))


def test_a_stateless_method_takes_any_number_of_sources_in_turn() -> None:
    solver = TorchJD("MGDA")
    for k in (3, 2, 3):
        model = tiny(k)
        train(solver, model, range(1))
        assert values(model).isfinite().all()


# By hand


def two_rows(g1: list[float], g2: list[float], **given: Any) -> Tensor:
    """The direction for two sources with these constant gradients."""
    theta = torch.zeros(len(g1), dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([g1, g2], dtype=torch.float64)
    TorchJD(**given).step(
        mtl.Objective(lambda: rows @ theta + 1, shared=[theta]), torch.optim.SGD([theta], 1.0)
    )
    return -theta.detach()


def close(found: Tensor, expected: list[float], tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=tolerance)


def test_two_sources_in_closed_form() -> None:
    close(two_rows([4.0, 0.0], [0.0, 2.0], aggregator="Mean"), [2.0, 1.0])
    # the point of the segment between the rows that is nearest to 0
    close(two_rows([4.0, 0.0], [0.0, 2.0], aggregator="MGDA", max_iters=1000), [0.8, 1.6], 1e-3)
    # Rows (1, 0) and (-1, 1) conflict. Each one without its part along the other: (1/2, 1/2) and (0, 1).
    exact = {"norm_eps": 0.0, "reg_eps": 1e-12}
    close(two_rows([1.0, 0.0], [-1.0, 1.0], aggregator="UPGrad", projector=exact), [0.25, 0.75])
    close(two_rows([1.0, 0.0], [-1.0, 1.0], aggregator="PCGrad"), [0.5, 1.5])
    # no conflict: the mean itself
    close(two_rows([4.0, 0.0], [0.0, 2.0], aggregator="UPGrad", projector=exact), [2.0, 1.0])
    # median of three is the middle entry; of the losses at theta = 0, all 1, the softmax is uniform
    close(two_rows([4.0, 0.0], [0.0, 2.0], scalarizer="STCH", mu=1.0), [1.0, 0.5])
    close(two_rows([4.0, 0.0], [0.0, 2.0], scalarizer="GeometricMean"), [2.0, 1.0])


def test_uncertainty_weights_after_one_step() -> None:
    """s = 0 at first, so w = 1/2; the slope of s is (1 - L) / 2, and the first step of Adam is its sign."""
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([3.0, 0.5], dtype=torch.float64)
    solver = TorchJD(scalarizer="UW", lr=0.1)
    found = [
        solver.step(mtl.Objective(lambda: scale * theta**2, shared=[theta]), torch.optim.SGD([theta], 0.0))
        for _ in range(2)
    ]
    close(found[0].weights, [0.5, 0.5])
    s = torch.tensor([0.1, -0.1]).double()
    close(found[1].weights, (0.5 * torch.exp(-s)).tolist(), 1e-7)
    assert found[1].metrics["torchjd/log_var_0"] == pytest.approx(0.1, abs=1e-7)


def test_smoothing_of_another_methods_weights() -> None:
    def weights(seeds: range, **given: Any) -> list[Tensor]:
        model = tiny()
        return [r.weights for r in train(TorchJD(**given), model, seeds, sgd(model, lr=0.0))]

    plain = weights(range(3), aggregator="MGDA", max_iters=7)
    inner = {"name": "MGDA", "max_iters": 7}
    smooth = weights(range(3), aggregator="CRMOGM", weighting=inner, alpha=0.25)
    expected = plain[0]
    for found, new in zip(smooth, plain, strict=True):
        expected = 0.25 * expected + 0.75 * new
        torch.testing.assert_close(found, expected)
    for name in ("Random", "MoDo"):  # weights that do not come from the Gramian
        assert weights(range(2), aggregator="CRMOGM", weighting=name)[-1].isfinite().all()
    with pytest.raises(mtl.UsageError, match="ConFIG has no weights") as caught:
        TorchJD("CRMOGM", weighting="ConFIG")
    assert caught.value.key == ("weighting",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"aggregator": "MGDA"}, (1, 3)),
        ({"aggregator": "ConFIG"}, (1, 3)),
        ({"aggregator": "MoDo"}, (3, 7)),
        ({"scalarizer": "STCH", "mu": 1.0}, (1, 2)),  # one of them through K numbers
        ({"scalarizer": "FAMO"}, (2, 3)),  # two of them
    ],
)
def test_cost(passes: Passes, given: dict, expected: tuple[int, int]) -> None:
    model = tiny()
    model.register_forward_hook(lambda _m, inputs, _o: passes.sizes.append(len(inputs[0])))
    solver = TorchJD(**given)
    passes.reset()
    train(solver, model, range(1))
    assert passes.counts == expected


# What goes wrong


@every
def test_zero_gradients_never_become_nan(kind: str, name: str) -> None:
    model = tiny()
    nothing = [lambda p, _t: 1 + 0 * p.sum()] * 3
    inputs, targets = batch(0, 3, torch.float64)
    again = mtl.TaskObjective(model, inputs, targets, nothing, more=lambda _draw: [(inputs, targets)])
    start = values(model)
    step = made(kind, name, n_sources=3).step
    if name == "NashMTL":  # the solver that it uses refuses the NaN that it makes itself
        with pytest.raises(mtl.UsageError, match="NashMTL with 3"):
            step(again, sgd(model))
    else:
        step(again, sgd(model))
    assert torch.equal(values(model), start)


TELLING = [
    name for name in AGGREGATORS if name not in {*TWO_BATCHES, "TrimmedMean"}
]  # it trims away infinity


@pytest.mark.parametrize("name", TELLING)
def test_an_infinite_gradient_is_told(name: str) -> None:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    cusp = mtl.Objective(
        lambda: [theta.sum() + 1, theta.abs().sum().sqrt(), 2 * theta[0] + 1], shared=[theta]
    )
    with pytest.raises(mtl.NonFiniteError, match="gradient of source '1'"):
        made("aggregator", name, n_sources=3).step(cusp, torch.optim.SGD([theta], 0.1))
    assert torch.equal(theta.detach(), torch.zeros(2).double())


@pytest.mark.parametrize("name", sorted(TWO_BATCHES))
def test_further_minibatches_must_be_there(name: str) -> None:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    objective = mtl.Objective(lambda: [theta.sum(), 2 * theta[0]], shared=[theta])
    with pytest.raises(mtl.UsageError, match="minibatches"):
        TorchJD(name).step(objective, torch.optim.SGD([theta], 0.1))


@pytest.mark.parametrize("name", ["GeometricMean", "FAMO"])
def test_a_loss_for_which_a_scalarizer_is_not_defined(name: str) -> None:
    theta = torch.tensor([1.0], requires_grad=True)
    objective = mtl.Objective(lambda: torch.cat([theta, -theta]), shared=[theta])
    with pytest.raises(mtl.UsageError, match=f"torchjd: {name}"):
        TorchJD(scalarizer=name).step(objective, torch.optim.SGD([theta], 0.1))
    assert theta.item() == 1.0


def test_an_infinite_loss_after_the_step_does_not_spoil_what_was_learned() -> None:
    theta = torch.tensor([1.0], requires_grad=True)
    solver = TorchJD(scalarizer="FAMO", on_nonfinite="skip")

    def step(lr: float) -> mtl.StepReport:
        objective = mtl.Objective(lambda: torch.cat([theta**2 + 1, theta.abs()]), shared=[theta])
        return solver.step(objective, torch.optim.SGD([theta], lr=lr))

    step(0.1)
    step(1e30)  # theta ** 2 overflows in float32
    with torch.no_grad():
        theta.fill_(1.0)
    before, after = (step(0.1).metrics["torchjd/w_0"] for _ in range(2))
    assert -1 < after < 1
    assert after != before, "it goes on learning"


BAD = [
    ({}, (), "exactly one of 'aggregator' and 'scalarizer'.*neither"),
    ({"aggregator": "UPGrad", "scalarizer": "UW"}, (), "exactly one.*'UPGrad' and 'UW'"),
    ({"aggregator": "UpGrad"}, ("aggregator",), "unknown aggregator 'UpGrad'; did you mean 'UPGrad'.*MGDA"),
    ({"scalarizer": "UPGrad"}, ("scalarizer",), "unknown scalarizer 'UPGrad'.*STCH, Sum, UW"),
    ({"aggregator": "WeightedAggregator"}, ("aggregator",), "unknown aggregator"),
    ({"aggregator": 3}, ("aggregator",), "string"),
    ({"aggregator": "CAGrad"}, ("c",), "'c' is required"),
    ({"aggregator": "CAGrad", "c": "big"}, ("c",), "number.*found 'big'"),
    ({"aggregator": "CAGrad", "c": float("nan")}, ("c",), "finite"),
    ({"aggregator": "CAGrad", "c": -1.0}, ("c",), "c must be non-negative"),
    (
        {"aggregator": "CAGrad", "c": 0.5, "norm_esp": 1.0},
        ("norm_esp",),
        "option of CAGrad.*'norm_eps'.*c, norm",
    ),
    ({"aggregator": "MGDA", "lr": 0.1}, ("lr",), "unknown option of MGDA 'lr'"),
    ({"aggregator": "NashMTL", "n_tasks": 3}, ("n_tasks",), "unknown option"),
    ({"aggregator": "AlignedMTL", "scale_mode": "max"}, ("scale_mode",), "'min', 'median' or 'rmse'"),
    ({"aggregator": "UPGrad", "pref_vector": []}, ("pref_vector",), "at least 1"),
    ({"aggregator": "UPGrad", "pref_vector": "equal"}, ("pref_vector",), "list"),
    ({"aggregator": "UPGrad", "projector": {"eps": 1}}, ("projector", "eps"), "norm_eps, reg_eps"),
    (
        {"aggregator": "UPGrad", "projector": {"reg_eps": -1.0}},
        ("projector",),
        "reg_eps must be non-negative",
    ),
    ({"aggregator": "CRMOGM"}, ("weighting",), "required"),
    ({"aggregator": "CRMOGM", "weighting": {"name": "MGDAA"}}, ("weighting", "aggregator"), "MGDA"),
    ({"aggregator": "CRMOGM", "weighting": {"name": "CAGrad", "c": -1}}, ("weighting", "c"), "non-negative"),
    ({"scalarizer": "UW", "lr": 0.0}, ("lr",), "greater than 0"),
    ({"scalarizer": "DWA"}, ("steps_per_epoch",), "'steps_per_epoch' is required"),
    ({"scalarizer": "DWA", "steps_per_epoch": 0}, ("steps_per_epoch",), "greater than or equal to 1"),
    ({"scalarizer": "STCH", "mu": 0.0}, ("mu",), "strictly positive"),
]


def config(base: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": "rotated_digits",
        "model": "mlp",
        "sources": "domains",
        "solver": {"base": base, "wrap": ["sam"]},
        "train": {"steps": 5},
    }


@pytest.mark.parametrize(("given", "key", "message"), BAD)
def test_bad_options(given: dict, key: tuple, message: str) -> None:
    with pytest.raises(mtl.UsageError, match=message) as caught:
        TorchJD(**given)
    assert caught.value.key == key
    with pytest.raises(mtl.UsageError, match=message) as caught:
        mtl.build_solver({"base": {"name": "torchjd", **given}})
    assert caught.value.key == ("base", *key)
    with pytest.raises(mtl.UsageError) as caught:
        validate(config({"name": "torchjd", **given}))
    assert caught.value.key == ("solver", "base", *key)


def test_options_that_do_not_fit_the_sources() -> None:
    for given in (
        {"aggregator": "UPGrad", "pref_vector": [1.0, 2.0]},
        {"aggregator": "PCD", "tau": [0.1]},
        {"scalarizer": "FAMO", "min_losses": [0.0, 0.0]},
        {"scalarizer": "STCH", "mu": 1.0, "reference": [0.0, 0.0]},
    ):
        with pytest.raises(mtl.UsageError, match=r"torchjd: .*(2|1)"):
            TorchJD(n_sources=3, **given)
        with pytest.raises(mtl.UsageError, match=r"torchjd: .*(2|1)"):
            train(TorchJD(**given), tiny(3), range(1))


def test_the_door_fills_in_the_options_of_the_method() -> None:
    door = validate(config({"name": "torchjd", "scalarizer": "COSMOS", "lambda": 1, "weights": [1, 2]}))
    base = door.resolved()["solver"]["base"]
    expected = {"aggregator": None, "scalarizer": "COSMOS", "lambda_": 1.0, "weights": [1.0, 2.0]}
    assert base == {"name": "torchjd", **expected}
    learned = validate(config({"name": "torchjd", "scalarizer": "UW"})).resolved()["solver"]["base"]
    assert learned["lr"] == 0.025
    with pytest.raises(mtl.UsageError, match="unknown option 'seed'"):
        validate(config({"name": "torchjd", "scalarizer": "UW", "seed": 3}))


@every
def test_what_the_door_resolves_means_the_same(kind: str, name: str) -> None:
    spec = {"name": "torchjd", kind: name, **options(name)}
    door = validate(config(spec))
    assert validate(door.resolved()) == door
    found = []
    for base in (spec, door.resolved()["solver"]["base"]):
        model = tiny()
        train(mtl.build_solver({"base": base}, n_sources=3), model, range(2))
        found.append(values(model))
    assert torch.equal(*found)


def test_objects_may_be_given_in_python() -> None:
    from torchjd.linalg import QuadprogProjector

    found = []
    for projector in (QuadprogProjector(reg_eps=0.5), {"reg_eps": 0.5}):
        model = tiny()
        train(TorchJD("UPGrad", projector=projector, pref_vector=torch.ones(3)), model, range(2))
        found.append(values(model))
    assert torch.equal(*found)
    model = tiny()
    train(TorchJD("GradDrop", f=lambda purity: purity.round(), leak=torch.zeros(3)), model, range(2))
    assert values(model).isfinite().all()


@pytest.mark.parametrize("given", [{"aggregator": "MGDA"}, {"scalarizer": "Mean"}])
def test_torchjd_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch, given: dict) -> None:
    for room in ("aggregation", "scalarization"):
        monkeypatch.setitem(sys.modules, f"torchjd.{room}", None)
    for attempt in (lambda: TorchJD(**given), lambda: validate(config({"name": "torchjd", **given}))):
        with pytest.raises(mtl.UsageError, match=r"pip install 'mtlsuite\[torchjd\]'"):
            attempt()
    assert "torchjd" in registry.registered("solver")


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("CAGrad", "cvxpy"),
        ("NashMTL", "ecos"),
        ("FairGrad", "scipy"),
        ("UPGrad", "quadprog"),
        ("DualProj", "qpsolvers"),
    ],
)
def test_an_optional_dependency_missing_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    from torchjd import _mixins

    real = _mixins.find_spec
    monkeypatch.setattr(_mixins, "find_spec", lambda package: None if package == missing else real(package))
    with pytest.raises(mtl.UsageError, match=rf"{missing}.*pip install 'mtlsuite\[torchjd\]'"):
        TorchJD(name, **options(name))
