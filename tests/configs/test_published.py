"""Published rows: what they were printed with follows from them, and how a table quotes them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from mtlsuite.experiments.published import Published, published
from mtlsuite.experiments.results import collect, write_status
from mtlsuite.experiments.summary import summarise
from mtlsuite.experiments.tables import Cell, Table, to_csv, to_latex, to_markdown, to_rich
from mtlsuite.metrics import delta_m, mean_rank

NYU_FLAGS = [True, True, False, False, False, False, True, True, True]
FLAGS = {"nyuv2": NYU_FLAGS, "cityscapes": NYU_FLAGS[:4]}
NASH_PAPER = ["LS", "SI", "RLW", "DWA", "UW", "MGDA", "PCGrad", "GradDrop", "CAGrad", "IMTL-G", "Nash-MTL"]


def of(dataset: str) -> Published:
    found = published(dataset, "batch")  # type: ignore[arg-type]
    assert found is not None
    return found


def values(dataset: str) -> dict[str, list[float]]:
    return {row.label: [float(v) for v in row.values] for row in of(dataset).rows if row.values}


@pytest.mark.parametrize(
    ("dataset", "row"),
    [pytest.param(d, row, id=f"{d}-{row.label}") for d in FLAGS for row in of(d).rows if row.values],
)
def test_delta_m_of_every_quoted_row_within_its_rounding(dataset: str, row: Any) -> None:
    baseline = of(dataset).baseline
    assert baseline is not None
    base = [float(value) for value in baseline.values]
    found = delta_m([float(value) for value in row.values], base, FLAGS[dataset])
    halves = [0.5 * 10.0 ** -len(value.partition(".")[2]) for value in row.values]
    hidden = (
        sum(2 * half / b for half, b in zip(halves, base, strict=True)) * 100 / len(base)
    )  # row and baseline
    if (dataset, row.label) == ("nyuv2", "IMTL-G"):
        assert found == pytest.approx(-0.60, abs=0.005), "the row that does not give what was printed"
        assert row.delta_m == "-0.76"
    else:
        assert found == pytest.approx(float(row.delta_m), abs=hidden + 0.005)


def test_mean_ranks_of_the_quoted_rows() -> None:
    everyone = values("nyuv2")
    assert list(everyone) == [*NASH_PAPER, "FAMO", "FairGrad"]
    eleven = mean_rank({label: everyone[label] for label in NASH_PAPER}, NYU_FLAGS)
    published_ranks = {"LS": 8.11, "Nash-MTL": 1.55, "IMTL-G": 3.11, "CAGrad": 3.77, "MGDA": 5.44}
    for label, rank in published_ranks.items():  # printed cut, not rounded
        assert 0 <= eleven[label] - rank < 0.01
    thirteen = mean_rank(everyone, NYU_FLAGS)
    for label, rank in {"LS": 9.89, "FAMO": 4.11, "Nash-MTL": 2.78, "FairGrad": 2.33}.items():
        assert thirteen[label] == pytest.approx(rank, abs=0.005)
    city = {label: row for label, row in values("cityscapes").items() if label in NASH_PAPER}
    ranks = mean_rank(city, FLAGS["cityscapes"])
    for label, rank in {"LS": 6.12, "Nash-MTL": 1.75, "IMTL-G": 3.62, "MGDA": 8.75}.items():
        assert 0 <= ranks[label] - rank < 0.01


def test_what_the_papers_of_the_protocol_say_of_ours_and_theirs() -> None:
    for dataset, batch_size, frames in (("nyuv2", 2, 795), ("cityscapes", 8, 2975)):
        found = of(dataset)
        assert found.frames == frames
        for key, value in {
            "optimizer": {"name": "Adam", "lr": 1e-4},
            "train.epochs": 200,
            "train.batch_size": batch_size,
            "evaluation.batch_size": batch_size,
            "evaluation.average_last": 10,
            "data.augment": True,
        }.items():
            assert found.protocol[key] == value
    assert published("scenes", "batch") is None
    assert published("cityscapes", "pixel") is None


# --- quoted beside measured runs -----------------------------------------------------------------------

CONFIG = {
    "data": {"name": "nyuv2", "root": "somewhere", "augment": True},
    "model": {"name": "segnet_mtan", "widths": [64, 128, 256, 512, 512]},
    "tasks": ["segmentation", "depth", "normals"],
    "optimizer": {"name": "Adam", "lr": 1e-4},
    "scheduler": {"name": "StepLR", "interval": "epoch", "step_size": 100, "gamma": 0.5},
    "train": {"steps": None, "epochs": 200, "batch_size": 2, "replacement": False},
    "averaging": None,
}
EVALUATION = {
    "every": 1,
    "batch_size": 2,
    "select": "last",
    "average_last": 10,
    "baseline": "published",
}
STL = [float(v) for v in of("nyuv2").baseline.values]  # type: ignore[union-attr]


def write_run(
    root: Path,
    label: str,
    row: list[float],
    seed: int = 0,
    baseline: bool = False,
    evaluation: dict[str, Any] | None = None,
    steps: int = 398,
    **changes: Any,
) -> None:
    """A run whose ten evaluations all measured ``row``, in the units of the papers."""
    folder = root / "runs" / f"{label}-{seed}"
    folder.mkdir(parents=True)
    config = {**CONFIG, "seed": seed, "evaluation": {**EVALUATION, **(evaluation or {})}, **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "label": label}))
    percent = {"miou", "pixel_accuracy", "within_11", "within_22", "within_30"}
    metrics = {
        key: value / 100 if key.split("/")[1] in percent else value
        for key, value in zip(of("nyuv2").metrics, row, strict=True)
    }
    records = [
        {"step": steps * epoch, "epoch": float(epoch), "metrics": {"val": metrics}} for epoch in range(11)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_status(folder, "done", label=label, baseline=baseline)


def the_table(root: Path) -> Table:
    [table] = summarise(collect(root))
    return table


def cell(table: Table, label: str, column: str) -> Cell | None:
    [row] = [row for row in table.rows if row.label == label]
    [number] = [i for i, c in enumerate(table.columns) if c.name == column]
    return row.cells[number]


def mean_of(table: Table, label: str, column: str) -> float:
    found = cell(table, label, column)
    assert found is not None
    return found.mean


def note(table: Table, start: str) -> str:
    [found] = [note for note in table.notes if note.startswith(start)]
    return found


def test_layout_marks_and_delta_m_by_hand(tmp_path: Path) -> None:
    better = [v * (1.1 if flag else 0.9) for v, flag in zip(STL, NYU_FLAGS, strict=True)]
    for seed in range(3):
        write_run(tmp_path, "LS", STL, seed)
        write_run(tmp_path, "Mine", better, seed)
    table = the_table(tmp_path)
    names = [column.name for column in table.columns]
    assert names[:4] == ["mIoU", "pixel accuracy", "abs. error", "rel. error"]
    assert names[-2:] == ["mean rank", "delta_m"], "as the papers have it"
    labels = [row.label for row in table.rows]
    assert labels[0] == "STL \N{DAGGER}"
    assert labels[-2:] == ["LS", "Mine"]
    assert "LS \N{DAGGER}" in labels, "the quoted row is another one"
    assert mean_of(table, "LS", "delta_m") == pytest.approx(0)
    assert mean_of(table, "Mine", "delta_m") == pytest.approx(-10)
    assert mean_of(table, "LS \N{DAGGER}", "delta_m") == 5.59
    assert cell(table, "SAMO-FairGrad \N{DAGGER}", "mIoU") is None
    assert mean_of(table, "SAMO-FairGrad \N{DAGGER}", "delta_m") == -6.55
    quoted = [row for row in table.rows if row.source]
    assert all(row.label.endswith("\N{DAGGER}") and row.reference for row in quoted)
    assert len(quoted) == len(table.rows) - 2
    assert all(quoted_row not in [table.rows[i] for i in table.best(0)] for quoted_row in quoted)
    assert note(table, "delta_m against").endswith("better: Mine.")


def test_quoted_numbers_keep_their_digits(tmp_path: Path) -> None:
    city = {"name": "cityscapes", "labels": "label_7", "augment": True}
    tasks = ["segmentation", "depth"]
    write_run(tmp_path, "LS", STL, data=city, tasks=tasks)
    text = to_markdown(the_table(tmp_path))
    assert "| FAMO \N{DAGGER} | 74.54 | 93.29 | 0.0145 | 32.59 | " in text


def test_the_set_that_is_ranked_is_named_and_ties_share(tmp_path: Path) -> None:
    famo = [v * (1.0001 if f else 0.9999) for v, f in zip(values("nyuv2")["FAMO"], NYU_FLAGS, strict=True)]
    for label in ("One", "Twin"):
        write_run(tmp_path, label, famo)
    table = the_table(tmp_path)
    compared = {f"{label} \N{DAGGER}": row for label, row in values("nyuv2").items()}
    compared |= {"One": famo, "Twin": famo}
    expected = mean_rank(compared, NYU_FLAGS)
    assert expected["One"] == expected["Twin"] == expected["FAMO \N{DAGGER}"] - 1.5
    for label, rank in expected.items():
        assert mean_of(table, label, "mean rank") == pytest.approx(rank)
    assert note(table, "Mean rank").endswith(f"among the 15 rows {', '.join(compared)}.")
    assert cell(table, "STL \N{DAGGER}", "mean rank") is None
    assert cell(table, "MoCo \N{DAGGER}", "mean rank") is None


def test_sources_conventions_and_seeds_are_said(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "LS", STL, seed)
    table = the_table(tmp_path)
    assert "over 3 seeds: mean of the last 10 evaluations of each run." in note(
        table, "Mean \N{PLUS-MINUS SIGN}"
    )
    assert "over batches of 2 images" in note(table, "Averages of depth and normals")
    sources = note(table, "\N{DAGGER} quoted, not measured here")
    assert "FairGrad (Ban and Ji" in sources
    assert "Navon et al., Nash-MTL, ICML 2022" in sources
    lines = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert {line["source"] for line in lines if line["label"] == "LS"} == {"measured"}
    assert {line["source"] for line in lines if line["label"] == "UW \N{DAGGER}"} == {
        "Navon et al., Nash-MTL, ICML 2022"
    }
    assert r"LS \textdagger{} & " in to_latex(table)


def test_runs_that_follow_the_protocol_and_runs_that_do_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "LS", STL)
    assert note(the_table(tmp_path / "a"), "The runs follow the protocol")
    for name, changes, words in [
        ("b", {"steps": 11}, "an epoch has 11 steps instead of 398: other data"),
        (
            "c",
            {"optimizer": {"name": "SGD", "lr": 1e-4}},
            "optimizer SGD lr=0.0001 instead of Adam lr=0.0001",
        ),
        ("d", {"scheduler": None}, "scheduler none instead of StepLR interval=epoch step_size=100 gamma=0.5"),
        ("e", {"evaluation": {"average_last": 1}}, "evaluation.average_last 1 instead of 10"),
        ("f", {"averaging": {"name": "ema"}}, "averaging ema instead of none"),
        ("g", {"data": {"name": "nyuv2", "augment": False}}, "data.augment False instead of True"),
    ]:
        write_run(tmp_path / name, "LS", STL, **changes)
        said = note(the_table(tmp_path / name), "Not comparable with the quoted rows")
        assert said == f"Not comparable with the quoted rows, by their protocol: {words}."


def test_pixels_and_batches_are_never_mixed(tmp_path: Path) -> None:
    write_run(tmp_path / "pixel", "LS", STL, evaluation={"averaging": "pixel"})
    table = the_table(tmp_path / "pixel")
    quoted = [row.label for row in table.rows if row.source]
    assert quoted == [f"{label} \N{DAGGER}" for label in ("EW", "CAGrad", "Nash", "Aligned")], "LibMTL's"
    assert "delta_m" not in [column.name for column in table.columns], "its tables have no single-task row"
    assert "over all pixels" in note(table, "Averages of")
    for label, averaging in (("A", "pixel"), ("B", "batch")):
        write_run(tmp_path / "both", label, STL, evaluation={"averaging": averaging})
    assert note(the_table(tmp_path / "both"), "Nothing quoted")


@pytest.mark.parametrize(
    "changes",
    [{"data": {"name": "scenes"}}, {"tasks": ["depth", "segmentation", "normals"]}],
    ids=["other data set", "other order of tasks"],
)
def test_nothing_is_quoted_where_nothing_fits(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_run(tmp_path, "LS", STL, **changes)
    table = the_table(tmp_path)
    assert [row.label for row in table.rows] == ["LS"]
    assert note(table, "Nothing quoted: no published rows of these metrics")


def test_measured_baselines_stand_beside_the_published_one(tmp_path: Path) -> None:
    write_run(tmp_path, "LS", STL)
    write_run(tmp_path, "alone", [1.1 * v for v in STL], baseline=True)
    table = the_table(tmp_path)
    assert [row.label for row in table.rows][:2] == ["STL \N{DAGGER}", "single-task"]
    # five metrics better by 10 %, four worse by 10 %
    assert mean_of(table, "single-task", "delta_m") == pytest.approx(-10 / 9)
    assert mean_of(table, "LS", "delta_m") == pytest.approx(0)


@pytest.mark.parametrize("width", [110, 130, 260])
def test_a_terminal_shows_every_column_and_cuts_no_number(tmp_path: Path, width: int) -> None:
    for seed, factor in enumerate((1.0, 1.4)):
        write_run(tmp_path, "SAGE(FairGrad)", [factor * v for v in STL], seed)
    table = the_table(tmp_path)
    console = Console(width=width, file=io.StringIO())
    console.print(to_rich(table))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= width
    numbers = [
        c.show(column.digits)
        for row in table.rows
        for c, column in zip(row.cells, table.columns, strict=True)
        if c
    ]
    assert len(numbers) > 150
    found = Counter(shown.split())
    wanted = Counter(word for number in numbers for word in number.split() if word != "\N{PLUS-MINUS SIGN}")
    assert not wanted - found
    assert ("pixel accuracy % \N{UPWARDS ARROW}" in shown) == (width == 260), "headers break first"


def test_without_the_option_nothing_is_quoted(tmp_path: Path) -> None:
    write_run(tmp_path, "LS", STL, evaluation={"baseline": "measured"})
    table = the_table(tmp_path)
    assert [row.label for row in table.rows] == ["LS"]
    assert not [note for note in table.notes if "quoted" in note]
