"""Our runs as DomainBed records them, and its data sets by the names that it knows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..data.domainbed import PACS, VLCS, DomainNet, OfficeHome, TerraIncognita
from ..data.mnist_domains import ColoredMNIST, RotatedMNIST
from .hparams import NAMES
from .labels import flat
from .results import RunResult, collect, load_records, read_status

# our classes have DomainBed's names
_CLASSES = (PACS, VLCS, OfficeHome, TerraIncognita, DomainNet, RotatedMNIST, ColoredMNIST)
DATASETS: dict[str, str] = {cls.name: cls.__name__ for cls in _CLASSES}  # registered name -> DomainBed's
ACCURACY = "class/accuracy"


@dataclass(frozen=True)
class DomainRun:
    """A finished run.

    Attributes:
        result: as it is on disk.
        folder: where.
        search: ``algorithm``, ``hparams_seed`` and ``trial``; else the seed of a run is its trial.
    """

    result: RunResult
    folder: Path
    search: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        """The registered name of its data set."""
        data = self.result.config["data"]
        return str(data["name"] if isinstance(data, Mapping) else data)

    @property
    def domains(self) -> set[str]:
        """The domains that it measured an accuracy on."""
        splits = (split.split("/", 1) for record in self.result.records for split in record["metrics"])
        return {split[1] for split in splits if len(split) == 2 and split[0] in ("val", "test", "in", "out")}


def domain_runs(out: Path) -> list[DomainRun]:
    """The finished runs with held-out domains, of all experiments in a folder of results.

    Raises:
        UsageError: there is no such folder, or a file in it is not what it should be.
    """
    folders = [out] if (out / "runs").is_dir() else sorted(path.parent for path in out.glob("*/runs"))
    if not folders:
        raise UsageError(f"{out} holds no results: it has no folder 'runs'")
    found = []
    for folder in folders:
        for result in collect(folder):
            if result.finished and result.held_out and not result.baseline:
                place = folder / "runs" / result.name
                plain = {"algorithm": result.label, "hparams_seed": 0, "trial": result.seed}
                found.append(DomainRun(result, place, read_status(place).get("search", plain)))
    return found


def environments(runs: Sequence[DomainRun]) -> dict[str, list[str]]:
    """Data set -> its domains, sorted by name as DomainBed numbers them."""
    domains: dict[str, set[str]] = {}
    for run in runs:
        domains.setdefault(run.dataset, set()).update(run.domains, run.result.held_out)
    return {dataset: sorted(names) for dataset, names in domains.items()}


def published_environments(dataset: str) -> list[str]:
    """Names of the environments of a data set of DomainBed, in the order of their numbers; [] if unknown."""
    for cls in _CLASSES:
        if cls.__name__ == dataset:
            published = getattr(cls, "published", None)
            return sorted(published.domains if published else cls.domains)
    return []


def records(
    run: DomainRun, domains: Sequence[str], strict: bool, dataset: str | None = None
) -> list[dict[str, Any]]:
    """The records of a run in DomainBed's form (see ``selection``), one an evaluation after step 0.

    ``env{i}_out_acc`` is measured on ``out/<domain>``, or ``val/<domain>`` of a training domain;
    ``env{i}_in_acc`` on ``in/<domain>``. Accuracies that were not measured are left out.

    Args:
        run: of ours.
        domains: all of its data set, in the order of their numbers.
        strict: demand what DomainBed's selections read: out-splits of all domains, in-splits of held-out
            ones. False: without ``in/<domain>``, that of a held-out domain is ``test/<domain>``.
        dataset: its name; default: DomainBed's name of it, or ours.

    Raises:
        UsageError: an accuracy is demanded and was not measured.
    """
    result = run.result
    args = {
        "algorithm": run.search["algorithm"],
        "dataset": dataset or DATASETS.get(run.dataset, run.dataset),
        "hparams_seed": run.search["hparams_seed"],
        "holdout_fraction": _option(result.config["data"], "holdout_fraction"),
        "output_dir": str(run.folder),
        "seed": result.config.get("seed", 0),
        "steps": (result.config.get("train") or {}).get("steps"),
        "task": "domain_generalization",
        "test_envs": [domains.index(name) for name in sorted(result.held_out, key=domains.index)],
        "trial_seed": run.search["trial"],
        "uda_holdout_fraction": 0,
    }
    seconds = _seconds_per_step(run.folder)
    found = []
    for record in result.records:
        if record["step"] == 0:
            continue  # DomainBed measures nothing before the first step
        found.append(
            {
                "step": record["step"],
                "epoch": record["epoch"],
                "loss": _mean((record.get("losses") or {}).values()),
                "step_time": seconds.get(record["step"], math.nan),
                "mem_gb": math.nan,  # not measured
                **_accuracies(run, domains, record["metrics"], strict),
                "hparams": _hparams(result.config),
                "args": args,
            }
        )
    return found


def _accuracies(
    run: DomainRun, domains: Sequence[str], metrics: Mapping[str, Mapping[str, float]], strict: bool
) -> dict[str, float]:
    found = {}
    for env, domain in enumerate(domains):
        held_out = domain in run.result.held_out
        places = {
            "in": ["in", *(["test"] if held_out and not strict else [])],
            "out": ["out", *([] if held_out else ["val"])],
        }
        for part, splits in places.items():
            values = (metrics.get(f"{split}/{domain}", {}).get(ACCURACY) for split in splits)
            value = next((value for value in values if value is not None), None)
            if value is not None:
                found[f"env{env}_{part}_acc"] = value
            elif strict and (held_out or part == "out"):
                raise UsageError(
                    f"{run.folder}: no accuracy on the {part}-split of the domain {domain!r} "
                    f"({part}/{domain}), which DomainBed's selections need; evaluation.both_splits gives it"
                )
    return found


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters under DomainBed's names, those without one under our dotted keys."""
    parts = {key: config[key] for key in ("solver", "model", "optimizer", "train") if key in config}
    return {NAMES.get(key, key): value for key, value in flat(parts).items()}


def _seconds_per_step(folder: Path) -> dict[int, float]:
    """Step -> mean seconds of a step since the evaluation before."""
    path = folder / "timing.jsonl"
    timing = load_records(path) if path.exists() else []
    return {
        now["step"]: now["training_seconds"] / (now["step"] - before["step"])
        for before, now in itertools.pairwise(timing)
    }


def _option(spec: Any, name: str) -> Any:
    return spec.get(name) if isinstance(spec, Mapping) else None


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else math.nan
