"""Published rows of DomainBed's data sets and of single training domains, to be quoted beside measured ones.

Accuracies in percent, as they were printed. Most papers' numbers are known as averages over the held-out
domains; of single training domains, as averages over the domains trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .selection import LEAVE_ONE_DOMAIN_OUT, ORACLE, SINGLE_SOURCE, TRAINING_DOMAIN

AVERAGE = "average"
SEVERAL = ("pacs", "vlcs", "office_home", "terra_incognita", "domain_net", AVERAGE)
SINGLE = ("pacs", "vlcs", "office_home", "domain_net")
COLUMNS = {TRAINING_DOMAIN: SEVERAL, LEAVE_ONE_DOMAIN_OUT: SEVERAL, ORACLE: SEVERAL, SINGLE_SOURCE: SINGLE}

DOMAINBED = "Gulrajani and Lopez-Paz, DomainBed, ICLR 2021"
LATER = "as printed by SAGM, GGA and DISAM"
SWAD = "Cha et al., SWAD, NeurIPS 2021"
FISHR = "Rame et al., Fishr, ICML 2022"
SAGM = "Wang et al., SAGM, CVPR 2023"
GGA = "Ballas and Diou, GGA, CVPR 2025, README as updated"
DISAM = "Zhang et al., DISAM, ICLR 2024"
ARITHMETIC = "Wang et al., arithmetic meta-learning, CVPR 2025, of which only the average is known"
UNNAMED = "of which only the average, but not the table, is known"
EQUILIBRIUM = "Zhang et al., domain gradient equilibrium, ACM MM 2024"

# how a paper chose its models
THE_SAME = "under the selection of this table"
BESIDE_ERM = "printed beside ERM under training-domain validation"
OF_SWAD = "no checkpoint is chosen: the average over the valley of the training domains' validation loss"
NEAR = "under a protocol of its own, near the oracle"
UNSTATED = "selection not stated"
BEST_VAL = "ResNet-18, the model that is best on the validation part"


@dataclass(frozen=True)
class DomainRow:
    """One method under one selection.

    Attributes:
        label: the method.
        averages: column of ``COLUMNS`` -> text as printed; without those that were not.
        source: where the row is from.
        chosen: how its paper chose the models.
        domains: data set -> domain -> text, where the single domains are known.
    """

    label: str
    averages: Mapping[str, str]
    source: str
    chosen: str
    domains: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def _rows(columns: tuple[str, ...], source: str, chosen: str, text: str) -> tuple[DomainRow, ...]:
    """Lines of ``label | a text a column``, ``-`` where nothing was printed."""
    found = []
    for line in text.strip().splitlines():
        label, values = line.split("|")
        pairs = zip(columns, values.split(), strict=True)
        averages = {column: value for column, value in pairs if value != "-"}
        found.append(DomainRow(label.strip(), averages, source, chosen))
    return tuple(found)


_TRAINING_DOMAIN = (
    *_rows(
        SEVERAL,
        DOMAINBED,
        THE_SAME,
        """
        ERM   | 85.5 77.5 66.5 46.1 40.9 63.3
        CORAL | 86.2 78.8 68.7 47.6 41.5 64.5
        """,
    ),
    *_rows(SEVERAL, LATER, THE_SAME, "ERM (later papers) | 85.5 77.3 66.5 46.1 43.8 63.9"),
    *_rows(SEVERAL, SWAD, THE_SAME, "ERM (SWAD's) | 84.2 77.3 67.6 47.8 44.0 64.2"),
    *_rows(SEVERAL, "source table not recorded", UNSTATED, "Fish | 85.5 77.8 68.6 45.1 42.7 63.9"),
    *_rows(SEVERAL, UNNAMED, UNSTATED, "MLDG | - - - - - 63.6 \n VREx | - - - - - 61.9"),
    *_rows(
        SEVERAL,
        SAGM,
        BESIDE_ERM,
        """
        SAM  | 85.8 79.4 69.6 43.3 44.3 64.5
        GSAM | 85.9 79.1 69.3 47.0 44.6 65.1
        SAGM | 86.6 80.0 70.1 48.8 45.0 66.1
        """,
    ),
    *_rows(SEVERAL, SWAD, OF_SWAD, "SWAD | 88.1 79.1 70.6 50.0 46.5 66.9"),
    *_rows(
        SEVERAL,
        GGA,
        BESIDE_ERM,
        """
        GGA   | 86.4 78.7 67.0 48.5 44.5 65.0
        GGA-L | 86.5 78.4 66.5 49.8 44.5 65.1
        """,
    ),
    *_rows(
        SEVERAL,
        DISAM,
        BESIDE_ERM,
        """
        DISAM + SAM          | 87.3 80.1 70.7 47.9 45.8 66.4
        DISAM + GSAM         | 87.2 80.0 70.8 50.6 45.6 66.8
        DISAM + SAGM         | 87.5 80.7 71.0 50.0 46.0 67.0
        DISAM + SAGM + CORAL | 88.4 81.2 71.7 51.7 46.3 67.9
        """,
    ),
    *_rows(SEVERAL, ARITHMETIC, UNSTATED, "Arithmetic | - - - - - 65.0"),
    *_rows(SEVERAL, EQUILIBRIUM, BEST_VAL, "Gradient equilibrium | 85.90 77.98 66.84 - 54.15 -"),
)
_SINGLE_SOURCE = (
    *_rows(
        SINGLE,
        EQUILIBRIUM,
        BEST_VAL,
        """
        Baseline               | 54.28 53.17 43.60 19.65
        Baseline + RandAugment | 66.71 -     -     -
        Gradient averaging     | 67.23 67.75 50.33 -
        PCGrad                 | 67.23 66.47 49.74 26.99
        """,
    ),
    DomainRow(
        "Gradient equilibrium",
        {"pacs": "70.17", "vlcs": "68.11", "office_home": "51.81", "domain_net": "27.75"},
        EQUILIBRIUM,
        BEST_VAL,
        {"pacs": {"art_painting": "79.08", "cartoon": "78.33", "photo": "62.74", "sketch": "60.53"}},
    ),
)
_ROWS = {
    TRAINING_DOMAIN: _TRAINING_DOMAIN,
    LEAVE_ONE_DOMAIN_OUT: _rows(SEVERAL, DOMAINBED, THE_SAME, "ERM | 83.0 77.2 65.7 41.4 40.6 -"),
    ORACLE: (
        *_rows(SEVERAL, DOMAINBED, THE_SAME, "ERM | 86.7 77.6 66.4 53.0 41.3 -"),
        *_rows(SEVERAL, FISHR, NEAR, "Fishr | 86.9 78.2 68.2 53.6 41.8 65.7"),
    ),
    SINGLE_SOURCE: _SINGLE_SOURCE,
}

# what the rows of a table have in common, as keys of a config; learning rates and the like differ by paper
_NETWORK: dict[str, Any] = {"model.weights": "IMAGENET1K_V1", "data.size": 224, "data.holdout_fraction": 0.2}
_SEVERAL: dict[str, Any] = {"model.name": "resnet50", **_NETWORK}
_SGD = {"name": "SGD", "lr": 5e-4, "momentum": 0.9}
PROTOCOLS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((TRAINING_DOMAIN, LEAVE_ONE_DOMAIN_OUT, ORACLE), _SEVERAL),
    SINGLE_SOURCE: {"model.name": "resnet18", **_NETWORK, "optimizer": _SGD, "train.batch_size": 10},
}


def published_domains(selection: str) -> tuple[DomainRow, ...]:
    """The published rows whose models were chosen in that way; nothing where there are none."""
    return _ROWS.get(selection, ())
