"""How the gradients of all sources are kept: in a smaller dtype, or never all at once."""

from __future__ import annotations

import pytest
import torch
from problems import (
    WRAPPERS,
    Heads,
    One,
    domain_batches,
    domain_objective,
    mse,
    nested,
    seeded,
    task_objective,
)
from reference import flat, gradient
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.core.economy import Economy
from mtlsuite.core.products import combinations, inner_products

KINDS = {
    "tasks": lambda: task_objective(seeded(Heads)),
    "domains": lambda: domain_objective(seeded(One), graph="separate"),
    "joint domains": lambda: domain_objective(seeded(One), graph="joint"),
}
GRAMIAN_ONLY = dict(
    [
        nested("nash_mtl"),
        nested("nash_mtl", "sam"),
        nested("nash_mtl", "sage"),
        nested("nash_mtl", "disam", "sam"),
    ]
    + [nested("equal"), nested("famo", "sage"), nested("equal", "gga"), nested("nash_mtl", "gga_l")]
    + [nested({"name": "torchjd", "aggregator": name}) for name in ("UPGrad", "MGDA", "PCGrad")]
)
NEEDING_ROWS = dict(
    [nested({"name": "torchjd", "aggregator": name}) for name in ("ConFIG", "GradDrop", "MoDo")]
    + [nested("equal", name) for name in ("gradient_equilibrium", "arithmetic", "fish", "samo")]
)


def after_steps(spec: dict, objective: mtl.Objective, steps: int = 3) -> Tensor:
    solver = mtl.build_solver(spec, seed=1)
    optimizer = torch.optim.SGD(objective.space.parameters, lr=0.05, momentum=0.9)
    for _ in range(steps):
        solver.step(objective, optimizer)
    return flat(objective.space.parameters).detach()


def oracle_of(objective: mtl.Objective, **economy) -> mtl.Oracle:
    return mtl.Oracle(objective, economy=Economy(**economy))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GRAMIAN_ONLY)
def test_low_memory_takes_the_same_steps(name: str, kind: str) -> None:
    found, expected = (
        after_steps({**GRAMIAN_ONLY[name], "memory": memory}, KINDS[kind]()) for memory in ("low", "fast")
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_low_memory_gramian(kind: str) -> None:
    objective = KINDS[kind]()
    rows = [flat(gradient(loss, objective.space.parameters)) for loss in objective.losses()]
    shared = torch.stack(rows)[:, : objective.space.n_shared]
    oracle = oracle_of(objective, memory="low")
    torch.testing.assert_close(oracle.gramian(), shared @ shared.T, rtol=1e-12, atol=1e-14)
    expected = 2 * rows[0] - rows[-1]
    weights = [2.0, *[0.0] * (len(rows) - 2), -1.0]
    torch.testing.assert_close(oracle.pullback(weights), expected, rtol=1e-12, atol=1e-14)


def test_low_memory_costs_no_further_forward(passes) -> None:
    objective = domain_objective(passes.watch(seeded(One)), graph="separate")
    oracle = oracle_of(objective, memory="low")
    oracle.gramian()
    oracle.pullback([1.0] * 4)
    assert passes.forwards == 4


def test_low_memory_holds_about_one_gradient() -> None:
    """Ten sources: the blocks and the direction together are 2 P entries, where the Jacobian has 10 P."""
    model = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(16, 16), nn.Tanh())))
    batches = [(torch.randn(3, 16), torch.randn(3, 16)) for _ in range(10)]
    held = {}
    for memory in ("fast", "low"):
        solver = mtl.build_solver({"base": "nash_mtl", "memory": memory})
        objective = mtl.DomainObjective(model, batches, mse)
        solver.step(objective, torch.optim.SGD(model.parameters(), lr=0.01))
        size = objective.space.n_entries * 4
        held[memory] = sum(slot.storage.nbytes() for slot in solver._pool._slots) / size
    assert held["fast"] == 11  # the Jacobian and the direction
    assert held["low"] <= 2


@pytest.mark.parametrize("name", NEEDING_ROWS)
def test_what_needs_all_gradients_refuses_low_memory(name: str) -> None:
    objective = mtl.DomainObjective(
        seeded(One), domain_batches(0), mse, more=lambda draw: domain_batches(draw)
    )
    spec = {**NEEDING_ROWS[name], "memory": "low"}
    with pytest.raises(
        mtl.UsageError, match=r"found 'low', but \w+ needs the gradients .*; allowed: fast"
    ) as caught:
        mtl.build_solver(spec)
    assert caught.value.key == ("memory",)
    spec = {"base": spec["base"], "wrap": ["sam", *spec["wrap"]], "memory": "low"}
    with pytest.raises(mtl.UsageError, match="needs the gradients"):
        mtl.build_solver(spec)
    with pytest.raises(mtl.UsageError, match=r"memory 'low' is for solvers .* 'fast'"):
        mtl.Oracle(objective, economy=Economy("low")).jacobian()


def test_blocks_are_the_shared_parameters_in_turn() -> None:
    parameters = [nn.Parameter(torch.zeros(n)) for n in (3, 4, 10, 1, 2)]
    space = mtl.ParameterSpace(parameters[:4], [parameters[4:]])
    assert [block.sizes for block in space.blocks(18, 7)] == [[3, 4], [10], [1]]
    assert [block.sizes for block in space.blocks(20, 100)] == [[3, 4, 10, 1, 2]]
    assert mtl.ParameterSpace([], [parameters]).blocks(0, 5) == []


def rounded(values: Tensor) -> Tensor:
    """To 8 significant bits, as bfloat16, by hand."""
    exponents = values.abs().log2().floor()
    steps = (2.0 ** (exponents - 7)).where(values != 0, 1)
    return (values / steps).round() * steps


def test_rows_in_bfloat16() -> None:
    """What is combined are rounded rows; Gramian, weights and direction are not rounded again."""
    objective = domain_objective(seeded(One))
    rows = torch.stack([flat(gradient(loss, objective.space.parameters)) for loss in objective.losses()])
    oracle = oracle_of(objective, jacobian_dtype="bfloat16")
    assert oracle.jacobian().rows.dtype == torch.bfloat16
    expected = rounded(rows).float()
    torch.testing.assert_close(oracle.gramian(), expected @ expected.T, rtol=1e-5, atol=1e-6)
    weights = torch.tensor([0.3, -1.7, 2.9, 0.123456])
    direction = oracle.pullback(weights)
    assert direction.dtype == torch.float64
    torch.testing.assert_close(direction.float(), weights @ expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(oracle.mean_gradient().float(), expected.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("base", ["nash_mtl", {"name": "torchjd", "aggregator": "ConFIG"}])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_method_works_on_bfloat16_rows(wrapper: str, base: str | dict) -> None:
    _, spec = nested(base, wrapper)
    found, expected = (
        after_steps({**spec, "jacobian_dtype": dtype}, domain_objective(seeded(One)), steps=1)
        for dtype in ("bfloat16", None)
    )
    start = flat(seeded(One).parameters()).detach()
    assert not torch.equal(found, start)
    cosine = nn.functional.cosine_similarity(found - start, expected - start, dim=0)
    assert cosine > 0.99


def test_sequential_steps_on_bfloat16_rows() -> None:
    wrap = [{"name": "gradient_equilibrium", "apply": "sequential"}]
    found, expected = (
        after_steps({"base": "equal", "wrap": wrap, "jacobian_dtype": dtype}, domain_objective(seeded(One)))
        for dtype in ("bfloat16", "float64")
    )
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("columns", [5, 2**20 + 3])
def test_products_of_narrow_rows(columns: int) -> None:
    rows = torch.randn(3, columns).bfloat16()
    others = torch.randn(2, columns).bfloat16()
    wide, others_wide = rows.double(), others.double()
    torch.testing.assert_close(inner_products(rows).double(), wide @ wide.T, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(
        inner_products(rows, others).double(), wide @ others_wide.T, rtol=1e-4, atol=1e-1
    )
    weights = torch.tensor([[0.1, 0.2, -3.3], [1.0, 0.0, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(combinations(weights, rows).double(), weights @ wide, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        combinations(weights[0], rows).double(), weights[0] @ wide, rtol=1e-5, atol=1e-5
    )
    into = torch.empty(2, columns, dtype=torch.bfloat16)
    assert combinations(weights, rows, into) is into
    torch.testing.assert_close(into.double(), weights @ wide, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("memory", "tiny", "fast, low"),
        ("jacobian_dtype", "float16", "null, float64, float32, bfloat16"),
        ("on_nonfinite", "warn", "raise, skip, ignore"),
    ],
)
def test_what_is_refused(key: str, value: str, allowed: str) -> None:
    with pytest.raises(mtl.UsageError, match=f"found {value!r}; allowed: {allowed}") as caught:
        mtl.build_solver({"base": "equal", key: value})
    assert caught.value.key == (key,)


def test_nothing_is_looked_at_where_that_is_asked_for() -> None:
    objective = domain_objective(seeded(One))
    objective.minibatches[0][1][:] = torch.nan
    solver = mtl.build_solver({"base": "equal", "on_nonfinite": "ignore"})
    solver.step(objective, torch.optim.SGD(objective.space.parameters, lr=0.1))
    assert flat(objective.space.parameters).isnan().any()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_jacobian_of_another_dtype_serves_parameters_of_any(dtype: str) -> None:
    """The weights come from wider or narrower rows, the direction is of the parameters' dtype."""
    found, expected = (
        after_steps(
            {"base": "nash_mtl", "wrap": ["sage", "gradient_equilibrium"], "jacobian_dtype": each},
            domain_objective(seeded(One).float(), dtype=torch.float32),
        )
        for each in (dtype, "float32")
    )
    assert found.dtype == torch.float32
    tolerance = 1e-3 if dtype == "float64" else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
