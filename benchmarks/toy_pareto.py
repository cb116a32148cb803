"""Do the solvers reach the Pareto front of the two-task toy problem? Trajectories, distances, steps.

    python benchmarks/toy_pareto.py                           # about ten minutes on two free cores
    python benchmarks/toy_pareto.py --full                    # the papers' 50,000 steps of Adam with lr 1e-3
    python benchmarks/toy_pareto.py --methods equal nash_mtl  # some methods only

Each method starts from the five points of the papers (see toy_problem.py). By default Adam takes a tenth of
the papers' steps, each ten times as long, to save time: runs may end at other points of the front than the
papers', so compare with those under --full only. Written into the output folder: results.csv, results.md, and
the figures parameters and losses as PNG and SVG.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from toy_figures import draw_losses, draw_parameters
from toy_problem import STARTS, Array, distance_to_front, losses, losses_of, pareto_front

import mtlsuite as mtl
from mtlsuite.core.errors import unknown_name
from mtlsuite.core.registry import registered
from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.style import save, styled
from mtlsuite.experiments.tables import Cell, Column, Row, Table, to_markdown, to_rich

PAPER_STEPS, PAPER_LR = 50_000, 1e-3
RECORDED = 5_000  # points of a trajectory at most
EQUAL, NASH = {"base": "equal"}, {"base": "nash_mtl"}

# Options at the scale of this problem: x moves within 20 units, and directions of nash_mtl have norm 1. SAGE
# sees a vector, no matrix, so its ascent is that of SAM here; what is left of it is the noise. Of two sources
# gradient_equilibrium's refined rows are both the mean gradient, so with it nothing balances the two.
METHODS: dict[str, dict[str, Any]] = {
    "equal": EQUAL,
    "nash_mtl": NASH,
    "famo": {"base": {"name": "famo", "min_losses": [-2.1, -21.0], "w_lr": 0.025, "gamma": 0.0}},
    "sam(nash_mtl)": {**NASH, "wrap": [{"name": "sam", "rho": 0.1}]},
    "disam(nash_mtl)": {**NASH, "wrap": [{"name": "disam", "rho": 0.1, "lambda": 0.1}]},
    "sage(nash_mtl)": {**NASH, "wrap": [{"name": "sage", "rho": 0.1, "gamma": 0.1}]},
    "gradient_equilibrium(nash_mtl)": {**NASH, "wrap": ["gradient_equilibrium"]},
    "arithmetic(nash_mtl)": {**NASH, "wrap": [{"name": "arithmetic", "inner_lr": 0.01}]},
    "sam(equal)": {**EQUAL, "wrap": [{"name": "sam", "rho": 0.1}]},
    "samo(nash_mtl)": {**NASH, "wrap": [{"name": "samo", "rho": 0.1}]},
    "gsam(equal)": {**EQUAL, "wrap": [{"name": "gsam", "rho": 0.1}]},
    "sagm(equal)": {**EQUAL, "wrap": [{"name": "sagm", "rho": 0.1}]},
    "gga(equal)": {
        **EQUAL,
        "wrap": [{"name": "gga", "start_step": 0, "end_step": 100, "n_search": 20, "radius": 0.05}],
    },
    "gga_l(equal)": {**EQUAL, "wrap": [{"name": "gga_l", "gamma": 0.1}]},
    "arithmetic(equal)": {**EQUAL, "wrap": [{"name": "arithmetic", "inner_lr": 0.01}]},
    "fish(equal)": {**EQUAL, "wrap": [{"name": "fish", "inner_lr": 0.01}]},
}
AGGREGATORS: dict[str, dict[str, Any]] = {
    "UPGrad": {},
    "PCGrad": {},
    "CAGrad": {"c": 0.4},
    "MGDA": {},
    "IMTLG": {},
    "AlignedMTL": {},
}


@dataclass(frozen=True)
class Job:
    """One run: a method from one start."""

    method: str
    spec: Mapping[str, Any]
    start: tuple[float, float]
    steps: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Trajectory:
    """Where a run was: (T,) numbers of steps done, (T, 2) points x, (T, 2) losses."""

    job: Job
    steps: Array
    points: Array
    values: Array


def run(job: Job) -> Trajectory:
    """Minimise by Adam along the solver's directions; at most ``RECORDED`` points and the last are kept."""
    x = torch.tensor(job.start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=job.lr)
    solver = mtl.build_solver(job.spec, seed=job.seed)
    objective = mtl.Objective(lambda: losses(x), shared=[x], names=["f1", "f2"])
    every = max(1, job.steps // RECORDED)
    kept = [(0, job.start)]
    for step in range(1, job.steps + 1):
        solver.step(objective, optimizer)
        if step % every == 0 or step == job.steps:
            kept.append((step, tuple(x.tolist())))
    points = np.array([point for _, point in kept])
    return Trajectory(job, np.array([float(step) for step, _ in kept]), points, losses_of(points))


def methods(console: Console) -> dict[str, dict[str, Any]]:
    """All methods that can be built here; what is left out is printed with the reason."""
    found = dict(METHODS)
    if "torchjd" not in registered("solver"):
        console.print("left out: TorchJD's aggregators (no solver 'torchjd' is registered)")
        return found
    for name, options in AGGREGATORS.items():
        spec = {"base": {"name": "torchjd", "aggregator": name, **options}}
        try:
            mtl.build_solver(spec)
            found[name] = spec
        except (mtl.UsageError, ImportError) as error:
            console.print(f"left out: {name} ({error})", markup=False)
    return found


def run_all(jobs: Sequence[Job], processes: int, console: Console) -> list[Trajectory]:
    """All runs, in the order of the jobs, ``processes`` at a time, with a progress bar."""
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    done: dict[int, Trajectory] = {}
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("runs", total=len(jobs))
        for number, trajectory in enumerate(map(run, jobs)) if processes == 1 else _at_once(jobs, processes):
            done[number] = trajectory
            progress.advance(bar)
    return [done[number] for number in range(len(jobs))]


def _at_once(jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, Trajectory]]:
    context = multiprocessing.get_context("spawn")  # forked children may hang in torch's threads
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        numbers = {pool.submit(run, job): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()


def arrival(trajectory: Trajectory, front: Array, tolerance: float) -> float | None:
    """Steps done when the run came within ``tolerance`` of the front for good; None where it is not there."""
    outside = np.flatnonzero(distance_to_front(trajectory.values, front) > tolerance)
    first = 0 if len(outside) == 0 else int(outside[-1]) + 1
    return float(trajectory.steps[first]) if first < len(trajectory.steps) else None


def tables(trajectories: Sequence[Trajectory], front: Array, tolerance: float) -> list[Table]:
    """Final losses, final distances and arrival steps: a row a method, a column a start."""
    by_method: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        by_method.setdefault(trajectory.job.method, []).append(trajectory)

    def table(title: str, digits: int, cell: Callable[[Trajectory], Cell]) -> Table:
        columns = [Column(f"({x:g}, {y:g})", digits=digits) for x, y in STARTS]
        rows = [Row(name, tuple(cell(one) for one in runs)) for name, runs in by_method.items()]
        return Table(title, tuple(columns), tuple(rows))

    def final_distance(one: Trajectory) -> Cell:
        return Cell(float(distance_to_front(one.values[-1:], front)[0]))

    def steps(one: Trajectory) -> Cell:
        arrived = arrival(one, front, tolerance)
        return Cell(math.inf, text="never") if arrived is None else Cell(arrived)

    return [
        table("Final first loss, by start", 2, lambda one: Cell(float(one.values[-1, 0]))),
        table("Final second loss, by start", 2, lambda one: Cell(float(one.values[-1, 1]))),
        table("Final distance to the Pareto front (1: its extent), by start", 4, final_distance),
        table(f"Steps until within {tolerance:g} of the Pareto front for good, by start", 0, steps),
    ]


def results_csv(trajectories: Sequence[Trajectory], front: Array, tolerance: float) -> str:
    """One line a run, the numbers in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "start_x1", "start_x2", "x1", "x2", "f1", "f2", "distance", "steps_to_front"])
    for one in trajectories:
        distance = float(distance_to_front(one.values[-1:], front)[0])
        numbers = [*one.job.start, *one.points[-1].tolist(), *one.values[-1].tolist(), distance]
        writer.writerow([one.job.method, *numbers, arrival(one, front, tolerance)])
    return out.getvalue()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=5_000, help="Adam steps of each run (default: 5000)")
    add("--lr", type=float, default=1e-2, help="learning rate of Adam (default: 0.01)")
    add("--full", action="store_true", help="as in the papers: 50,000 steps with learning rate 0.001")
    add("--methods", nargs="+", metavar="NAME", help="only these, e.g. equal 'sam(nash_mtl)' (default: all)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one a core)")
    add("--tolerance", type=float, default=0.01, help="of the front, in extents of it (default: 0.01)")
    add("--seed", type=int, default=0, help="of the methods that draw at random (default: 0)")
    add("--out", type=Path, default=Path("runs/toy_pareto"), help="output folder (default: runs/toy_pareto)")
    options = parser.parse_args(argv)
    if options.full:
        options.steps, options.lr = PAPER_STEPS, PAPER_LR
    if min(options.steps, options.jobs) < 1 or options.lr <= 0 or options.tolerance <= 0:
        parser.error("--steps, --jobs, --lr and --tolerance must be positive")
    return options


def chosen(options: argparse.Namespace, console: Console) -> dict[str, dict[str, Any]]:
    """The methods asked for.

    Raises:
        UsageError: a name that is not among the methods.
    """
    found = methods(console)
    for name in options.methods or ():
        if name not in found:
            raise mtl.UsageError(unknown_name("method", name, found))
    return {name: found[name] for name in options.methods or found}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print and write everything; the exit status."""
    console = Console()
    options = arguments(argv)
    try:
        specs = chosen(options, console)
    except mtl.UsageError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 2
    set_, front = pareto_front()
    jobs = [
        Job(name, spec, start, options.steps, options.lr, options.seed)
        for name, spec in specs.items()
        for start in STARTS
    ]
    trajectories = run_all(jobs, options.jobs, console)
    results = tables(trajectories, front, options.tolerance)
    for table in results:
        console.print(to_rich(table))
    out: Path = options.out
    atomic_write(out / "results.md", "\n".join(map(to_markdown, results)))
    atomic_write(out / "results.csv", results_csv(trajectories, front, options.tolerance))
    runs = {name: [t for t in trajectories if t.job.method == name] for name in specs}
    with styled():
        points = {name: [one.points for one in group] for name, group in runs.items()}
        values = {name: [one.values for one in group] for name, group in runs.items()}
        written = [
            *save(draw_parameters(points, set_), out / "parameters"),
            *save(draw_losses(values, front), out / "losses"),
        ]
    console.print("written:", *map(str, [out / "results.md", out / "results.csv", *written]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
