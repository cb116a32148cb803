"""Published rows of held-out and of single training domains, beside runs on disk; averaged models as rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.domainbed_files import export, search_tables
from mtlsuite.experiments.published_domains import COLUMNS, SEVERAL, published_domains
from mtlsuite.experiments.results import write_status
from mtlsuite.experiments.selection import (
    BEST_ORACLE,
    LEAVE_ONE_DOMAIN_OUT,
    ORACLE,
    SELECTIONS,
    SINGLE_SOURCE,
    TRAINING_DOMAIN,
)
from mtlsuite.experiments.tables import Table, to_csv, to_latex

DAGGER = "\N{DAGGER}"
DOMAINS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "vlcs": ("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    "office_home": ("Art", "Clipart", "Product", "Real World"),
    "terra_incognita": ("location_100", "location_38", "location_43", "location_46"),
    "domain_net": ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    "image_folders": ("a", "b", "c", "d"),
}
SWAD = {"name": "swad", "n_converge": 3}


def write_job(
    folder: Path,
    held_out: tuple[str, ...],
    label: str = "ERM",
    dataset: str = "pacs",
    accuracy: float = 0.5,
    asks: bool = True,
    averaging: dict[str, Any] | None = None,
    trial: int = 0,
    name: str = "",
    steps_per_epoch: int = 0,
    **changes: Any,
) -> None:
    """Evaluated at steps 0, 100 and 200, where training domains are at their best at 100."""
    place = folder / "runs" / (name or f"{label}-{'+'.join(held_out)}-{trial}")
    place.mkdir(parents=True)
    config = {
        "data": {"name": dataset, "size": 224, "holdout_fraction": 0.2},
        "model": {"name": "resnet50", "weights": "IMAGENET1K_V1", "freeze_bn": None},
        "sources": "domains",
        "optimizer": {"name": "SGD", "lr": 5e-4, "momentum": 0.9},
        "train": {"steps": 200, "batch_size": 10},
        "evaluation": {"baseline": "published" if asks else "measured"},
        "averaging": averaging,
        "held_out": list(held_out),
        "tasks": ["class"],
        **changes,
    }
    (place / "config.yaml").write_text(yaml.safe_dump({**config, "label": label}))
    records = []
    for step, gain in ((0, 0.0), (100, 0.1), (200, 0.2)):
        splits = {f"{part}/{domain}": accuracy + gain for domain in held_out for part in ("in", "out")}
        if config["sources"] == "views":
            splits = {"val": 0.9 - gain, **{f"test/{d}": accuracy + gain for d in held_out}}
        else:
            others = [domain for domain in DOMAINS[dataset] if domain not in held_out]
            splits |= {f"val/{domain}": 0.9 - gain for domain in others}
        metrics = {split: {"class/accuracy": value} for split, value in splits.items()}
        record: dict[str, Any] = {"step": step, "epoch": step / (steps_per_epoch or 100), "metrics": metrics}
        if averaging:
            shifted = {split: {"class/accuracy": v["class/accuracy"] + 0.05} for split, v in metrics.items()}
            record |= {
                "metrics": shifted,
                "raw_metrics": metrics,
                "averaging": {"weights": 1} if step else None,
            }
        records.append(record)
    (place / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    search = {"algorithm": label, "hparams_seed": 0, "trial": trial}
    write_status(place, "done", label=label, search=search)


def write_all(folder: Path, dataset: str = "pacs", **options: Any) -> None:
    for domain in DOMAINS[dataset]:
        write_job(folder, (domain,), dataset=dataset, **options)


def table_of(tables: list[Table], start: str) -> Table:
    [found] = [table for table in tables if table.title.startswith(start)]
    return found


def values(table: Table, label: str) -> list[float | None]:
    [row] = [row for row in table.rows if row.label == label]
    return [cell and cell.mean for cell in row.cells]


def quoted(table: Table) -> list[str]:
    return [row.label.removesuffix(f" {DAGGER}") for row in table.rows if row.source]


# --- the numbers ----------------------------------------------------------------------------------------


def test_printed_averages_are_the_means_of_the_rows() -> None:
    checked = 0
    for selection in SELECTIONS:
        for row in published_domains(selection):
            assert set(row.averages) <= set(SEVERAL)
            five = [float(row.averages[name]) for name in SEVERAL[:-1] if name in row.averages]
            if len(five) == 5 and "average" in row.averages:
                checked += 1
                assert sum(five) / 5 == pytest.approx(float(row.averages["average"]), abs=0.1)
    assert checked == 16
    [row] = [r for r in published_domains(TRAINING_DOMAIN) if r.label == "Gradient equilibrium"]
    assert sum(map(float, row.averages.values())) / 4 == pytest.approx(71.22, abs=0.005)


def test_rows_of_single_domains() -> None:
    rows = published_domains(SINGLE_SOURCE)
    assert all(set(row.averages) <= set(COLUMNS[SINGLE_SOURCE]) for row in rows)
    each = {name: float(text) for name, text in rows[-1].domains["pacs"].items()}
    assert set(each) == set(DOMAINS["pacs"])
    assert sum(each.values()) / 4 == pytest.approx(float(rows[-1].averages["pacs"]), abs=0.005)


def test_rows_stand_under_their_own_selection_alone() -> None:
    erm = {
        s: next(r for r in published_domains(s) if r.label == "ERM").averages["pacs"]
        for s in COLUMNS
        if s != SINGLE_SOURCE
    }
    assert erm == {TRAINING_DOMAIN: "85.5", LEAVE_ONE_DOMAIN_OUT: "83.0", ORACLE: "86.7"}
    assert [row.label for row in published_domains(ORACLE)] == ["ERM", "Fishr"]
    assert published_domains(BEST_ORACLE) == ()
    assert not {"SAGE", "CLIPOOD"} & {row.label for s in SELECTIONS for row in published_domains(s)}


# --- beside measured runs -------------------------------------------------------------------------------


def test_quoted_beside_runs_that_ask(tmp_path: Path) -> None:
    write_all(tmp_path, accuracy=0.5)
    tables = search_tables(tmp_path)
    iid = table_of(tables, "pacs, training-domain")
    assert iid.rows[-1].label == "ERM"
    assert values(iid, "ERM") == pytest.approx([60.0] * 6)
    assert values(iid, f"SWAD {DAGGER}") == [None, None, None, None, 88.1, None]
    assert values(iid, f"ERM {DAGGER}")[4] == 85.5
    assert "Arithmetic" not in quoted(iid), "of which only an average over data sets is known"
    assert all(row.reference for row in iid.rows[:-1])
    assert quoted(table_of(tables, "pacs, test-domain validation (oracle), last")) == ["ERM", "Fishr"]
    best = table_of(tables, "pacs, test-domain validation (oracle), best")
    assert quoted(best) == []
    assert "Nothing quoted: no published rows on pacs under this selection." in best.notes
    [sources] = [note for note in iid.notes if note.startswith(DAGGER)]
    assert "SWAD (Cha et al., SWAD, NeurIPS 2021; no checkpoint is chosen" in sources
    assert (
        "CORAL (Gulrajani and Lopez-Paz, DomainBed, ICLR 2021; under the selection of this table)" in sources
    )
    lines = list(csv.DictReader(io.StringIO(to_csv([iid]))))
    assert {line["source"] for line in lines if line["label"] == "ERM"} == {"measured"}
    [swad] = [line for line in lines if line["label"] == f"SWAD {DAGGER}"]
    assert swad["column"] == "mean"
    assert swad["source"].startswith("Cha et al.")
    assert r"CORAL \textdagger{} & -- & -- & -- & -- & $86.2$ & -- \\" in to_latex(iid)


@pytest.mark.parametrize(
    ("dataset", "asks"), [("pacs", False), ("image_folders", True)], ids=["not asked", "other data"]
)
def test_nothing_is_quoted_unasked_or_elsewhere(tmp_path: Path, dataset: str, asks: bool) -> None:
    write_all(tmp_path, dataset, asks=asks)
    for table in search_tables(tmp_path):
        assert quoted(table) == []
        assert not [note for note in table.notes if "quoted" in note.lower()]


def test_all_runs_of_a_data_set_must_ask(tmp_path: Path) -> None:
    write_all(tmp_path / "a")
    write_all(tmp_path / "b", label="SAM", asks=False)
    assert all(quoted(table) == [] for table in search_tables(tmp_path))


def test_beside_means_over_all_domains_there_is_no_mean_over_some(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        write_job(tmp_path / "asking", (domain,))
        write_job(tmp_path / "other", (domain,), asks=False)
    iid, *_ = search_tables(tmp_path / "asking")
    assert values(iid, "ERM") == [None, None, pytest.approx(60), pytest.approx(60), None, None]
    iid, *_ = search_tables(tmp_path / "other")
    assert values(iid, "ERM") == pytest.approx([60.0] * 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": {"name": "resnet18", "weights": "IMAGENET1K_V1"}},
            "model.name resnet18 instead of resnet50",
        ),
        (
            {"model": {"name": "resnet50", "weights": "IMAGENET1K_V1", "freeze_bn": False}},
            "BatchNorm is not frozen",
        ),
        ({"steps_per_epoch": 9}, "on pacs an epoch has 9 steps instead of 315: other images"),
    ],
)
def test_what_sets_runs_apart_from_the_quoted_rows(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_job(tmp_path, ("photo",), **{"steps_per_epoch": 315, **changes})  # sketch: 3929 - 785 images, by 10
    note = next(note for note in search_tables(tmp_path)[0].notes if "comparable" in note)
    assert note == f"Not comparable with the quoted rows: {words}."


def test_the_epochs_of_several_held_out_domains_are_told_as_a_range(tmp_path: Path) -> None:
    write_job(tmp_path, ("photo",), steps_per_epoch=9)
    write_job(tmp_path, ("sketch",), steps_per_epoch=7)  # cartoon is the largest: 2344 - 468 images, by 10
    [note] = [note for note in search_tables(tmp_path)[0].notes if "comparable" in note]
    assert note.endswith(" on pacs an epoch has 7 to 9 steps instead of 188 to 315: other images.")


def test_runs_on_the_published_images(tmp_path: Path) -> None:
    write_job(tmp_path, ("photo",), steps_per_epoch=315)
    assert (
        search_tables(tmp_path)[0].notes[-1].startswith("The runs agree with the quoted rows in model.name")
    )


def test_one_trial_has_no_standard_error_to_speak_of(tmp_path: Path) -> None:
    write_job(tmp_path, ("photo",))
    notes = search_tables(tmp_path)[0].notes
    assert notes[0].startswith("One trial; mean: of the values in the row; worst: ")
    assert not any("tandard error" in note for note in notes)


def test_all_data_sets_beside_published_averages(tmp_path: Path) -> None:
    for number, dataset in enumerate(SEVERAL[:-1]):
        write_all(tmp_path / dataset / "plain", dataset, accuracy=0.1 * number)
    tables = search_tables(tmp_path)
    table = table_of(tables, "training-domain validation: mean accuracy by data set")
    assert tuple(column.name for column in table.columns) == SEVERAL
    assert values(table, "ERM") == pytest.approx([10, 20, 30, 40, 50, 30])
    assert values(table, f"Arithmetic {DAGGER}") == [None] * 5 + [65.0]
    assert values(table, f"SAGM {DAGGER}") == [86.6, 80.0, 70.1, 48.8, 45.0, 66.1]


# --- one training domain --------------------------------------------------------------------------------


def test_single_training_domains(tmp_path: Path) -> None:
    resnet = {"name": "resnet18", "weights": "IMAGENET1K_V1"}
    for number, source in enumerate(DOMAINS["pacs"]):
        others = tuple(domain for domain in DOMAINS["pacs"] if domain != source)
        for experiment, sources in (("views", "views"), ("baseline", "domains")):
            label = "ERM" if experiment == "baseline" else "Gradient averaging"
            accuracy = 0.1 * number
            write_job(tmp_path / experiment, others, label, accuracy=accuracy, sources=sources, model=resnet)
    [table] = search_tables(tmp_path)
    assert table.title == f"pacs, {SINGLE_SOURCE}: accuracy by training domain (%, higher is better)"
    assert [column.name for column in table.columns] == [*DOMAINS["pacs"], "mean", "worst"]
    for label in ("ERM", "Gradient averaging"):  # at step 100
        assert values(table, label) == pytest.approx([10, 20, 30, 40, 25, 10])
    assert values(table, f"Gradient equilibrium {DAGGER}") == [79.08, 78.33, 62.74, 60.53, 70.17, None]
    assert values(table, f"PCGrad {DAGGER}") == [None] * 4 + [67.23, None]


def test_the_four_data_sets_of_single_training_domains(tmp_path: Path) -> None:
    for dataset in COLUMNS[SINGLE_SOURCE]:
        for source in DOMAINS[dataset]:
            others = tuple(domain for domain in DOMAINS[dataset] if domain != source)
            write_job(tmp_path / dataset, others, dataset=dataset, sources="views")
    table = search_tables(tmp_path)[-1]
    assert tuple(column.name for column in table.columns) == COLUMNS[SINGLE_SOURCE]
    assert values(table, "ERM") == pytest.approx([60.0] * 4)
    assert values(table, f"Baseline + RandAugment {DAGGER}") == [66.71, None, None, None]


# --- averaged models ------------------------------------------------------------------------------------


def test_an_averaged_model_is_a_row_of_its_own(tmp_path: Path) -> None:
    write_all(tmp_path, asks=False, averaging=SWAD)
    tables = search_tables(tmp_path)
    iid = table_of(tables, "pacs, training-domain")
    assert [row.label for row in iid.rows] == ["ERM", "ERM + SWAD"]
    assert values(iid, "ERM")[0] == pytest.approx(60), "the checkpoint at step 100"
    assert values(iid, "ERM + SWAD")[0] == pytest.approx(75), "the average at the end"
    rows = table_of(tables, "pacs, as SWAD's code prints it")
    shown = {row.label: values(rows, row.label)[0] for row in rows.rows}
    assert shown == {
        "ERM: oracle": pytest.approx(70), "ERM: iid": pytest.approx(60),
        "ERM: last": pytest.approx(70), "ERM + SWAD": pytest.approx(75),
    }  # fmt: skip


def test_averaged_models_are_exported_under_their_names(tmp_path: Path) -> None:
    write_job(tmp_path / "ours", ("photo",), averaging=SWAD)
    [job] = export(tmp_path / "ours", tmp_path / "theirs")
    first, second = (json.loads(line) for line in (job / "results.jsonl").read_text().splitlines())
    assert first["args"]["algorithm"] == "ERM + SWAD"
    assert second["env2_in_acc"] == pytest.approx(0.75)


def test_names_of_averaged_models(tmp_path: Path) -> None:
    write_job(tmp_path, ("photo",), "Mine with SWAD", asks=False, averaging=SWAD)
    write_job(tmp_path, ("photo",), "Other", asks=False, averaging={"name": "ema"})
    iid, *_ = search_tables(tmp_path)
    labels = ["Mine with SWAD (not averaged)", "Mine with SWAD", "Other", "Other + EMA"]
    assert [row.label for row in iid.rows] == labels
    assert values(iid, "Other + EMA")[0] == pytest.approx(65), "a checkpoint of an EMA can be chosen"


def test_a_training_that_was_repeated_with_averaging_counts_once(tmp_path: Path) -> None:
    write_all(tmp_path / "plain", accuracy=0.3)
    write_all(tmp_path / "swad", averaging=SWAD)
    iid = table_of(search_tables(tmp_path), "pacs, training-domain")
    assert values(iid, "ERM")[0] == pytest.approx(40)
    assert values(iid, "ERM + SWAD")[0] == pytest.approx(75)


def test_namesakes_in_two_experiments_are_told_apart(tmp_path: Path) -> None:
    write_job(tmp_path / "one", ("photo",), asks=False, accuracy=0.1)
    write_job(tmp_path / "two", ("photo",), asks=False, accuracy=0.2)
    write_job(tmp_path / "two", ("photo",), "SAM", asks=False, accuracy=0.3)
    iid, *_ = search_tables(tmp_path)
    assert [row.label for row in iid.rows] == ["ERM (one)", "ERM (two)", "SAM"]
    assert [values(iid, row.label)[0] for row in iid.rows] == pytest.approx([20, 30, 40])
    write_job(tmp_path / "two", ("photo",), "SAM", asks=False, name="again")
    with pytest.raises(UsageError, match="are the same job: algorithm SAM, dataset pacs"):
        search_tables(tmp_path)


def test_runs_that_are_not_done_are_named(tmp_path: Path) -> None:
    write_job(tmp_path, ("photo",), asks=False)
    write_job(tmp_path, ("sketch",), asks=False)
    write_status(tmp_path / "runs" / "ERM-sketch-0", "failed")
    for table in search_tables(tmp_path):
        assert table.notes[-1] == "Not finished and left out: ERM-sketch-0 (failed)."
