"""DomainBed's folders of jobs: ours written in its form, and its sweeps read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from .domain_quotation import asking
from .domainbed_records import (
    DomainRun,
    domain_runs,
    environments,
    published_environments,
    records,
    several_and_single,
    unfinished_runs,
)
from .files import atomic_write
from .results import RECORDS, RunResult, load_records
from .selection import Records
from .selection_tables import selection_tables, single_source_tables
from .tables import Table

DONE = "done"
_ARGS = {
    "algorithm": str,
    "dataset": str,
    "hparams_seed": int,
    "trial_seed": int,
    "test_envs": list,
}  # what selections read


def export(source: Path, out: Path, dataset: str | None = None) -> list[Path]:
    """Write the finished runs of a folder of results as DomainBed's jobs, a folder a run.

    Each has ``results.jsonl`` and an empty ``done``; ``domainbed_records.records`` tells what is in it.

    Args:
        source: a folder of results of ours.
        out: a new folder.
        dataset: DomainBed's name of the data set; default: by ours.

    Returns:
        the folders.

    Raises:
        UsageError: nothing to export, ``out`` is not empty, two runs would be one job for DomainBed, or a run
            lacks an accuracy that DomainBed's selections need.
    """
    runs = domain_runs(source)
    if not runs:
        raise UsageError(f"{source}: no finished run with held-out domains")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; choose another --out")
    domains = environments(runs)
    jobs: dict[tuple[Any, ...], tuple[Path, list[dict[str, Any]]]] = {}
    for run in runs:
        target = out / (run.folder.name if run.folder.parents[1] == source else _joined(run.folder))
        found = records(run, domains[run.dataset], strict=True, dataset=dataset)
        found = [{**record, "args": {**record["args"], "output_dir": str(target)}} for record in found]
        key = _job(found[0]["args"]) if found else (run.folder,)
        if key in jobs:
            other = jobs[key][0].name
            raise UsageError(
                f"{run.folder} and {other} would be one job for DomainBed: {_words(found[0]['args'])}"
            )
        jobs[key] = (target, found)
    for target, found in jobs.values():
        atomic_write(target / RECORDS, "".join(json.dumps(record, sort_keys=True) + "\n" for record in found))
        atomic_write(target / DONE, "")
    return [target for target, _ in jobs.values()]


def sweep_tables(folder: Path) -> tuple[list[Table], list[str]]:
    """The tables of a sweep of DomainBed, and the jobs in it that are not done and left out.

    Args:
        folder: its output, a folder a job.

    Raises:
        UsageError: no finished job in it, or records that are not DomainBed's.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    jobs = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    unfinished = [job.name for job in jobs if not (job / DONE).exists()]
    runs = [_read_job(job) for job in jobs if job.name not in unfinished]
    if not runs:
        raise UsageError(f"{folder}: no finished job of DomainBed (a folder with {RECORDS} and {DONE})")
    seen: dict[tuple[Any, ...], Path] = {}
    for job, run in zip((job for job in jobs if job.name not in unfinished), runs, strict=True):
        other = seen.setdefault(_job(run[0]["args"]), job)
        if other is not job:
            raise UsageError(f"{job} and {other} are the same job: {_words(run[0]['args'])}")
    names = {run[0]["args"]["dataset"] for run in runs}
    return selection_tables(runs, {name: published_environments(name) for name in names}), unfinished


def search_tables(source: Path) -> list[Table]:
    """The same tables of the runs of ours in a folder of results, under the names of their domains.

    Beside them those of single training domains, and published rows where the configs ask for them.

    Raises:
        UsageError: there is no such folder, a file in it is not what it should be, or two runs of an
            experiment are one job.
    """
    runs = domain_runs(source)
    domains = environments(runs)
    several, single = several_and_single(runs, domains)
    tables = selection_tables(_jobs(several, domains), domains, asking(_by_dataset(several)))
    tables += single_source_tables(_jobs(single, domains), domains, asking(_by_dataset(single)))
    if missing := unfinished_runs(source):
        note = f"Not finished and left out: {', '.join(missing)}."
        tables = [dataclasses.replace(table, notes=(*table.notes, note)) for table in tables]
    return tables


def _by_dataset(runs: Sequence[DomainRun]) -> dict[str, list[RunResult]]:
    found: dict[str, list[RunResult]] = {}
    for run in runs:
        found.setdefault(run.dataset, []).append(run.result)
    return found


def _jobs(runs: Sequence[DomainRun], domains: Mapping[str, Sequence[str]]) -> list[Records]:
    """The records of the trained and of the averaged models; no two of them are the same job.

    Runs with weight averaging repeat the training of those without: their trained models count where there
    are no others. Namesakes in different experiments get the names of these.
    """
    plain = [(run, False) for run in runs if run.averaging is None]
    averaged = [(run, True) for run in runs if run.averaging is not None]
    repeated = [(run, False) for run, _ in averaged]
    jobs: dict[tuple[Any, ...], dict[Path, Records]] = {}  # job -> experiment -> records
    for run, average in (*plain, *averaged, *repeated):
        found = records(run, domains[run.dataset], False, run.dataset, average)
        if not found or (run.averaging and not average and _job(found[0]["args"]) in jobs):
            continue
        namesakes = jobs.setdefault(_job(found[0]["args"]), {})
        experiment = run.folder.parents[1]
        if experiment in namesakes:
            other = namesakes[experiment][0]["args"]["output_dir"]
            raise UsageError(f"{other} and {run.folder} are the same job: {_words(found[0]['args'])}")
        namesakes[experiment] = found
    several = {key[:2] for key, namesakes in jobs.items() if len(namesakes) > 1}
    return [
        _renamed(found, f" ({experiment.name})") if key[:2] in several else found
        for key, namesakes in jobs.items()
        for experiment, found in namesakes.items()
    ]


def _renamed(records: Records, suffix: str) -> Records:
    args = {**records[0]["args"], "algorithm": f"{records[0]['args']['algorithm']}{suffix}"}
    return [{**record, "args": args} for record in records]


def _read_job(folder: Path) -> Records:
    path = folder / RECORDS
    if not path.exists():
        raise UsageError(f"{folder} is done, but has no {RECORDS}")
    found = load_records(path)
    if not found:
        raise UsageError(f"{path}: no records")
    for number, record in enumerate(found, start=1):
        args = record.get("args")
        for key, kind in _ARGS.items():
            if not isinstance(args, Mapping) or not isinstance(args.get(key), kind):
                raise UsageError(f"{path}, line {number}: not a record of DomainBed: no args.{key}")
    return found


def _job(args: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(args[key] for key in _ARGS if key != "test_envs"), tuple(sorted(args["test_envs"])))


def _words(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {args[key]}" for key in _ARGS)


def _joined(folder: Path) -> str:
    """Name of a run and of its experiment."""
    return f"{folder.parents[1].name}_{folder.name}"
