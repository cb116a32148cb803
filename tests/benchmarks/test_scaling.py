"""The fitted laws by hand, the sizes of the problems, and that the benchmark runs."""

import csv

import pytest
import scaling as benchmark
import torch
from scaling_cases import METHODS, PAPERS_NASH, Sample, Size, fitted, problem, step_of


@pytest.mark.parametrize(("exponent", "factor"), [(1.0, 2.0), (0.5, 0.1), (-0.3, 7.0), (0.0, 3.0)])
def test_a_power_law_is_found(exponent, factor):
    law = fitted({x: factor * x**exponent for x in (2, 5, 7, 40)})
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.factor == pytest.approx(factor)


def test_the_fit_leaves_the_smaller_half_out():
    law = fitted({1: 100.0, 2: 100.0, 4: 100.0, 10: 1.0, 100: 10.0, 1000: 100.0})
    assert (law.low, law.high) == (10, 1000)
    assert law.exponent == pytest.approx(1.0)


def test_one_size_has_no_law():
    assert fitted({3: 1.0}) is None


def test_least_squares_of_three_points_by_hand():
    law = fitted({1: 1.0, 10: 100.0, 100: 100.0})  # logs (0, 0), (1, 2), (2, 2): slope 1, level 1/3
    assert law.exponent == pytest.approx(1.0)
    assert law.factor == pytest.approx(10 ** (1 / 3))


@pytest.mark.parametrize("parameters", [100_000, 1_000_000])
@pytest.mark.parametrize("kind", ["domains", "tasks"])
def test_problems_have_about_the_parameters_asked_for(kind, parameters):
    posed = problem(kind, Size(3, parameters, 5), torch.device("cpu"))
    assert posed.n_sources == 3
    assert sum(p.numel() for p in posed.parameters) == pytest.approx(parameters, rel=0.05)
    assert posed.separate == (kind == "domains")
    assert [loss.shape for loss in posed.joint()] == [()] * 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["domains", "tasks"])
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
def test_a_step_of_every_method_moves_the_parameters(kind, method):
    posed = problem(kind, Size(2, 2_000, 4), torch.device("cpu"))
    before = [p.detach().clone() for p in posed.parameters]
    step_of(posed, method)()
    assert any(not torch.equal(p, q) for p, q in zip(posed.parameters, before, strict=True))


def test_a_method_that_would_take_too_long_is_left_out_of_the_larger_sizes(monkeypatch):
    def slow(kind, axis, size, methods, repeats, device):  # noqa: ARG001
        return [
            Sample(kind, axis, m, size, (size.sources * (1.0 if m == "famo" else 0.1),), 8) for m in methods
        ]

    monkeypatch.setattr(benchmark, "measured", slow)
    options = benchmark.arguments(["--sources", "1", "2", "4", "8", "--longest", "3"])
    samples = benchmark.measure(options, ["equal", "famo"], benchmark.Console())
    of_sources = [s for s in samples if s.axis == "sources" and s.kind == "domains"]
    assert [s.value for s in of_sources if s.method == "equal"] == [1, 2, 4, 8]
    assert [s.value for s in of_sources if s.method == "famo"] == [1, 2]  # 4 seconds are too long


def test_tables_have_the_exponents_and_tell_the_range():
    samples = [
        Sample("tasks", "sources", method, Size(k, 100, 1), (k * 1.0, k * 1.0), 10 * k * k)
        for method, sizes in (("equal", (2, 4, 8, 16, 24, 40)), ("famo", (2, 4, 8)))
        for k in sizes
    ]
    exponents, seconds, _ = benchmark.tables(samples, "tasks")
    assert [cell.mean for cell in exponents.rows[0].cells] == pytest.approx([1.0, 2.0])
    assert exponents.notes == (
        "Fitted to sources 16 to 40 (equal).",
        "Fitted to sources 2 to 8 (famo).",
    )
    assert seconds.rows[1].cells[3:] == (None, None, None)


@pytest.mark.slow
def test_the_benchmark_writes_tables_and_figures(tmp_path):
    small = ["--sources", "2", "3", "--parameters", "1000", "2000", "--batch", "2", "4", "--repeats", "1"]
    assert (
        benchmark.main([*small, "--methods", "equal", "nash_mtl", PAPERS_NASH, "--out", str(tmp_path)]) == 0
    )
    for name in ("results.md", "domains.png", "domains.svg", "tasks.png", "tasks.svg"):
        assert (tmp_path / name).stat().st_size > 100
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == 2 * 3 * 2 * 3
    assert all(float(row["seconds"]) > 0 and int(row["peak_bytes"]) > 1000 for row in rows)


def test_an_unknown_method_is_refused_with_the_allowed_ones(tmp_path, capsys):
    assert benchmark.main(["--methods", "nash", "--out", str(tmp_path / "out")]) == 2
    message = " ".join(capsys.readouterr().out.split())
    assert "'nash'" in message
    assert "nash_mtl" in message
    assert not (tmp_path / "out").exists()
