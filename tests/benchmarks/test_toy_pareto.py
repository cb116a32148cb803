"""The toy problem's functions by hand, its front by plain comparison, and what the benchmark reports."""

import csv
import math

import numpy as np
import pytest
import torch
from toy_pareto import METHODS, PAPER_LR, Job, Trajectory, arrival, main, run
from toy_problem import BOX, SMALLEST, STARTS, distance_to_front, losses, losses_of, pareto_front


@pytest.fixture(scope="module")
def front():
    return pareto_front()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ((0.0, 0.0), (0.0, 0.0)),  # both factors vanish
        ((0.0, -8.0), (-1.51 * math.tanh(4), -15.1 * math.tanh(4))),
        ((7.0, -8.0), (-2.0 * math.tanh(4), -0.4 * math.tanh(4))),
        ((-7.0, -8.0), (-0.04 * math.tanh(4), -20.0 * math.tanh(4))),
        ((7.0, -3.0), (0.1 * (0.25 - 20) * math.tanh(1.5), (19.6 + 0.25 - 20) * math.tanh(1.5))),
        ((-5.0, 40.0), (0.1 * (math.log(SMALLEST) + 6), math.log(5.0) + 6)),  # the bottom of the first valley
        ((5.0, 40.0), (0.1 * (math.log(5.0) + 6), math.log(SMALLEST) + 6)),  # and of the second
    ],
)
def test_losses_at_points_solved_by_hand(x, expected):
    assert losses_of(np.array([x]))[0] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_both_gradients_at_the_origin_are_one_sided_slopes_of_the_factors_and_do_not_vanish():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(losses, x)
    slope = 0.5 * (math.log(3.5) + 6 - (5.54 - 20))
    assert jacobian.flatten().tolist() == pytest.approx([0, 0.1 * slope, 0, slope], rel=1e-12)


def test_gradients_are_those_of_central_differences():
    points = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 16 - 8
    assert torch.autograd.gradcheck(losses, points.requires_grad_())


def test_no_point_of_the_box_beats_the_front_and_every_undominated_grid_point_lies_near_it(front):
    _, front = front
    (low, high), _ = BOX
    values = losses_of(np.random.default_rng(0).uniform(low, high, (200_000, 2)))
    margin = 1e-4 * np.ptp(front, axis=0)
    beaten = np.searchsorted(
        front[:, 0], values[:, 0] + margin[0]
    )  # the best candidate: it has the largest f_2
    candidates = np.r_[front[:, 1], -np.inf][beaten]
    assert (beaten < len(front)).sum() > 10_000
    assert (values[:, 1] + margin[1] >= candidates).all()
    assert (values.min(axis=0) >= front.min(axis=0) - margin).all()

    axis = np.linspace(low, high, 241)
    grid = losses_of(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    grid = grid[np.lexsort((grid[:, 1], grid[:, 0]))]
    undominated = grid[grid[:, 1] < np.minimum.accumulate(np.r_[np.inf, grid[:-1, 1]])]
    assert len(undominated) > 100
    assert distance_to_front(undominated, front).max() < 0.01


def test_the_gradients_are_opposed_on_the_whole_front(front):
    points, values = front
    assert (np.diff(values[:, 0]) > 0).all()
    assert (np.diff(values[:, 1]) < 0).all()
    x = torch.from_numpy(points[20:-20].T).requires_grad_()
    first, second = (torch.autograd.grad(loss.sum(), x, retain_graph=True)[0] for loss in losses(x))
    cosines = torch.cosine_similarity(first, second, dim=0)
    assert len(cosines) > 300
    assert cosines.max() < -0.99


@pytest.mark.parametrize(
    ("point", "expected"),
    [((1, 10), math.sqrt(0.5)), ((2, 0), 1.0), ((0.5, 5), 0.0), ((0, 30), 2.0), ((0, 0), math.sqrt(0.5))],
)
def test_distances_to_a_straight_front_are_measured_in_its_extents(point, expected):
    front = np.array([(0.0, 10.0), (0.25, 7.5), (1.0, 0.0)])
    assert distance_to_front(np.array([point]), front)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ([5, 4, 3, 2], None),
        ([5, 0, 0, 0], 10),
        ([5, 0, 5, 0], 30),  # it left again
        ([0, 0, 0, 0], 0),
        ([0, 0, 0, 5], None),
    ],
)
def test_arrival_is_the_step_from_which_the_run_stays(first, expected):
    front = np.array([(0.0, 1.0), (1.0, 0.0)])
    values = np.array([(1 + excess, 0.0) for excess in first], dtype=float)
    trajectory = Trajectory(job("equal"), np.array([0.0, 10, 20, 30]), values, values)
    assert arrival(trajectory, front, 0.01) == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_short_run_is_finite_and_moves_as_adam_does(method):
    found = run(job(method, start=(9.0, -1.0), steps=20, lr=0.01))
    assert np.isfinite(found.points).all()
    assert np.isfinite(found.values).all()
    assert found.steps.tolist() == list(range(21))
    if "gga(" not in method:  # which also moves by itself
        assert np.abs(found.points[1] - found.points[0]) == pytest.approx(
            [0.01, 0.01], rel=1e-4
        )  # Adam's first


def test_the_run_with_equal_weights_is_adam_on_the_mean_loss():
    x = torch.tensor([-7.5, -0.5], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        losses(x).mean().backward()
        optimizer.step()
    found = run(job("equal", start=(-7.5, -0.5), steps=30, lr=0.01))
    assert found.points[-1] == pytest.approx(x.tolist(), rel=1e-9)


def test_the_benchmark_writes_tables_and_figures(tmp_path, capsys):
    assert (
        main(["--steps", "4", "--jobs", "1", "--methods", "equal", "nash_mtl", "--out", str(tmp_path)]) == 0
    )
    for name in ("results.md", "parameters.png", "parameters.svg", "losses.png", "losses.svg"):
        assert (tmp_path / name).stat().st_size > 100
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["method"] for row in rows] == ["equal"] * 5 + ["nash_mtl"] * 5
    for row, start in zip(rows, STARTS * 2, strict=True):
        assert (float(row["start_x1"]), float(row["start_x2"])) == start
        values = losses_of(np.array([[float(row["x1"]), float(row["x2"])]]))[0]
        assert values.tolist() == [float(row["f1"]), float(row["f2"])]
        assert float(row["distance"]) > 0.1
        assert row["steps_to_front"] == ""
    assert "nash_mtl" in capsys.readouterr().out


def test_an_unknown_method_is_refused_with_the_allowed_ones(tmp_path, capsys):
    assert main(["--methods", "nash", "--out", str(tmp_path / "out")]) == 2
    message = " ".join(capsys.readouterr().out.split())
    assert "'nash'" in message
    assert "nash_mtl" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_runs_side_by_side_give_the_same_results(tmp_path):
    options = ["--steps", "30", "--methods", "sage(nash_mtl)", "--seed", "3", "--out"]
    assert main([*options, str(tmp_path / "one"), "--jobs", "1"]) == 0
    assert main([*options, str(tmp_path / "two"), "--jobs", "2"]) == 0
    names = ("results.csv", "results.md", "parameters.svg", "losses.png")
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("nash_mtl", 1_300), ("famo", 3_000)])
@pytest.mark.parametrize("start", STARTS)
def test_balancing_methods_reach_the_front_from_every_start(method, steps, start, front):
    assert arrival(run(job(method, start, steps, 1e-2)), front[1], 0.01) is not None


@pytest.mark.slow
def test_from_9_9_with_the_papers_learning_rate_nash_reaches_the_front_and_equal_weights_are_stuck(front):
    balanced, equal = (run(job(method, (9.0, 9.0), 18_000, PAPER_LR)) for method in ("nash_mtl", "equal"))
    assert arrival(balanced, front[1], 1e-3) is not None
    assert arrival(equal, front[1], 1e-3) is None
    assert equal.points[-1, 1] > 1  # still above, in the valley of the second loss


def job(method, start=STARTS[0], steps=1, lr=0.01):
    return Job(method, METHODS[method], start, steps, lr, seed=0)
