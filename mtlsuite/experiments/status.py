"""How far a folder of results is: what the command ``mtlsuite status`` shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.table import Column, Table

from ..core.errors import UsageError
from .config_file import read
from .liveness import state
from .results import CONFIG, RECORDS, load_records, read_status
from .runner import experiment_folder, run_folder
from .sweep import Run, expand

STATES = ("done", "running", "failed", "interrupted", "missing")


@dataclass(frozen=True)
class RunStatus:
    """One run of a config, as it stands on disk.

    Attributes:
        experiment: its name; empty where there is one.
        run: the run.
        state: one of ``STATES``.
        step: of its last evaluation; None before the first.
        error: what a failed run says.
    """

    experiment: str
    run: Run
    state: str
    step: int | None
    error: str


def statuses(out: Path) -> list[RunStatus]:
    """The runs of the config that a folder of results belongs to; they may be running meanwhile.

    Raises:
        UsageError: the folder holds no config, or a file in it is not what it should be.
    """
    if not (out / CONFIG).is_file():
        raise UsageError(f"{out} is not a folder of results: it has no {CONFIG}")
    found = []
    for experiment in expand(read(out / CONFIG)):
        folder = experiment_folder(out, experiment)
        for run in experiment.runs:
            place = run_folder(folder, run)
            records = load_records(place / RECORDS) if (place / RECORDS).exists() else []
            step = records[-1]["step"] if records else None
            error = str(read_status(place).get("error", ""))
            found.append(RunStatus(experiment.name, run, state(place), step, error))
    return found


def counts(found: list[RunStatus]) -> str:
    """``3 done, 1 failed``."""
    by_state = Counter(status.state for status in found)
    return ", ".join(f"{by_state[state]} {state}" for state in STATES if by_state[state])


def exit_code(found: list[RunStatus]) -> int:
    """0: all are done; 1: some failed or were interrupted; 3: none of these, some are running or missing."""
    states = {status.state for status in found}
    if states <= {"done"}:
        return 0
    return 1 if states & {"failed", "interrupted"} else 3


def status_table(found: list[RunStatus], out: Path) -> Table:
    """A row a run."""
    columns = ("experiment", "run", "held out", "seed", "status", "step", "error")
    table = Table(*(Column(name, overflow="fold") for name in columns), title=f"{out}: {counts(found)}")
    for status in found:
        config = status.run.config
        step = "" if status.step is None else str(status.step)
        if config.train.steps is not None and step:
            step += f" of {config.train.steps}"
        held_out, first = ", ".join(config.held_out), status.error.partition("\n")[0]
        error = first.removeprefix(f"{status.run.id}: ")
        table.add_row(status.experiment, status.run.id, held_out, str(config.seed), status.state, step, error)
    return table
