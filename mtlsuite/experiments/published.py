"""Published rows of the NYUv2 and Cityscapes tables, to be quoted beside measured ones.

All of them are of SegNet-MTAN. Rows are kept as they were printed: percent for shares, degrees for angles,
metres (NYUv2) or scaled inverse depth (Cityscapes) for depth, the relative error as a raw ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MARK = "\N{DAGGER}"
NASH = "Navon et al., Nash-MTL, ICML 2022"
FAMO = "Liu et al., FAMO, NeurIPS 2023, as a later paper prints it"
FAIRGRAD = "Ban and Ji, FairGrad, ICML 2024, as a later paper prints it"
LATER = "as a later paper prints it, without its metrics"
SAMO = "Ban et al., SAMO, ICCV 2025, from notes on it, without its metrics"
LIBMTL = "LibMTL, examples/nyu/results"

METRICS = {
    "nyuv2": (
        "segmentation/miou",
        "segmentation/pixel_accuracy",
        "depth/abs_err",
        "depth/rel_err",
        "normals/angle_mean",
        "normals/angle_median",
        "normals/within_11",
        "normals/within_22",
        "normals/within_30",
    ),
    "cityscapes": (
        "segmentation/miou",
        "segmentation/pixel_accuracy",
        "depth/abs_err",
        "depth/rel_err",
    ),
}


@dataclass(frozen=True)
class PublishedRow:
    """One row as it was printed.

    Attributes:
        label: the method.
        values: one text a metric, or nothing where only delta_m is known.
        delta_m: in percent, against the single-task row of the same table; "" where it was not printed.
        source: where the row is from.
    """

    label: str
    values: tuple[str, ...]
    delta_m: str
    source: str


def _rows(source: str, text: str) -> tuple[PublishedRow, ...]:
    """Lines of ``label | metrics | delta_m``."""
    cells = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return tuple(PublishedRow(label, tuple(values.split()), delta, source) for label, values, delta in cells)


_NYUV2 = (
    *_rows(
        NASH,
        """
        STL      | 38.30 63.76 0.6754 0.2780 25.01 19.21 30.14 57.20 69.15 |  0
        LS       | 39.29 65.33 0.5493 0.2263 28.15 23.96 22.09 47.50 61.08 |  5.59
        SI       | 38.45 64.27 0.5354 0.2201 27.60 23.37 22.53 48.57 62.32 |  4.39
        RLW      | 37.17 63.77 0.5759 0.2410 28.27 24.18 22.26 47.05 60.62 |  7.78
        DWA      | 39.11 65.31 0.5510 0.2285 27.61 23.18 24.17 50.18 62.39 |  3.57
        UW       | 36.87 63.17 0.5446 0.2260 27.04 22.61 23.54 49.05 63.65 |  4.05
        MGDA     | 30.47 59.90 0.6070 0.2555 24.88 19.45 29.18 56.88 69.36 |  1.38
        PCGrad   | 38.06 64.64 0.5550 0.2325 27.41 22.80 23.86 49.83 63.14 |  3.97
        GradDrop | 39.39 65.12 0.5455 0.2279 27.48 22.96 23.38 49.44 62.87 |  3.58
        CAGrad   | 39.79 65.49 0.5486 0.2250 26.31 21.58 25.61 52.36 65.58 |  0.20
        IMTL-G   | 39.35 65.60 0.5426 0.2256 26.02 21.19 26.20 53.13 66.24 | -0.76
        Nash-MTL | 40.13 65.93 0.5261 0.2171 25.26 20.08 28.40 55.47 68.15 | -4.04
        """,
    ),
    *_rows(LATER, "MoCo | | 0.16 \n Aligned-MTL | | -3.12"),
    *_rows(FAMO, "FAMO | 38.88 64.90 0.5474 0.2194 25.06 19.57 29.21 56.61 68.98 | -4.10"),
    *_rows(FAIRGRAD, "FairGrad | 39.74 66.01 0.5377 0.2236 24.84 19.60 29.26 56.58 69.16 | -4.66"),
    *_rows(SAMO, "FairGrad (rerun by SAMO) | | -4.96 \n SAMO-MGDA | | -2.19 \n SAMO-FairGrad | | -6.55"),
)
_CITYSCAPES = (
    *_rows(
        NASH,
        """
        STL      | 74.01 93.16 0.0125 27.77 |  0
        LS       | 75.18 93.49 0.0155 46.77 | 22.60
        SI       | 70.95 91.73 0.0161 33.83 | 14.11
        RLW      | 74.57 93.41 0.0158 47.79 | 24.38
        DWA      | 75.24 93.52 0.0160 44.37 | 21.45
        UW       | 72.02 92.85 0.0140 30.13 |  5.89
        MGDA     | 68.84 91.54 0.0309 33.50 | 44.14
        PCGrad   | 75.13 93.48 0.0154 42.07 | 18.29
        GradDrop | 75.27 93.53 0.0157 47.54 | 23.73
        CAGrad   | 75.16 93.48 0.0141 37.60 | 11.64
        IMTL-G   | 75.33 93.49 0.0135 38.41 | 11.10
        Nash-MTL | 75.41 93.66 0.0129 35.02 |  6.82
        """,
    ),
    *_rows(FAMO, "FAMO | 74.54 93.29 0.0145 32.59 | 8.13"),
    *_rows(FAIRGRAD, "FairGrad | 75.72 93.68 0.0134 32.25 | 5.18"),
    *_rows(SAMO, "FairGrad (rerun by SAMO) | | 3.90 \n SAMO-MGDA | | 4.30 \n SAMO-FairGrad | | -0.62"),
)
_LIBMTL = _rows(
    LIBMTL,
    """
    EW       | 40.89 66.14 0.5524 0.2347 27.27 22.41 24.38 50.18 63.36 |
    CAGrad   | 41.27 66.70 0.5409 0.2356 25.35 19.81 28.44 55.47 68.05 |
    Nash     | 40.66 66.25 0.5339 0.2266 25.11 19.59 28.70 55.97 68.52 |
    Aligned  | 40.15 66.05 0.5520 0.2291 25.37 19.89 28.30 55.29 67.95 |
    """,
)


@dataclass(frozen=True)
class Published:
    """What is known of one data set under one convention of averaging.

    Attributes:
        metrics: keys of the metrics, in the order of the rows.
        baseline: the single-task row that delta_m is against; None: there is none.
        rows: of the methods.
        protocol: dotted key of a config -> the value that the rows were measured with; empty: not checked.
        frames: that they were trained on; 0: not checked.
    """

    metrics: tuple[str, ...]
    baseline: PublishedRow | None
    rows: tuple[PublishedRow, ...]
    protocol: Mapping[str, Any]
    frames: int = 0


def _protocol(batch_size: int) -> dict[str, Any]:
    return {
        "data.augment": True,
        "model.name": "segnet_mtan",
        "model.widths": [64, 128, 256, 512, 512],
        "optimizer": {"name": "Adam", "lr": 1e-4},
        "scheduler": {"name": "StepLR", "interval": "epoch", "step_size": 100, "gamma": 0.5},
        "train.epochs": 200,
        "train.batch_size": batch_size,
        "train.replacement": False,
        "evaluation.every": 1,
        "evaluation.batch_size": batch_size,
        "evaluation.select": "last",
        "evaluation.average_last": 10,
        "averaging": None,
    }


_TABLES = {
    ("nyuv2", "batch"): Published(METRICS["nyuv2"], _NYUV2[0], _NYUV2[1:], _protocol(2), 795),
    ("cityscapes", "batch"): Published(
        METRICS["cityscapes"],
        _CITYSCAPES[0],
        _CITYSCAPES[1:],
        {**_protocol(8), "data.labels": "label_7"},
        2975,
    ),
    ("nyuv2", "pixel"): Published(METRICS["nyuv2"], None, _LIBMTL, {}),
}


def published(dataset: str, averaging: Literal["batch", "pixel"]) -> Published | None:
    """The published rows of a data set whose metrics were averaged in that way, if there are any."""
    return _TABLES.get((dataset, averaging))
