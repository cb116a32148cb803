"""Where runs are trained: the section ``launcher`` of a config file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from ..core.errors import UsageError, unknown_name
from ..core.types import Count, Positive
from .messages import problems, shown
from .parts import Part


class Local(Part):
    """One run after the other, in this process."""

    name: Literal["local"] = "local"


class Processes(Part):
    """Several runs at a time on this machine, each in a process of its own.

    Attributes:
        jobs: how many; not given: one a CPU.
    """

    name: Literal["processes"] = "processes"
    jobs: Count = Field(default_factory=lambda: os.cpu_count() or 1)


class Submitit(Part):
    """A Slurm job array through submitit, a task a run; this process waits for it.

    Attributes:
        cluster: ``slurm``; ``local`` starts all jobs at once on this machine, to try a sweep out.
        partition: of Slurm; not given: its default.
        minutes: time limit of a job; one that reaches it is queued again and goes on from its checkpoint.
        gpus: of a job.
        cpus: of a job.
        memory_gb: of a job; not given: Slurm's default.
        parallel: jobs of the array at a time.
        requeues: how often a job that reached its time limit is queued again.
        slurm: further options of sbatch, such as ``{account: lab, qos: low}``.
    """

    name: Literal["submitit"] = "submitit"
    cluster: Literal["slurm", "local"] = "slurm"
    partition: str | None = None
    minutes: Count = 24 * 60
    gpus: Annotated[int, Field(ge=0)] = 0
    cpus: Count = 1
    memory_gb: Positive | None = None
    parallel: Count = 64
    requeues: Annotated[int, Field(ge=0)] = 10
    slurm: dict[str, str | int | float | bool] = Field(default_factory=dict)


Launcher = Local | Processes | Submitit
LAUNCHERS: dict[str, type[Launcher]] = {"local": Local, "processes": Processes, "submitit": Submitit}


def parse_launcher(section: Any) -> Launcher:
    """The section ``launcher``: a name, or a mapping with ``name`` and options.

    Raises:
        UsageError: what is wrong; ``key`` is relative to the section.
    """
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise UsageError(f"found {shown(section)}; allowed: a name, or a mapping with the key 'name'")
    if section["name"] not in LAUNCHERS:
        raise UsageError(unknown_name("launcher", section["name"], LAUNCHERS), ("name",))
    try:
        return LAUNCHERS[section["name"]].model_validate(section)
    except pydantic.ValidationError as error:
        raise problems(error, section)[0] from None
