"""The benchmark from its command line: what is printed and written; what each case is."""

import csv
from functools import partial

import pytest
import step_cases
import step_cost
import torch
from measure import Ratio
from step_cases import CASES, Case, Problem, mlp
from step_figures import draw
from step_tables import Result, tables, to_csv
from step_ways import METHODS
from torch import nn

METHODS_RUN = ["equal", "sam", "upgrad"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A quick run of a tiny case; -> (exit status, folder, lines of results.csv)."""
    out = tmp_path_factory.mktemp("step_cost")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CASES, "tiny", Case("tiny MLP", partial(mlp, 2, n_images=2, width=4), heavy=False))
        argv = ["--quick", "--cases", "tiny", "--only", *METHODS_RUN, "--threads", "1", "--device", "cpu"]
        status = step_cost.main([*argv, "--repeats", "2", "--out", str(out)])
    return status, out, list(csv.DictReader((out / "results.csv").open()))


def test_every_way_of_every_method_has_a_line(run):
    status, _, lines = run
    assert status == 0
    found = {(line["method"], line["way"]) for line in lines}
    assert found == {
        ("equal", "ours"), ("equal", "papers"), ("equal", "bare"),
        ("equal", "autojac"), ("equal", "autogram"),
        ("sam", "ours"), ("sam", "papers"), ("sam", "bare"),
        ("upgrad", "ours"), ("upgrad", "autojac"), ("upgrad", "autogram"), ("upgrad", "bare"),
    }  # fmt: skip


def test_measured_lines_have_ratios_and_failed_ones_the_reason(run):
    for line in run[2]:
        assert (line["case"], line["repeats"], line["threads"]) == ("tiny", "2", "1")
        if (line["method"], line["way"]) == ("equal", "autogram"):
            assert line["note"] == "TypeError: Mean does not work on the Gramian"
            assert line["time_ratio"] == line["memory_ratio"] == ""
            continue
        assert line["note"] == ""
        assert 0 < float(line["time_low"]) <= float(line["time_ratio"]) <= float(line["time_high"])
        assert float(line["memory_ratio"]) > 0
        assert (line["overhead"] != "") == (line["way"] == "ours")


def test_figures_and_tables_are_written(run):
    _, out, _ = run
    files = {path.name for path in out.iterdir()}
    assert files == {"results.csv", "results.md", "tiny.png", "tiny.svg", "tiny.pdf"}
    text = (out / "results.md").read_text()
    assert "1 threads" in text
    assert "n/a: equal, TorchJD autogram: TypeError: Mean does not work on the Gramian" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cases", "mlp-3"], "mlp-2"),
        (["--only", "samm"], "sam"),
    ],
)
def test_unknown_names_are_refused(argv, message, capsys):
    assert step_cost.main(argv) == 2
    assert message in capsys.readouterr().out


def test_all_stands_for_every_name():
    known = ["a", "b"]
    assert step_cost.chosen(["all"], "case", known, ["a"]) == known
    assert step_cost.chosen(None, "case", known, ["a"]) == ["a"]
    assert step_cost.chosen(["b"], "case", known, ["a"]) == ["b"]


def result(method, way, time, memory=2.0, note=""):
    measured = Ratio(time, time - 0.1, time + 0.2) if time else None
    overhead = Ratio(1.04, 1.03, 1.05) if way == "ours" else None
    return Result("case", method, way, measured, overhead, memory if time else None, 0.5, 7, 1, note)


RESULTS = [
    result("sam", "ours", 2.0),
    result("sam", "papers", 2.5),
    result("sam", "bare", 1.9),
    result("upgrad", "ours", 3.0),
    result("upgrad", "autogram", None, note="RuntimeError: no"),
]


def test_tables_show_ratios_overhead_and_reasons():
    times, memory = tables("title", RESULTS)
    assert [column.name for column in times.columns] == [
        "ours",
        "papers' way",
        "TorchJD autogram",
        "overhead",
    ]
    shown = {row.label: [cell and cell.show(2) for cell in row.cells] for row in times.rows}
    assert shown == {
        "sam": ["2.00 (1.90-2.20)", "2.50 (2.40-2.70)", None, "1.04 (1.03-1.05)"],
        "upgrad": ["3.00 (2.90-3.20)", None, "n/a", "1.04 (1.03-1.05)"],
    }
    assert "n/a: upgrad, TorchJD autogram: RuntimeError: no" in times.notes
    assert [[cell and cell.show(2) for cell in row.cells] for row in memory.rows] == [
        ["2.00", "2.00", None],
        ["2.00", None, "n/a"],
    ]
    assert to_csv(RESULTS).splitlines()[2].startswith("case,sam,papers,2.5,2.4,2.7,,,,2.0,0.5,7,1,")


def test_figure_has_a_bar_for_what_was_measured():
    figure = draw("title", RESULTS)
    time, memory = figure.axes
    assert sorted(bar.get_width() for bar in time.patches) == [2.0, 2.5, 3.0]
    assert [bar.get_width() for bar in memory.patches] == [2.0] * 3
    assert [text.get_text() for text in time.texts].count("n/a") == 1
    assert [label.get_text() for label in time.get_yticklabels()] == ["sam", "upgrad"]


def test_default_cases_and_methods_are_known():
    assert set(step_cases.DEFAULT) <= set(CASES)
    assert set(step_cost.KEY) <= set(METHODS)
    assert set(step_cost.QUICK) <= set(CASES)


@pytest.mark.parametrize("case", ["mlp-2", "mlp-5"])
def test_a_case_is_the_same_at_every_build_and_agrees_with_our_objective(case):
    one, other = (CASES[case].build(torch.device("cpu"), False) for _ in range(2))
    losses = torch.stack(one.joint())
    assert len(losses) == one.n_sources == int(case.split("-")[1])
    assert torch.equal(losses, torch.stack(other.joint()))
    alone = torch.stack([one.source(k) for k in range(one.n_sources)])
    torch.testing.assert_close(losses, alone)
    torch.testing.assert_close(losses, torch.stack(list(one.objective().losses())))
    assert one.objective().separate is one.separate is True
    assert len({id(p) for p in one.parameters}) == len(list(one.model.parameters()))


def test_tasks_have_specific_heads():
    problem = step_cases.mtan(2, torch.device("cpu"), False)
    assert isinstance(problem, Problem)
    objective = problem.objective()
    assert problem.n_sources == len(problem.specific) == len(problem.heads) == objective.n_sources == 2
    assert objective.separate is problem.separate is False
    assert len({id(p) for p in problem.parameters}) == len(list(problem.model.parameters()))
    assert objective.space.n_shared == sum(p.numel() for p in problem.shared)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_gives_graphs_of_their_own(frozen):
    problem = step_cases.resnet(step_cases.ResNet18, 3, frozen, torch.device("cpu"), False)
    assert problem.separate is problem.objective().separate is frozen
    norms = [m for m in problem.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.training is not frozen for norm in norms)
