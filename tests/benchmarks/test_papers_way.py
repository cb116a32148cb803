"""What the benchmark compares does the same: our step, the papers', TorchJD's, and the passes counted."""

import pytest
import torch
from bare_way import PASSES, bare
from papers_bargaining import Bargaining
from papers_way import WAYS as PAPERS
from step_cases import domain_problem, task_problem
from step_ways import METHODS, ours, ways_of
from torch import nn
from torchjd_way import AGGREGATORS, autogram, autojac

from mtlsuite.models.classifiers import MLP

N_SOURCES = 3
CONVEX = {"nash_mtl", "sage(nash_mtl)", "disam(nash_mtl)"}  # whose papers' way solves programs to a tolerance


def domains(n_sources=N_SOURCES, separate=True):
    """Sizes are multiples of 16, for which torch draws one Gaussian vector as it draws its pieces."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MLP({"class": 16}, (1, 4, 4), width=16).double()
        images = torch.randn(n_sources, 6, 1, 4, 4, dtype=torch.float64)
        images += torch.arange(n_sources)[:, None, None, None, None]
        labels = torch.randint(16, (n_sources, 6))
    return domain_problem(model, list(zip(images, labels, strict=True)), separate)


def tasks(n_sources=N_SOURCES):
    names = "abc"[:n_sources]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = MLP(dict.fromkeys(names, 16), (1, 4, 4), width=16).double()
        images = torch.randn(8, 1, 4, 4, dtype=torch.float64)
        targets = {name: torch.randn(8, 16, dtype=torch.float64) + i for i, name in enumerate(names)}
    return task_problem(model, images, targets, dict.fromkeys(names, nn.functional.mse_loss))


def moves(make, way, steps=2):
    """How all parameters move in steps of plain SGD, step by step."""
    problem = make()
    step = way(problem, torch.optim.SGD(problem.parameters, lr=0.1))
    points = [torch.cat([p.detach().flatten() for p in problem.parameters])]
    for _ in range(steps):
        step()
        points.append(torch.cat([p.detach().flatten() for p in problem.parameters]))
        assert all(p.grad is None for p in problem.parameters)
    return torch.stack(points).diff(dim=0)


def assert_same(found, expected, tolerance):
    assert expected.norm() > 1e-3
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("make", [domains, tasks])
@pytest.mark.parametrize("method", sorted(set(PAPERS) - {"pcgrad"}))
def test_papers_way_takes_the_steps_of_our_solver(method, make):
    tolerance = 1e-2 if method in CONVEX else 1e-6 if method in ("arithmetic", "fish") else 1e-10
    assert_same(moves(make, PAPERS[method]), moves(make, ours(METHODS[method])), tolerance)


def test_pcgrad_of_two_sources_takes_the_steps_of_our_solver():
    def make():
        return domains(2)

    assert_same(moves(make, PAPERS["pcgrad"]), moves(make, ours(METHODS["pcgrad"])), 1e-10)


@pytest.mark.parametrize("make", [domains, tasks])
def test_the_ways_compared_are_not_trivially_alike(make):
    found = {
        method: moves(make, ours(METHODS[method])) for method in ("equal", "famo", "nash_mtl", "sam", "sage")
    }
    for one in found:
        for other in set(found) - {one}:
            assert (found[one] - found[other]).norm() > 1e-4 * found[one].norm()


@pytest.mark.parametrize("method", ["upgrad", "cagrad", "mgda", "equal", "nash_mtl"])
def test_torchjd_by_its_jacobian_takes_the_steps_of_our_solver(method):
    tolerance = {"nash_mtl": 1e-2, "cagrad": 1e-4}.get(method, 1e-6)
    assert_same(
        moves(domains, autojac(AGGREGATORS[method])), moves(domains, ours(METHODS[method])), tolerance
    )


@pytest.mark.parametrize("method", ["upgrad", "cagrad", "mgda"])
@pytest.mark.parametrize("make", [domains, tasks])
def test_torchjd_by_its_gramian_takes_the_steps_of_our_solver(method, make):
    assert_same(moves(make, autogram(AGGREGATORS[method])), moves(make, ours(METHODS[method])), 1e-4)


def test_torchjd_by_its_jacobian_of_tasks_moves_the_shared_parameters_alike():
    n_shared = sum(p.numel() for p in tasks().shared)
    found, expected = (
        moves(tasks, way, 1) for way in (autojac(AGGREGATORS["upgrad"]), ours(METHODS["upgrad"]))
    )
    assert_same(found[:, :n_shared], expected[:, :n_shared], 1e-6)


def test_torchjd_says_which_aggregator_has_no_gramian_way():
    with pytest.raises(TypeError, match="NashMTL does not work on the Gramian"):
        moves(domains, autogram(AGGREGATORS["nash_mtl"]))


@pytest.mark.parametrize("make", [domains, tasks])
@pytest.mark.parametrize("method", METHODS)
def test_bare_passes_are_those_of_our_step(method, make, passes):
    def count(way):
        problem, forwards = make(), []
        problem.model.register_forward_pre_hook(lambda _, inputs: forwards.append(len(inputs[0])))
        step = way(problem, torch.optim.SGD(problem.parameters, lr=0.0))
        before = passes.backwards
        step()
        return sum(forwards), passes.backwards - before

    assert count(bare(PASSES[method])) == count(ours(METHODS[method]))


def test_every_method_is_measured_against_its_bare_passes():
    for method in METHODS:
        ways = [way for way, _ in ways_of(method)]
        assert ways[0] == "ours"
        assert ways[-1] == "bare"
        assert ("papers" in ways) == (method in PAPERS)


def test_bargaining_by_convex_programs_solves_its_equation():
    gramian = torch.tensor([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 3.0]], dtype=torch.float64).numpy()
    bargaining = Bargaining(3)
    for _ in range(3):  # each call goes on from the weights of the last
        alpha = bargaining(gramian)
    assert gramian @ alpha == pytest.approx(1 / alpha, rel=1e-2)
