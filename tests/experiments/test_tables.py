"""Tables against means, errors, worst domains and delta_m worked out by hand."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_runs import accuracy_on, write_run

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.report import print_report, write_report
from mtlsuite.experiments.results import collect
from mtlsuite.experiments.summary import summarise
from mtlsuite.experiments.tables import (
    Cell,
    Column,
    Row,
    Table,
    latex_escape,
    to_csv,
    to_latex,
    to_markdown,
    to_rich,
)


def cells(table: Table, label: str) -> dict[str, Cell | None]:
    row = next(row for row in table.rows if row.label == label)
    return dict(zip((column.name for column in table.columns), row.cells, strict=True))


def held_out_runs(root: Path, label: str, scores: dict[int, dict[str, float]], solver: object) -> None:
    for seed, by_domain in scores.items():
        for domain, score in by_domain.items():
            name = f"{label}-{seed}-{domain}"
            write_run(root, name, label, [accuracy_on(domain, score)], seed, [domain], ["class"], solver)


ERM = {0: {"a": 0.50, "b": 0.70}, 1: {"a": 0.60, "b": 0.40}}
SAGE = {0: {"a": 0.90, "b": 0.80}, 1: {"a": 0.80, "b": 0.90}}


def test_held_out_table_by_hand(tmp_path: Path) -> None:
    held_out_runs(tmp_path, "X", SAGE, {"base": "equal", "wrap": ["sage"]})
    held_out_runs(tmp_path, "Y", ERM, {"base": {"name": "equal"}, "wrap": []})
    (table,) = summarise(collect(tmp_path))
    assert [row.label for row in table.rows] == ["Y", "X"]  # equal weights lead, whatever they are called
    assert [column.header() for column in table.columns] == ["a", "b", "mean", "worst"]
    found = cells(table, "Y")
    # a: 50, 60; b: 70, 40; seed means 60, 50; seed worsts 50, 40; n = 2: stderr = |difference| / 2
    by_hand = {"a": (55.0, 5.0), "b": (55.0, 15.0), "mean": (55.0, 5.0), "worst": (45.0, 5.0)}
    for name, (mean, stderr) in by_hand.items():
        cell = found[name]
        assert cell is not None
        assert (cell.mean, cell.stderr, cell.n) == (pytest.approx(mean), pytest.approx(stderr), 2)
    assert any("mean against Y" in note and "better: X" in note for note in table.notes)


def test_worst_is_taken_in_each_seed_and_is_the_highest_error_where_lower_is_better(tmp_path: Path) -> None:
    for seed, errors in enumerate([{"a": 1.0, "b": 3.0}, {"a": 4.0, "b": 2.0}]):
        splits = {f"val/{d}": {"depth/abs_err": e, "depth/rel_err": 1.0} for d, e in errors.items()}
        write_run(tmp_path, str(seed), "A", [splits], seed, tasks=["depth"])
    (table,) = summarise(collect(tmp_path))
    found = cells(table, "A")
    assert found["worst"] == Cell(3.5, 0.5, 2)
    assert found["mean"] == Cell(2.5, 0.5, 2)
    assert "lower is better" in table.title


def test_standard_error_has_ddof_one_and_needs_two_values() -> None:
    cell = Cell.of([1.0, 2.0, 6.0])
    assert cell is not None
    assert cell.stderr == pytest.approx(math.sqrt(((2 - 0) ** 2 + 1 + 9) / 2 / 3))
    assert cell.show(2) == "3.00 \N{PLUS-MINUS SIGN} 1.53"
    alone = Cell.of([0.25])
    assert alone is not None
    assert alone.show(2) == "0.25"
    assert Cell.of([]) is None


def test_a_seed_without_all_domains_is_kept_out_of_mean_and_worst(tmp_path: Path) -> None:
    held_out_runs(tmp_path, "A", ERM, "equal")
    shutil.rmtree(tmp_path / "runs" / "A-1-b")
    write_run(tmp_path, "A-1-b", "A", [accuracy_on("b", 0.01)], 1, ["b"], ["class"], status="failed")
    (table,) = summarise(collect(tmp_path))
    found = cells(table, "A")
    assert found["b"] == Cell(pytest.approx(70.0), None, 1)
    assert found["a"] is not None
    assert found["a"].n == 2
    assert found["worst"] == Cell(pytest.approx(50.0), None, 1)
    assert any("only the seeds that have all domains: A" in note for note in table.notes)
    assert any("1 of 4 runs not finished and left out: A-1-b (failed)" in note for note in table.notes)


def test_a_lost_domain_is_the_worst_whatever_its_place(tmp_path: Path) -> None:
    for number, scores in enumerate([(0.5, math.nan), (math.nan, 0.5)]):
        splits = {f"val/{d}": {"class/accuracy": s} for d, s in zip("ab", scores, strict=True)}
        write_run(tmp_path, str(number), f"m{number}", [splits], tasks=["class"])
    (table,) = summarise(collect(tmp_path))
    for label in ("m0", "m1"):
        worst = cells(table, label)["worst"]
        assert worst is not None
        assert math.isnan(worst.mean)
    assert "nan" in to_latex(table)


SEG = {"segmentation/miou": 0.5, "segmentation/pixel_accuracy": 0.8}
DEPTH = {"depth/abs_err": 0.02, "depth/rel_err": 10.0}


def task_runs(root: Path) -> None:
    """The baseline B is (0.5, 0.8, 0.02, 10) on average over two seeds of each task."""
    for seed, factor in enumerate([0.9, 1.1]):
        seg = {name: factor * value for name, value in SEG.items()}
        write_run(
            root, f"s{seed}", "single-task", [{"val": seg}], seed, tasks=["segmentation"], baseline=True
        )
        write_run(root, f"d{seed}", "single-task", [{"val": DEPTH}], seed, tasks=["depth"], baseline=True)
        both = {name: value * 0.9 for name, value in (SEG | DEPTH).items()}
        tasks = ["segmentation", "depth"]
        write_run(root, f"e{seed}", "ERM", [{"val": both}], seed, tasks=tasks, solver="equal")
        better = {name: value * (1.1 + 0.1 * seed) for name, value in SEG.items()} | DEPTH
        write_run(root, f"n{seed}", "Nash", [{"val": better}], seed, tasks=tasks, solver="nash_mtl")


def test_task_table_and_delta_m_by_hand(tmp_path: Path) -> None:
    task_runs(tmp_path)
    (table,) = summarise(collect(tmp_path))
    assert [row.label for row in table.rows] == ["single-task", "ERM", "Nash"]
    reference = cells(table, "single-task")
    assert reference["mIoU"] is not None
    assert (reference["mIoU"].mean, reference["mIoU"].stderr) == (pytest.approx(50), pytest.approx(5))
    delta = reference["delta_m"]
    assert delta is not None
    assert (delta.mean, delta.text) == (0.0, "0 (reference)")
    # seeds of the baseline: -/+ 10% on two of the four metrics, so delta_m +5 and -5: standard error 5
    assert delta.stderr == pytest.approx(5.0)
    # ERM: two metrics 10% lower (worse: +10 each), two errors 10% lower (better: -10 each)
    erm = cells(table, "ERM")["delta_m"]
    assert erm is not None
    assert (erm.mean, erm.stderr) == (pytest.approx(0.0), pytest.approx(0.0))
    # Nash: -(10 + 10) / 4 = -5 and -(20 + 20) / 4 = -10 in the two seeds
    nash = cells(table, "Nash")["delta_m"]
    assert nash is not None
    assert (nash.mean, nash.stderr) == (pytest.approx(-7.5), pytest.approx(2.5))
    # better than the baseline by 7.5 > hypot(2.5, 5) = 5.6
    (against,) = [note for note in table.notes if note.startswith("delta_m against single-task")]
    assert "better: Nash" in against
    assert "within the noise: ERM" in against


def test_mean_rank_leaves_the_baseline_out(tmp_path: Path) -> None:
    task_runs(tmp_path)
    (table,) = summarise(collect(tmp_path))
    assert cells(table, "single-task")["mean rank"] is None
    ranks = [cells(table, label)["mean rank"] for label in ("ERM", "Nash")]
    # Nash wins both segmentation metrics, ERM has the smaller errors of both depth metrics
    assert [rank.mean for rank in ranks if rank] == [1.5, 1.5]


def test_without_a_part_of_the_baseline_there_is_no_delta_m_and_a_note(tmp_path: Path) -> None:
    task_runs(tmp_path)
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "runs" / f"d{seed}")
    (table,) = summarise(collect(tmp_path))
    assert "delta_m" not in [column.name for column in table.columns]
    assert any("no finished single-task run measured depth/abs_err" in note for note in table.notes)


def test_tasks_on_domains_give_a_table_a_task_and_one_over_all(tmp_path: Path) -> None:
    first = {"segmentation/miou": 0.4, "segmentation/pixel_accuracy": 0.6} | DEPTH
    second = {"segmentation/miou": 0.6, "segmentation/pixel_accuracy": 0.8} | DEPTH
    splits = {"val/day": first, "val/dusk": second}
    write_run(tmp_path, "0", "A", [splits], tasks=["segmentation", "depth"])
    by_domain, depth, everything = summarise(collect(tmp_path))
    assert cells(by_domain, "A")["worst"] == Cell(pytest.approx(40.0))
    assert [column.name for column in depth.columns] == ["day", "dusk", "mean", "worst"]
    assert cells(everything, "A")["pixel accuracy"] == Cell(pytest.approx(70.0))


def test_one_seed_is_never_called_better(tmp_path: Path) -> None:
    for label, score in (("A", 0.1), ("B", 0.9)):
        write_run(tmp_path, label, label, [accuracy_on("x", score)], held_out=["x"], tasks=["class"])
    (table,) = summarise(collect(tmp_path))
    said = [note for note in table.notes if "against A" in note]
    assert said
    assert all("no standard error, so not judged: B" in note and "better" not in note for note in said)


def test_runs_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for name in ("lr-1", "lr-2"):
        write_run(tmp_path, name, "A", [accuracy_on("x", 0.5)], held_out=["x"], tasks=["class"])
    with pytest.raises(UsageError, match="'lr-1' and 'lr-2' share the label 'A'"):
        summarise(collect(tmp_path))


ODD = r"a_b & 50% $x$ #1 {y} ~ ^ \ <i> | [bold]"


def odd_table() -> Table:
    columns = (Column("acc", "%", 1, True), Column("err", "", 3, False))
    rows = (
        Row(ODD, (Cell(1 / 3, 0.125, 3), Cell(2.0))),
        Row("plain", (Cell(-2.0, 0.5, 2), None)),
        Row("ref", (Cell(9.0), Cell(0.0, text="0 (reference)")), reference=True),
    )
    return Table("T & co", columns, rows, ("a note_",))


def test_best_follows_the_direction_and_never_takes_the_reference() -> None:
    table = odd_table()
    assert table.best(0) == {0}
    lower = Table("", (Column("e", "", 1, False),), tuple(Row(str(v), (Cell(v),)) for v in (2.0, 1.04, 1.0)))
    assert lower.best(0) == {1, 2}  # equal as printed
    same = Table("", lower.columns, tuple(Row(str(v), (Cell(1.0),)) for v in range(3)))
    assert same.best(0) == set()


def test_csv_parses_back_in_full_precision() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv([odd_table()]))))
    assert len(lines) == 5
    assert lines[0]["label"] == ODD
    assert (float(lines[0]["mean"]), float(lines[0]["stderr"]), int(lines[0]["n"])) == (1 / 3, 0.125, 3)
    assert lines[1]["stderr"] == ""


def test_markdown_rows_have_one_cell_a_column_and_mark_the_best() -> None:
    lines = to_markdown(odd_table()).splitlines()
    rows = [line.replace(r"\|", "") for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {4}
    assert "**0.3 \N{PLUS-MINUS SIGN} 0.1**" in rows[2]
    assert r"\[bold\]" in rows[2]
    assert lines[-1] == r"- a note\_"


def test_terminal_prints_labels_as_they_are_and_the_best_in_bold() -> None:
    console = Console(width=160, record=True, file=io.StringIO(), force_terminal=True)
    console.print(to_rich(odd_table()))
    styled = console.export_text(clear=False, styles=True)
    assert ODD in console.export_text()
    assert re.search("\x1b\\[1m *0.3 \N{PLUS-MINUS SIGN} 0.1", styled)
    assert not re.search("\x1b\\[1m *-2.0", styled)


def test_latex_escapes_every_special_character() -> None:
    assert latex_escape("&%$#_{}") == r"\&\%\$\#\_\{\}"
    assert latex_escape("\\~^") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}"
    assert latex_escape("two\nlines") == "two lines"
    latex = to_latex(odd_table())
    assert latex.count(r"\\") - latex.count(r"\\\\") == 4  # header and three rows
    assert r"$\mathbf{0.3 \pm 0.1}$" in latex
    assert "$-2.0 \\pm 0.5$ & -- \\\\" in latex
    assert r"$\uparrow$" in latex
    assert r"$\downarrow$" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + to_latex(odd_table()) + "\\end{document}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_report_of_unfinished_runs_says_so_and_writes_nothing(tmp_path: Path) -> None:
    for name, status in (("a", "failed"), ("b", "running"), ("c", "running")):
        write_run(tmp_path, name, "A", [accuracy_on("x", 0.5)], held_out=["x"], status=status)
    tables = write_report(tmp_path, "none")
    console = Console(width=100, file=io.StringIO())
    print_report(tmp_path, "none", tables, console)
    assert tables == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "No finished run, so there is no table: 1 failed, 2 running." in console.file.getvalue()


def test_report_writes_what_it_returns(tmp_path: Path) -> None:
    task_runs(tmp_path)
    tables = write_report(tmp_path, "My [title]")
    console = Console(width=200, file=io.StringIO())
    print_report(tmp_path, "My [title]", tables, console)
    shown = console.file.getvalue()
    assert "My [title]" in shown
    assert "0 (reference)" in shown
    assert (tmp_path / "table.csv").read_text() == to_csv(tables)
    assert to_markdown(tables[0]) in (tmp_path / "table.md").read_text()
    assert (tmp_path / "table.tex").read_text() == to_latex(tables[0])
