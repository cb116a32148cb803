"""Our runs as DomainBed records them, and its data sets by the names that it knows."""

from __future__ import annotations

import itertools
import math
import re
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

    def trained_on(self, domains: Iterable[str]) -> list[str]:
        """Those of all ``domains`` of its data set that it is trained on."""
        own = self.result.config.get("domains") or domains
        return [domain for domain in own if domain not in self.result.held_out]

    @property
    def averaging(self) -> str | None:
        """How its weights were averaged: ema, swa, swad; None: they were not."""
        averaging = self.result.config.get("averaging")
        return averaging and str(averaging["name"])

    def algorithm(self, averaged: bool) -> str:
        """What its trained or its averaged model is called: ``ERM`` and ``ERM + SWAD``."""
        label = str(self.search["algorithm"])
        if self.averaging is None:
            return label
        named = self.averaging in re.findall(r"\w+", label.lower())  # the label tells of the averaging
        if averaged:
            return label if named else f"{label} + {self.averaging.upper()}"
        return f"{label} (not averaged)" if named else label


def domain_runs(out: Path) -> list[DomainRun]:
    """The finished runs with held-out domains, of all experiments in a folder of results.

    Args:
        out: of an experiment, of a file's experiments, or of the results of several files.

    Raises:
        UsageError: there is no such folder, or a file in it is not what it should be.
    """
    found = []
    for folder in _experiments(out):
        for result in collect(folder):
            if result.finished and result.held_out and not result.baseline:
                place = folder / "runs" / result.name
                plain = {"algorithm": result.label, "hparams_seed": 0, "trial": result.seed}
                found.append(DomainRun(result, place, read_status(place).get("search", plain)))
    return found


def unfinished_runs(out: Path) -> list[str]:
    """The runs in the same folder that are not done, and how they stand."""
    places = [path for folder in _experiments(out) for path in sorted((folder / "runs").iterdir())]
    states = {
        path: read_status(path)["status"] for path in places if path.is_dir() and any(path.glob("[!.]*"))
    }
    return [f"{path.name} ({state})" for path, state in states.items() if state != "done"]


def _experiments(out: Path) -> list[Path]:
    if (out / "runs").is_dir():
        return [out]
    found = sorted(path.parent for pattern in ("*/runs", "*/*/runs") for path in out.glob(pattern))
    if not found:
        raise UsageError(f"{out} holds no results: it has no folder 'runs'")
    return found


def several_and_single(
    runs: Sequence[DomainRun], domains: Mapping[str, Sequence[str]]
) -> tuple[list[DomainRun], list[DomainRun]]:
    """Those that are about held-out domains, and those that are about a single training domain.

    One training domain and two held-out ones may also be leave-one-domain-out validation on three domains:
    so it is where other runs of the data set hold out one.
    """
    one_by_one = {run.dataset for run in runs if len(run.result.held_out) == 1}
    several: list[DomainRun] = []
    single: list[DomainRun] = []
    for run in runs:
        n_held_out = len(run.result.held_out)
        alone = len(run.trained_on(domains[run.dataset])) == 1 and n_held_out > 1
        (single if alone and (n_held_out > 2 or run.dataset not in one_by_one) else several).append(run)
    return several, single


def environments(runs: Sequence[DomainRun]) -> dict[str, list[str]]:
    """Data set -> its domains, sorted by name as DomainBed numbers them."""
    domains: dict[str, set[str]] = {}
    for run in runs:
        found = run.domains | set(run.result.held_out) | set(run.result.config.get("domains") or ())
        published = published_environments(DATASETS.get(run.dataset, ""))
        if not run.result.config.get("domains") and found < set(published):
            found.update(published)  # a pooled validation part does not tell whose it is
        domains.setdefault(run.dataset, set()).update(found)
    return {dataset: sorted(names) for dataset, names in domains.items()}


def published_environments(dataset: str) -> list[str]:
    """Names of the environments of a data set of DomainBed, in the order of their numbers; [] if unknown."""
    for cls in _CLASSES:
        if cls.__name__ == dataset:
            published = getattr(cls, "published", None)
            return sorted(published.domains if published else cls.domains)
    return []


def records(
    run: DomainRun,
    domains: Sequence[str],
    strict: bool,
    dataset: str | None = None,
    averaged: bool = True,
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
        averaged: where weights were averaged, the averaged model from the evaluation on at which there is
            one, ``args`` then naming the ``averaging`` and the algorithm that it is an ``average_of``.
            False: the trained model.

    Raises:
        UsageError: an accuracy is demanded and was not measured.
    """
    averaged = averaged and run.averaging is not None
    args = _args(run, domains, dataset, averaged)
    hparams = _hparams(run.result.config)
    seconds = _seconds_per_step(run.folder)
    found = []
    for record in run.result.records:
        if record["step"] == 0:
            continue  # DomainBed measures nothing before the first step
        if averaged and record["averaging"] is None:
            continue  # there was no average yet
        metrics = record["metrics"] if averaged else record.get("raw_metrics", record["metrics"])
        found.append(
            {
                "step": record["step"],
                "epoch": record["epoch"],
                "loss": _mean((record.get("losses") or {}).values()),
                "step_time": seconds.get(record["step"], math.nan),
                "mem_gb": math.nan,  # not measured
                **_accuracies(run, domains, metrics, strict),
                "hparams": hparams,
                "args": args,
            }
        )
    return found


def _args(run: DomainRun, domains: Sequence[str], dataset: str | None, averaged: bool) -> dict[str, Any]:
    """What DomainBed calls the arguments of a job."""
    config = run.result.config
    average_of = {"averaging": run.averaging, "average_of": run.algorithm(averaged=False)}
    return {
        "algorithm": run.algorithm(averaged),
        "dataset": dataset or DATASETS.get(run.dataset, run.dataset),
        "hparams_seed": run.search["hparams_seed"],
        "holdout_fraction": _option(config["data"], "holdout_fraction"),
        "output_dir": str(run.folder),
        "seed": config.get("seed", 0),
        "steps": (config.get("train") or {}).get("steps"),
        "task": "domain_generalization",
        "test_envs": [domains.index(name) for name in sorted(run.result.held_out, key=domains.index)],
        "trial_seed": run.search["trial"],
        "uda_holdout_fraction": 0,
        **(average_of if averaged else {}),
    }


def _accuracies(
    run: DomainRun, domains: Sequence[str], metrics: Mapping[str, Mapping[str, float]], strict: bool
) -> dict[str, float]:
    found = {}
    alone = len(run.trained_on(domains)) == 1  # then the pooled validation part is that of the domain
    for env, domain in enumerate(domains):
        held_out = domain in run.result.held_out
        places = {
            "in": ["in", *(["test"] if held_out and not strict else [])],
            "out": ["out", *([] if held_out else ["val"])],
        }
        pooled = metrics.get("val", {}) if alone and not held_out else {}
        for part, splits in places.items():
            values = (metrics.get(f"{split}/{domain}", {}).get(ACCURACY) for split in splits)
            value = next((value for value in values if value is not None), None)
            value = pooled.get(ACCURACY) if value is None and part == "out" else value
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
