"""Mistakes and surroundings that would otherwise go wrong in silence."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import mtlsuite as mtl


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def objective_of(model: nn.Module, x: torch.Tensor, **options: object) -> mtl.Objective:
    return mtl.Objective(lambda: model(x).square().mean(dim=0), shared=model.parameters(), **options)


X = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)


class Smoothed(mtl.Solver):
    """Keeps a state that a NaN would spoil, and hands out what it changes in place later."""

    stateful = ("average",)

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.zeros(2, dtype=torch.float64)

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        self.average.mul_(0.5).add_(oracle.losses())
        metrics = {"smoothed/first": self.average[0]}
        return mtl.Direction(oracle.pullback(self.average), self.average, metrics)


def test_a_reentrant_checkpoint_is_refused():
    model = mlp()
    x = X.clone().requires_grad_()

    def losses() -> torch.Tensor:
        return model[2](checkpoint(lambda z: model[:2](z), x, use_reentrant=True)).square().mean(dim=0)

    with pytest.raises(mtl.UsageError, match="use_reentrant=False"):
        mtl.Equal().step(mtl.Objective(losses, model.parameters()), torch.optim.SGD(model.parameters(), 0.1))


def test_a_checkpoint_that_is_not_reentrant_changes_nothing():
    model = mlp()

    def losses() -> torch.Tensor:
        return model[2](checkpoint(model[:2], X, use_reentrant=False)).square().mean(dim=0)

    there = mtl.Oracle(mtl.Objective(losses, model.parameters())).jacobian().rows
    assert torch.equal(there, mtl.Oracle(objective_of(model, X)).jacobian().rows)


def test_an_objective_over_parameters_of_another_model_is_refused():
    model, other = mlp(), mlp()
    objective = mtl.Objective(lambda: model(X).square().mean(dim=0), shared=other.parameters())
    with pytest.raises(mtl.UsageError, match="reaches none of the parameters"):
        mtl.Equal().step(objective, torch.optim.SGD(other.parameters(), 0.1))


def test_a_skipped_step_leaves_the_state_of_the_solver():
    model, solver = mlp(), Smoothed()
    solver.on_nonfinite = "skip"
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    solver.step(objective_of(model, X), optimizer)
    before = solver.average.clone()
    assert solver.step(objective_of(model, X * torch.nan), optimizer).metrics == {"Smoothed/skipped": 1}
    assert torch.equal(solver.average, before)
    assert "Smoothed/skipped" not in solver.step(objective_of(model, X), optimizer).metrics


def test_a_report_keeps_its_values():
    model, solver = mlp(), Smoothed()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    first = solver.step(objective_of(model, X), optimizer)
    value = float(solver.average[0])
    solver.step(objective_of(model, X), optimizer)
    assert first.metrics["smoothed/first"] == value != float(solver.average[0])
    assert float(first.weights[0]) == value


def test_losses_are_reported_from_before_the_step_also_when_the_solver_asks_for_nothing():
    class Blind(mtl.Solver):
        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            return mtl.Direction(torch.ones(oracle.space.n_entries, dtype=torch.float64))

    model = mlp()
    expected = model(X).square().mean(dim=0).detach()
    report = Blind().step(objective_of(model, X), torch.optim.SGD(model.parameters(), 1.0))
    assert torch.equal(report.losses, expected)


def test_a_wrapper_may_ask_for_the_number_of_sources():
    @mtl.register("wrapper", "counting")
    class Counting(mtl.Wrapper):
        def __init__(self, inner: mtl.Solver, n_sources: int) -> None:
            super().__init__(inner)
            self.count = n_sources

        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            return self.inner.direction(oracle)

    assert mtl.build_solver({"base": "equal", "wrap": ["counting"]}, n_sources=2).count == 2


def test_a_wrapper_given_as_base_is_recognised():
    with pytest.raises(mtl.UsageError, match="'sage' is a wrapper, not a solver"):
        mtl.build_solver("sage")


@pytest.mark.parametrize("function", [lambda rows: rows[:1], lambda _: None])
def test_mapped_rows_keep_their_shape(function):
    oracle = mtl.Oracle(objective_of(mlp(), X)).mapped(function)
    with pytest.raises(mtl.UsageError, match=r"shape \(2, 26\)"):
        oracle.jacobian()


def test_a_data_parallel_model_keeps_its_partition():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads = nn.Linear(3, 2), nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])

        def shared_parameters(self) -> list[nn.Parameter]:
            return list(self.trunk.parameters())

        def specific_parameters(self) -> list[list[nn.Parameter]]:
            return [list(head.parameters()) for head in self.heads]

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [head(self.trunk(x)) for head in self.heads]

    criteria = [lambda p, t: (p - t).square().mean()] * 2
    objective = mtl.TaskObjective(nn.DataParallel(Heads()), X.float(), [X.float()[:, :1]] * 2, criteria)
    assert objective.space.n_shared == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: mtl.Objective(torch.ones(2), m.parameters()), "losses is a function"),
        (lambda m: mtl.Objective(lambda: m(X), m.parameters), "list of parameters, found one method"),
        (lambda m: mtl.Objective(lambda: m(X), m.parameters(), names="ab"), "found the text 'ab'"),
        (lambda m: mtl.DomainObjective(m, {"a": (X, X)}, nn.MSELoss()), "found a mapping"),
        (lambda m: mtl.TaskObjective(m, X, X, nn.MSELoss()), "criteria: a mapping or a sequence"),
        (lambda m: mtl.Equal().step(torch.optim.SGD(m.parameters(), 0.1), None), "needs an Objective"),
        (lambda _: mtl.build_solver({"base": "equal", "wrap": False}), "a list of wrappers"),
        (lambda _: mtl.FAMO(min_losses=[float("nan"), 1.0]), "finite number"),
        (lambda _: mtl.register("solver", 3), "found 3"),
    ],
)
def test_plain_mistakes(make, message):
    with pytest.raises(mtl.UsageError, match=message):
        make(mlp())


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_jacobian():
    model = mlp()
    plain = mtl.Oracle(objective_of(model, X)).jacobian().rows
    compiled = torch.compile(model)
    objective = mtl.Objective(lambda: compiled(X).square().mean(dim=0), shared=model.parameters())
    try:
        rows = mtl.Oracle(objective).jacobian().rows
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"no working compiler here: {type(error.inner_exception).__name__}")
    torch.testing.assert_close(rows, plain)


def test_a_compiled_model_goes_back_once_and_then_more_often():
    """And with another batch size, for which torch compiles the backward ahead."""
    model = mlp()
    compiled = torch.compile(model)
    for inputs in (X, torch.cat([X, X])):
        losses = lambda inputs=inputs: compiled(inputs).square().mean(dim=0)  # noqa: E731
        try:
            found = mtl.Oracle(mtl.Objective(losses, model.parameters())).mean_gradient()
            rows = mtl.Oracle(mtl.Objective(losses, model.parameters())).jacobian().rows
        except torch._dynamo.exc.BackendCompilerFailed as error:
            pytest.skip(f"no working compiler here: {type(error.inner_exception).__name__}")
        torch.testing.assert_close(found, rows.mean(dim=0))


def test_a_state_that_no_checkpoint_could_give_back_is_refused():
    solver = Smoothed()
    solver.average = solver.average.numpy()
    with pytest.raises(mtl.UsageError, match="Smoothed: the state 'average' must be a tensor"):
        solver.state_dict()


@pytest.mark.parametrize("wrap", [[], ["sam"]])
def test_a_step_inside_autocast_is_refused(wrap):
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    solver = mtl.build_solver({"base": "nash_mtl", "wrap": wrap})
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(mtl.UsageError, match="around the forwards"):
        solver.step(objective_of(model, X), torch.optim.SGD(model.parameters(), 0.1))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_an_optimizer_that_needs_a_closure_is_refused():
    model = mlp()
    with pytest.raises(mtl.UsageError, match="LBFGS calls a closure"):
        mtl.Equal().step(objective_of(model, X), torch.optim.LBFGS(model.parameters()))


def test_nash_weights_of_a_half_precision_model_are_solved_for():
    """A Gramian rounded to bfloat16 has no solution to the tolerance; the weights would silently stay 1."""
    reports = []
    for dtype in (torch.float64, torch.bfloat16):
        model = mlp().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        reports.append(mtl.NashMTL().step(objective_of(model, X.to(dtype)), optimizer))
    assert reports[1].metrics["nash_mtl/kept_weights"] == 0
    torch.testing.assert_close(reports[1].weights.double(), reports[0].weights.double(), rtol=0.2, atol=0)


def test_an_option_under_both_its_names_is_refused():
    spec = {"name": "disam", "lambda": 0.1, "lambda_": 0.2}
    with pytest.raises(mtl.UsageError, match="both 'lambda' and 'lambda_'") as caught:
        mtl.build_solver({"base": "equal", "wrap": [spec]})
    assert caught.value.key == ("wrap", 0, "lambda")
