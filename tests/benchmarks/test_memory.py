"""The benchmark's bytes by hand, and that it runs."""

import csv

import memory as benchmark
import pytest
import torch
from step_cases import domain_problem
from torch import nn


class Linear(nn.Linear):
    def forward(self, inputs):
        return {"class": super().forward(inputs)}


@pytest.fixture
def posed():
    model = Linear(1000, 7)
    minibatches = [(torch.randn(2, 1000), torch.tensor([0, 1])) for _ in range(3)]
    return domain_problem(model, minibatches)


def test_the_buffer_is_k_gradients(posed):
    assert benchmark.buffer_of(posed) == 3 * 4 * (7 * 1000 + 7)


def test_a_plain_step_needs_its_gradients_and_ours_of_k_gradients_the_buffer(posed):
    gradient = benchmark.buffer_of(posed) // 3
    erm = benchmark.peak_of_erm(posed)
    assert gradient <= erm
    nash, equal = (benchmark.peak_of(posed, {"base": base}) for base in ("nash_mtl", "equal"))
    assert nash >= 3 * gradient
    assert gradient <= equal < 3 * gradient
    assert nash == benchmark.peak_of(posed, {"base": "nash_mtl"})  # every measurement starts afresh


def test_what_is_above_is_the_peak_less_erm_and_the_buffer():
    mib = benchmark.MIB
    peaks = {"less": 4 * mib, "just": 5 * mib, "more": 6 * mib}
    (less, just, more) = benchmark.table(3, 2 * mib, 3 * mib, peaks).rows
    assert [row.cells[-1].mean for row in (less, just, more)] == [-1.0, 0.0, 1.0]
    assert benchmark.verdict(3, 2 * mib, 3 * mib, peaks).endswith("NOT met by more")
    del peaks["more"]
    assert benchmark.verdict(3, 2 * mib, 3 * mib, peaks).endswith("met by all")


def test_the_benchmark_writes_tables(tmp_path, capsys):
    options = ["--domains", "2", "--images", "1", "--pixels", "32", "--methods", "equal", "nash_mtl"]
    assert benchmark.main([*options, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "results.md").stat().st_size > 100
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert {row["label"] for row in rows} == {"equal", "nash_mtl"}
    value = {(row["label"], row["column"]): float(row["mean"]) for row in rows}
    assert value["nash_mtl", "(K, P) buffer"] == pytest.approx(2 * 4 * 11_180_103 / benchmark.MIB, rel=1e-6)
    assert value["equal", "peak"] < value["nash_mtl", "peak"]
    assert "2 domains" in capsys.readouterr().out
