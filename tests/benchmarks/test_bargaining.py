"""The benchmark's Gramians, its reference weights by other routes, and what counts as a failure."""

import csv
import math

import bargaining as benchmark
import mpmath
import numpy as np
import pytest
import torch
from bargaining_cases import Case, conditioned, hard, reference, square, unsolvable
from bargaining_results import Result, judged, tables, verdict
from measure import Ratio

HARD = list(hard((2, 10), seed=0))
UNSOLVABLE = list(unsolvable(2, seed=0)) + list(unsolvable(10, seed=0))


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_gramians_have_the_condition_asked_for(condition):
    case = conditioned(12, condition, seed=3)
    assert np.linalg.cond(case.gramian) == pytest.approx(condition, rel=1e-4)
    assert np.linalg.eigvalsh(case.gramian).max() == pytest.approx(1.0)
    assert torch.equal(case.matrix, conditioned(12, condition, seed=3).matrix)
    assert not torch.equal(case.matrix, conditioned(12, condition, seed=4).matrix)


@pytest.mark.parametrize("shape", [(4, 9), (4, 4), (9, 5)])
def test_square_rows_have_the_same_inner_products(shape):
    rows = np.random.default_rng(0).standard_normal(shape)
    found = square(rows)
    assert found.shape == (shape[0], shape[0])
    assert found @ found.T == pytest.approx(rows @ rows.T, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("cosine", [-0.999, -0.5, 0.0, 0.9])
def test_the_reference_of_two_sources_is_the_closed_form(cosine):
    g11, g22 = 4.0, 1e-6
    gramian = np.array([[g11, cosine * math.sqrt(g11 * g22)], [cosine * math.sqrt(g11 * g22), g22]])
    first = 1 / math.sqrt(g11 + gramian[0, 1] * math.sqrt(g11 / g22))
    assert reference(gramian).astype(float) == pytest.approx([first, first * math.sqrt(g11 / g22)], rel=1e-11)


@pytest.mark.parametrize("condition", [1e2, 1e8])
def test_the_reference_is_the_root_that_40_digits_find(condition):
    gramian = conditioned(4, condition, seed=1).gramian
    gramian = (gramian + gramian.T) / 2
    found = reference(gramian)
    with mpmath.workdps(40):
        exact = mpmath.matrix(gramian.tolist())

        def system(*weights):
            products = exact * mpmath.matrix(weights)
            return [products[i] * weights[i] - 1 for i in range(4)]

        root = mpmath.findroot(system, [float(value) for value in found])
        assert all(value > 0 for value in root)
        errors = [abs(float(mpmath.log(root[i] / mpmath.mpf(str(found[i]))))) for i in range(4)]
    assert max(errors) < 1e-10


@pytest.mark.parametrize("case", HARD, ids=lambda case: f"{case.family}-{case.k}")
def test_the_reference_and_ours_solve_every_hard_gramian(case):
    exact = reference(case.gramian)
    rounding = 1e-8 if case.matrix.dtype == torch.float64 else 1e-4
    assert np.abs(exact * (case.gramian @ exact) - 1).max() < 1e-8
    residual, error, failure = judged(
        case, benchmark.answer(benchmark.ways(case.k)["ours"], case.matrix), exact
    )
    assert not failure
    assert residual < rounding
    assert error < rounding


@pytest.mark.parametrize("case", UNSOLVABLE, ids=lambda case: f"{case.family}-{case.k}")
def test_gramians_without_a_solution_have_a_vanishing_combination_and_ours_says_so(case):
    assert abs(np.linalg.eigvalsh(case.gramian)[0]) < 1e-9 * np.trace(case.gramian)
    assert benchmark.answer(benchmark.ways(case.k)["ours"], case.matrix) is None


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
@pytest.mark.parametrize("way", list(benchmark.ways(3)))
def test_every_way_solves_an_easy_gramian(way):
    case = Case("given", torch.diag(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)))
    ways = benchmark.ways(3)
    for _ in range(2):  # the second call finds what the first has left
        assert ways[way](case.matrix) == pytest.approx([1.0, 0.5, 2.0], rel=1e-3)


@pytest.mark.parametrize(
    ("given", "solvable", "residual", "failure"),
    [
        ([1.0, 0.5], True, 0.0, ""),
        ([1.0, 1.0], True, 3.0, "inexact"),
        ([-1.0, 0.5], True, 0.0, "not positive"),
        ([math.nan, 0.5], True, math.nan, "not finite"),
        (None, True, math.nan, "no weights"),
        (None, False, math.nan, ""),
        ([1.0, 0.5], False, 0.0, "weights"),
        ("SolverError", True, math.nan, "SolverError"),
    ],
)
def test_what_counts_as_a_failure(given, solvable, residual, failure):
    case = Case("given", torch.diag(torch.tensor([1.0, 2.0])), solvable=solvable)
    answer = np.array(given) if isinstance(given, list) else given
    found = judged(case, answer, np.array([1.0, 0.5], np.longdouble))
    assert found[0] == pytest.approx(residual, nan_ok=True)
    assert found[2] == failure


def test_the_error_is_the_largest_of_the_logarithms():
    case = Case("given", torch.eye(2))
    exact = np.array([1.0, 1.0], np.longdouble)
    assert judged(case, np.array([1.0, math.exp(-2.0)]), exact)[1] == pytest.approx(2.0)


def test_the_verdict_names_the_smallest_speed_up_and_every_failure():
    slow, fast = conditioned(2, 1.0, 0), conditioned(3, 1e2, 0)
    lines = verdict(
        [
            result(slow, "ours"),
            result(fast, "ours"),
            result(slow, "other", 60.0),
            result(fast, "other", 49.0),
            result(slow, "slow", 60.0),
            result(fast, "slow", 51.0, "inexact"),
        ]
    )
    assert "fails on 0 of 2" in lines[1]
    assert "49 times as fast (K = 3, condition 1e+02): target NOT met" in lines[2]
    assert "fails on 1 of 2" in lines[3]
    assert lines[3].endswith("target met")


def test_where_ours_fails_the_target_is_met_against_nobody():
    case = conditioned(2, 1.0, 0)
    lines = verdict([result(case, "ours", failure="inexact"), result(case, "other", 500.0)])
    assert "fails on 1 of 1" in lines[1]
    assert lines[2].endswith("NOT met")


def test_times_are_tabled_by_size_and_condition():
    results = [
        result(conditioned(k, c, 0), way, ratio)
        for k in (2, 3)
        for c in (1.0, 1e4)
        for way, ratio in (("ours", 1.0), ("other", 10.0 * k))
    ]
    microseconds, ratios, accuracy = tables(results)
    assert [row.label for row in ratios.rows] == ["K = 2", "K = 3"]
    assert [[cell.mean for cell in row.cells] for row in ratios.rows] == [[20.0, 20.0], [30.0, 30.0]]
    assert microseconds.rows[0].cells[0].text == "1000"
    assert [row.label for row in accuracy.rows] == ["ours", "other"]


@pytest.mark.slow
def test_the_benchmark_writes_tables_and_a_figure(tmp_path, capsys):
    options = ["--sizes", "2", "3", "--conditions", "1", "1e4", "--repeats", "1", "--out", str(tmp_path)]
    assert benchmark.main(options) == 0
    for name in ("results.md", "bargaining.png", "bargaining.svg"):
        assert (tmp_path / name).stat().st_size > 100
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert {row["family"] for row in rows} >= {"conditioned", "network", "zero"}
    ours = [row for row in rows if row["way"] == "ours"]
    assert [row["failure"] for row in ours] == [""] * len(ours)
    assert all(float(row["ratio"]) == 1.0 for row in ours)
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert "ours: fails on 0 of" in " ".join(capsys.readouterr().out.split())


def result(case, way, ratio=1.0, failure=""):
    return Result(case, way, 1e-3, Ratio(ratio, ratio, ratio), 1e-9, 1e-9, failure)
