"""Charts: relative improvement, IoU by class and confusion matrices hold the numbers they should."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from synthetic_runs import write_run

from mtlsuite.experiments.charts import class_bars, improvement_bars, improvements
from mtlsuite.experiments.confusion import class_iou, confusion_matrix, row_shares
from mtlsuite.experiments.matrices import confusion_pages
from mtlsuite.experiments.results import collect
from mtlsuite.experiments.style import styled
from mtlsuite.experiments.summary import summarise
from mtlsuite.experiments.tables import Table
from mtlsuite.metrics import Segmentation, delta_m

METRICS = ["segmentation/miou", "segmentation/pixel_accuracy", "depth/abs_err", "depth/rel_err"]
HIGHER = [True, True, False, False]


def task_table(root: Path, methods: dict[str, list[list[float]]], baseline: list[list[float]]) -> Table:
    """The table of runs with these metrics, a list a seed; the baseline in single-task runs."""
    for label, seeds in methods.items():
        for seed, values in enumerate(seeds):
            scores = dict(zip(METRICS, values, strict=True))
            write_run(
                root, f"{label}-{seed}", label, [{"val": scores}], seed, tasks=["segmentation", "depth"]
            )
    for seed, values in enumerate(baseline):
        for task in ("segmentation", "depth"):
            scores = {k: v for k, v in zip(METRICS, values, strict=True) if k.startswith(task)}
            write_run(
                root, f"s-{task}-{seed}", "single-task", [{"val": scores}], seed, tasks=[task], baseline=True
            )
    (table,) = summarise(collect(root))
    return table


METHODS = {
    "A": [[0.5, 0.8, 0.30, 0.2], [0.6, 0.9, 0.26, 0.1]],
    "B": [[0.1, 0.2, 0.9, 0.8], [0.2, 0.2, 0.7, 0.9]],
}
BASELINE = [[0.4, 0.8, 0.2, 0.25], [0.6, 0.6, 0.3, 0.15]]  # means 0.5, 0.7, 0.25, 0.2


def test_improvements_are_the_terms_of_delta_m_turned(tmp_path: Path) -> None:
    found = improvements(task_table(tmp_path, METHODS, BASELINE))
    assert found is not None
    assert (found.baseline, len(found.metrics), list(found.cells)) == ("single-task", 4, ["A", "B"])
    base = [0.5, 0.7, 0.25, 0.2]
    for label, seeds in METHODS.items():
        for k, cell in enumerate(found.cells[label]):
            each = [-delta_m([values[k]], [base[k]], [HIGHER[k]]) for values in seeds]
            assert cell is not None
            assert cell.mean == pytest.approx(statistics.mean(each))
            assert cell.stderr == pytest.approx(statistics.stdev(each) / 2**0.5)
        whole = [-delta_m(values, base, HIGHER) for values in seeds]
        mean = found.means[label]
        assert mean is not None
        assert mean.mean == pytest.approx(statistics.mean(whole))
        assert mean.mean == pytest.approx(statistics.mean(c.mean for c in found.cells[label] if c))
        assert mean.stderr == pytest.approx(statistics.stdev(whole) / 2**0.5)
    # by hand: mIoU 0.55 against 0.5, abs. error 0.28 against 0.25
    assert [cell and round(cell.mean, 6) for cell in found.cells["A"]][::2] == [10, -12]


def test_the_bars_are_as_long_as_the_improvements_and_say_what_is_better(tmp_path: Path) -> None:
    table = task_table(tmp_path, METHODS, BASELINE)
    with styled():
        figure = improvement_bars(table)
        found = improvements(table)
    assert figure is not None
    assert found is not None
    for k, ax in enumerate(figure.axes[:4]):
        expected = [cells[k].mean for cells in found.cells.values() if cells[k]]  # type: ignore[union-attr]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(expected)
        assert [bar.get_facecolor()[:3] == ax.patches[0].get_facecolor()[:3] for bar in ax.patches] == [
            True,
            (expected[0] >= 0) == (expected[1] >= 0),
        ]
    assert "to the right is better" in figure.get_supxlabel()
    check_layout(figure)


def test_no_baseline_no_improvement(tmp_path: Path) -> None:
    table = task_table(tmp_path, METHODS, [])
    assert improvements(table) is None
    assert improvement_bars(table) is None


def test_quoted_rows_are_not_drawn(tmp_path: Path) -> None:
    table = task_table(tmp_path, METHODS, BASELINE)
    quoted = dataclasses.replace(table.rows[-1], label="quoted", reference=True, source="a paper")
    found = improvements(dataclasses.replace(table, rows=(*table.rows, quoted)))
    assert found is not None
    assert list(found.cells) == ["A", "B"]


def test_a_confusion_matrix_by_hand() -> None:
    scores = torch.eye(3)[[0, 1, 1, 2, 0, 2]]  # predicted: 0 1 1 2 0 2
    truth = torch.tensor([0, 1, 2, 2, 1, -1])
    counts = confusion_matrix(scores, truth, 3)
    assert counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    shares = row_shares(np.array([[1, 3], [0, 0]]))
    np.testing.assert_array_equal(shares, [[0.25, 0.75], [np.nan, np.nan]])


def test_class_iou_by_hand_and_its_mean_as_the_metric_has_it() -> None:
    # class 0: 2 hits of 2 + 1 + 1; class 1: 1 of 1 + 1 + 1; class 2 nowhere
    np.testing.assert_array_equal(
        class_iou(np.array([[2, 1, 0], [1, 1, 0], [0, 0, 0]])), [0.5, 1 / 3, np.nan]
    )
    torch.manual_seed(0)
    scores, truth = torch.randn(4, 5, 6, 7), torch.randint(-1, 4, (4, 6, 7))
    metric = Segmentation(5)
    metric.update(scores, truth)
    counts = confusion_matrix(scores, truth, 5).numpy()
    assert counts.sum() == (truth >= 0).sum()
    assert np.nanmean(class_iou(counts)) == pytest.approx(float(metric.compute()["miou"]))


def test_class_bars_are_means_over_seeds_with_their_errors() -> None:
    values = {"single-task": np.array([[20.0, np.nan], [40.0, np.nan]]), "A": np.array([[50.0, 60.0]])}
    with styled():
        figure = class_bars(values, ["cat", "dog"], "single-task")
        (ax,) = figure.axes
        heights = sorted((bar.get_x(), bar.get_height()) for bar in ax.patches)
        assert [height for _, height in heights] == [30, 50, 60]
        # standard error of 20 and 40: 14.14 / sqrt(2) = 10
        (error,) = [line for line in ax.collections if len(line.get_segments()) == 1]  # type: ignore[attr-defined]
        np.testing.assert_allclose(error.get_segments()[0][:, 1], [20, 40])  # type: ignore[attr-defined]
        assert [text.get_text() for text in ax.texts] == ["\N{EN DASH}"]
        assert [text.get_text() for text in ax.get_xticklabels()] == ["cat", "dog"]
        check_layout(figure)


@pytest.mark.parametrize(
    ("n_methods", "n_classes"), [(1, 1), (1, 7), (10, 7), pytest.param(10, 20, marks=pytest.mark.slow)]
)
def test_charts_of_many_sizes_have_no_overlap(n_methods: int, n_classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = [f"sage(gradient_equilibrium({number}))" for number in range(n_methods)]
    classes = [f"class_{k} with a name" for k in range(n_classes)]
    with styled():
        check_layout(
            class_bars({name: 100 * rng.random((2, n_classes)) for name in labels}, classes, labels[0])
        )
        counts = {name: rng.integers(0, 9, (n_classes, n_classes)) for name in labels}
        for page in confusion_pages(counts, classes, "held-out domain art_painting, after the last step"):
            check_layout(page)


def test_confusion_matrices_are_drawn_by_row_with_names_and_numbers() -> None:
    counts = {"A": np.array([[3, 1], [0, 4]]), "B": np.array([[0, 0], [1, 1]])}
    with styled():
        [figure] = confusion_pages(counts, ["cat", "dog"], "held-out domain d")
    first, second, *_ = figure.axes
    np.testing.assert_array_equal(np.asarray(first.images[0].get_array()), [[75, 25], [0, 100]])
    assert [text.get_text() for text in first.texts] == ["75", "25", "100"]
    assert np.ma.getmaskarray(np.ma.masked_invalid(second.images[0].get_array()))[0].all()
    assert [text.get_text() for text in second.texts] == ["50", "50"]
    assert [text.get_text() for text in first.get_yticklabels()] == ["cat", "dog"]
    assert (first.get_title(), second.get_title()) == ("A", "B")


def test_confusion_matrices_go_over_to_further_pages() -> None:
    counts = {f"m{number}": np.eye(2, dtype=int) for number in range(10)}
    with styled():
        pages = confusion_pages(counts, ["a", "b"], "d")
    titles = [ax.get_title() for page in pages for ax in page.axes if ax.get_title()]
    assert titles == list(counts)


def check_layout(figure: Figure) -> None:
    figure.draw_without_rendering()
    boxes = [("legend", legend.get_window_extent()) for legend in figure.legends]
    boxes += [(ax.get_title() or "axes", ax.get_tightbbox()) for ax in figure.axes if ax.axison]
    boxes += [("heading", text.get_window_extent()) for text in figure.texts]
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.width + 1, name
        assert box.y1 <= figure.bbox.height + 1, name
        for other, second in boxes[i + 1 :]:
            shared_x = min(box.x1, second.x1) - max(box.x0, second.x0)
            shared_y = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert shared_x < 1 or shared_y < 1, (name, other)
