"""Figures: what they show is what the records hold, and the same records give the same files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_runs import write_run

from mtlsuite.experiments import figures
from mtlsuite.experiments.report import NOTES, write_report
from mtlsuite.experiments.results import collect
from mtlsuite.experiments.series import of_source, series, split_mean
from mtlsuite.experiments.style import look, plain, wrapped
from mtlsuite.experiments.summary import by_label, summarise

ODD = "_a $x_1$ & <b> {c} \\frac"


def domain_runs(root: Path, labels: list[str], n_domains: int, seeds: int = 2) -> None:
    """Held-out runs with losses, moving weights (none for the first label) and a cosine."""
    domains = [f"d{number}" for number in range(n_domains)]
    for number, label in enumerate(labels):
        for seed in range(seeds):
            for held in domains[:2]:
                kept = [domain for domain in domains if domain != held]
                metrics = []
                for i in range(4):
                    scores = {f"val/{d}": {"class/accuracy": 0.2 + 0.1 * i + 0.01 * seed} for d in kept}
                    metrics.append(scores | {f"test/{held}": {"class/accuracy": 0.1 * i + 0.02 * number}})
                folder = write_run(
                    root,
                    f"{number}-{seed}-{held}",
                    label,
                    metrics,
                    seed,
                    [held],
                    ["class"],
                    losses={d: 1.0 + k for k, d in enumerate(kept)},
                    cosine=0.25,
                )
                if number:
                    _move_weights(folder, kept)


def _move_weights(folder: Path, kept: list[str]) -> None:
    path = folder / "results.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for i, record in enumerate(records):
        record["weights"] = {domain: (1 + i * k) / 10 for k, domain in enumerate(kept)}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize(("n_labels", "n_domains"), [(3, 3), (8, 7)])
def test_every_figure_is_written_twice_and_opens(tmp_path: Path, n_labels: int, n_domains: int) -> None:
    labels = [ODD, *(f"method {number} (with a long name)" for number in range(1, n_labels))]
    domain_runs(tmp_path, labels, n_domains)
    write_report(tmp_path, "t")
    names = {"learning_curves", "learning_curves_class", "losses", "weights", "cosine", "table_1"}
    (tmp_path / NOTES).unlink()  # these runs have no models to make pictures of
    files = sorted((tmp_path / "figures").iterdir())
    assert {path.name for path in files} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in files:
        assert path.stat().st_size > 5000
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.verify()
            with Image.open(path) as image:
                assert len(image.convert("RGB").getcolors(1 << 20)) > 10
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    domain_runs(tmp_path, ["A", "B"], 3)
    write_report(tmp_path, "t")
    first = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    write_report(tmp_path, "t")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert b"<dc:date>" not in first["losses.svg"]


def test_settings_of_matplotlib_are_left_alone(tmp_path: Path) -> None:
    domain_runs(tmp_path, ["A"], 3)
    before = dict(matplotlib.rcParams)
    write_report(tmp_path, "t")
    assert dict(matplotlib.rcParams) == before


def boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Title, tick, axis and legend boxes of a drawn figure, in pixels."""
    figure.draw_without_rendering()
    found = [("legend", legend.get_window_extent()) for legend in figure.legends]
    for number, ax in enumerate(figure.axes):
        found.append((f"axes {number}", ax.get_tightbbox()))
    return found


@pytest.mark.parametrize(("n_labels", "n_domains"), [(3, 3), (8, 3), (8, 7)])
def test_panels_and_legend_do_not_overlap_and_stay_on_the_page(
    tmp_path: Path, n_labels: int, n_domains: int
) -> None:
    domain_runs(tmp_path, [f"sage(gradient_equilibrium({k}))" for k in range(n_labels)], n_domains)
    runs = collect(tmp_path)
    groups = by_label(runs)
    (table,) = summarise(runs)
    with figures.styled():
        for make in (figures.learning_curves, figures.losses, figures.weights, figures.cosine):
            check_layout(make(groups))
        check_layout(figures.domain_curves(groups)["learning_curves_class"])
        check_layout(figures.bars(table))


def check_layout(figure: Figure | None) -> None:
    assert figure is not None
    found = boxes(figure)
    for i, (name, box) in enumerate(found):
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.width + 1, name
        assert box.y1 <= figure.bbox.height + 1, name
        for other, second in found[i + 1 :]:
            shared_x = min(box.x1, second.x1) - max(box.x0, second.x0)
            shared_y = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert shared_x < 1 or shared_y < 1, (name, other)


def test_a_curve_is_the_mean_over_seeds_of_the_mean_over_runs(tmp_path: Path) -> None:
    for seed, held, score in [(0, "a", 0.2), (0, "b", 0.4), (1, "a", 0.5), (1, "b", 0.7)]:
        splits = {f"test/{held}": {"class/accuracy": score}, "val/c": {"class/accuracy": 1.0}}
        write_run(tmp_path, f"{seed}{held}", "A", [splits], seed, [held], ["class"], losses={"c": score})
    runs = collect(tmp_path)
    curve = series(runs, split_mean("test", "class/accuracy", 100.0))
    assert curve is not None
    # seeds 30 and 60: mean 45, standard error |60 - 30| / 2
    assert (curve.steps, curve.mean, curve.stderr) == ([100], [pytest.approx(45)], [pytest.approx(15)])
    loss = series(runs, of_source("losses", "c"))
    assert loss is not None
    assert loss.mean == [pytest.approx(0.45)]
    assert series(runs, of_source("losses", "nobody")) is None


def test_a_panel_shows_the_curve_of_its_own_domain(tmp_path: Path) -> None:
    for held, score in [("a", 0.2), ("b", 0.4)]:
        splits = {f"test/{held}": {"class/accuracy": score}, "val/c": {"class/accuracy": 1.0}}
        write_run(tmp_path, held, "A", [splits, splits], 0, [held], ["class"])
    with figures.styled():
        found = figures.domain_curves(by_label(collect(tmp_path)))
    assert list(found) == ["learning_curves_class"]
    panels = found["learning_curves_class"].axes
    assert [ax.get_title() for ax in panels] == ["held-out domain a", "held-out domain b"]
    assert [list(ax.lines[0].get_ydata()) for ax in panels] == [[20, 20], [40, 40]]


def test_validation_domains_have_panels_where_none_is_held_out(tmp_path: Path) -> None:
    splits = {f"val/{domain}": {"class/accuracy": score} for domain, score in [("x", 0.1), ("x2", 0.3)]}
    write_run(tmp_path, "0", "A", [splits, splits], tasks=["class"])
    with figures.styled():
        panels = figures.domain_curves(by_label(collect(tmp_path)))["learning_curves_class"].axes
    assert [ax.get_title() for ax in panels] == ["validation: domain x", "validation: domain x2"]
    assert [list(ax.lines[0].get_ydata()) for ax in panels] == [[10, 10], [30, 30]]


def test_one_domain_has_no_curves_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path, "0", "A", [{"val/x": {"class/accuracy": 0.5}}], tasks=["class"])
    assert figures.domain_curves(by_label(collect(tmp_path))) == {}


def test_curves_stop_where_the_shortest_run_stops(tmp_path: Path) -> None:
    for seed, length in enumerate((3, 2)):
        write_run(tmp_path, str(seed), "A", [{"val": {"class/accuracy": 0.5}}] * length, seed)
    curve = series(collect(tmp_path), split_mean("val", "class/accuracy"))
    assert curve is not None
    assert curve.steps == [100, 200]


def test_labels_without_moving_weights_are_named_instead_of_drawn(tmp_path: Path) -> None:
    metrics = [{"val": {"class/accuracy": 0.5}}] * 3
    write_run(tmp_path, "0", "still", metrics, weights={"a": 0.5, "b": 0.5})
    write_run(tmp_path, "1", "none", metrics)
    assert figures.weights(by_label(collect(tmp_path))) is None
    _move_weights(write_run(tmp_path, "2", "moving", metrics), ["a", "b"])
    with figures.styled():
        figure = figures.weights(by_label(collect(tmp_path)))
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes] == ["moving"]
    assert figure.legends[0].get_title().get_text() == "Constant weights: still. No weights: none."
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_no_cosine_no_figure(tmp_path: Path) -> None:
    write_run(tmp_path, "0", "A", [{"val": {"class/accuracy": 0.5}}])
    assert figures.cosine(by_label(collect(tmp_path))) is None


def test_forty_lines_all_look_different_and_sixteen_do_without_colour() -> None:
    assert len({str(look(number)) for number in range(440)}) == 440
    assert len({(look(n)["marker"], str(look(n)["linestyle"])) for n in range(16)}) == 16


def test_labels_are_printed_letter_by_letter() -> None:
    assert plain("$x$") == r"\$x\$"
    assert not plain("_hidden").startswith("_")
    assert len(plain("x" * 100)) == 44


def test_long_labels_keep_both_ends_and_break_where_words_do() -> None:
    cut = [plain(f"sage(gradient_equilibrium({k}))", 20) for k in range(3)]
    assert len(set(cut)) == 3
    assert all(text.startswith("sage(gradien") and len(text) == 20 for text in cut)
    assert wrapped("sage(gradient_equilibrium(famo))", 16) == "sage(gradient_\nequilibrium(\nfamo))"
    assert wrapped("Equal weights", 16) == "Equal weights"
    assert [len(line) for line in wrapped("a " * 50, 16).split("\n")] == [15, 15, 16]
