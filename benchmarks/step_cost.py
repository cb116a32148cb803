"""What does a training step of each method cost, against the papers' way of doing it and TorchJD's?

    python benchmarks/step_cost.py                                    # about ten minutes on two cores
    python benchmarks/step_cost.py --quick                            # less than a minute: a small MLP
    python benchmarks/step_cost.py --cases resnet50-5 --only all      # one case, every method
    python benchmarks/step_cost.py --cases all --only all --full      # the published sizes, on a GPU

Measured are the time and the peak memory of ONE step, as multiples of a plain step of the same model, batch
and optimizer (Adam): forward of the whole batch, backward of the mean loss, optimizer step. Four ways:

ours       solver.step(objective, optimizer)
papers     in the manner of the methods' published code (papers_way.py); the directions are the same
autojac, autogram   TorchJD aggregating by its own engines (torchjd_way.py)
bare       the forwards and backwards that our step orders, in plain torch, and the optimizer's step; the
           column "overhead" is our time over this

Ratios are taken within rounds in which every way is called once; printed are the median and the quartiles
over the rounds. Memory is that of tensors, over the first two steps of a new solver. All steps see the same
batch again; that favours methods that start from their last weights. A way that fails is shown as n/a, with
the reason. Written into the output folder: results.csv, results.md, and a figure a case as PNG, SVG and PDF.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measure import Ratio, interleaved, machine, median_ratio, peak_bytes
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from step_cases import CASES, DEFAULT, Case
from step_figures import draw, save_all
from step_tables import Result, tables, to_csv
from step_ways import METHODS, Way, erm, ways_of

import mtlsuite as mtl
from mtlsuite.core.errors import unknown_name
from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.report import report_console
from mtlsuite.experiments.style import styled
from mtlsuite.experiments.tables import to_markdown, to_rich

LR = 1e-7  # so small that the first and the last step see the same problem
QUICK = ("mlp-5",)
KEY = ("equal", "famo", "nash_mtl", "sam", "sage")  # of the heavy cases, by default
REPEATS = {True: 3, False: 7}  # heavy or not


@dataclass(frozen=True)
class Setting:
    """How everything is measured."""

    device: torch.device
    full: bool
    repeats: int | None
    threads: int


class Bench:
    """One case: builds the ways of a method and measures them beside the plain step."""

    def __init__(self, name: str, case: Case, setting: Setting) -> None:
        self.name, self.case, self.setting = name, case, setting
        self.repeats = setting.repeats or REPEATS[case.heavy]
        self._plain_bytes: int | None = None

    def measure(self, method: str, after_round: Callable[[], object]) -> list[Result]:
        """A result for every way of the method, those that failed included."""
        gc.collect()  # the models of the method before, which hooks keep in cycles
        steps: dict[str, Callable[[], object]] = {}
        memory: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for way, make in [("erm", erm), *ways_of(method)]:
            try:
                step = self._step(make)
                memory[way] = self._peak(way, step)
            except Exception as error:  # whatever a library has to say is what the table tells
                reasons[way] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            else:
                steps[way] = step
        times = interleaved(steps, self.repeats, 0, self.setting.device, after_round)
        results = []
        for way in [*(way for way in memory if way != "erm"), *reasons]:
            measured = way in times
            results.append(
                Result(
                    case=self.name,
                    method=method,
                    way=way,
                    time=median_ratio(times, way, "erm") if measured else None,
                    overhead=_overhead(times) if way == "ours" else None,
                    memory=memory[way] / memory["erm"] if measured else None,
                    seconds=sorted(times[way])[self.repeats // 2] if measured else None,
                    repeats=self.repeats,
                    threads=self.setting.threads,
                    note=reasons.get(way, ""),
                )
            )
        return results

    def _step(self, make: Way) -> Callable[[], object]:
        problem = self.case.build(self.setting.device, self.setting.full)
        optimizer = torch.optim.Adam(problem.parameters, lr=LR)
        erm(problem, optimizer)()  # makes the optimizer's state, which belongs to no method
        return make(problem, optimizer)

    def _peak(self, way: str, step: Callable[[], object]) -> int:
        if way == "erm" and self._plain_bytes is not None:
            step()
            return self._plain_bytes
        found = peak_bytes(lambda: (step(), step()), self.setting.device)
        if way == "erm":
            self._plain_bytes = found
        return found


def _overhead(times: Mapping[str, Sequence[float]]) -> Ratio | None:
    return median_ratio(times, "ours", "bare") if {"ours", "bare"} <= set(times) else None


def run_all(
    cases: Sequence[str], only: Sequence[str], setting: Setting, out: Path, console: Console
) -> list[Result]:
    """Every method in every case; results.csv grows method by method."""
    benches = [Bench(name, CASES[name], setting) for name in cases]
    jobs = [(bench, method) for bench in benches for method in only or default_methods(bench.name)]
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=sum(bench.repeats + 1 for bench, _ in jobs))
        for bench, method in jobs:
            progress.update(bar, description=f"{bench.name} {method}")
            results += bench.measure(method, partial(progress.advance, bar))
            progress.advance(bar)
            atomic_write(out / "results.csv", to_csv(results))
    return results


def default_methods(case: str) -> list[str]:
    """Of a heavy case a few, else all."""
    return list(KEY if CASES[case].heavy else METHODS)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--cases",
        nargs="+",
        metavar="CASE",
        help=f"'all' or of {', '.join(CASES)} (default: {' '.join(DEFAULT)})",
    )
    add(
        "--only",
        nargs="+",
        metavar="METHOD",
        help="'all' or some methods (default: all, of the heavy cases a few)",
    )
    add("--repeats", type=int, help="rounds (default: 3 in the heavy cases, else 7)")
    add("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: all that it takes)")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: a GPU if there is one",
    )
    add("--full", action="store_true", help="published image and batch sizes, for GPUs")
    add("--quick", action="store_true", help=f"only {QUICK[0]}, 3 rounds")
    add("--out", type=Path, default=Path("runs/step_cost"), help="output folder (default: runs/step_cost)")
    options = parser.parse_args(argv)
    if options.quick:
        options.cases, options.repeats = options.cases or list(QUICK), options.repeats or 3
    if min(options.threads, options.repeats or 1) < 1:
        parser.error("--threads and --repeats must be positive")
    return options


def chosen(asked: Sequence[str] | None, what: str, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """The names asked for.

    Raises:
        UsageError: a name that is not known.
    """
    for name in asked or ():
        if name != "all" and name not in known:
            raise mtl.UsageError(unknown_name(what, name, [*known, "all"]))
    return list(known if asked and "all" in asked else asked or default)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; the exit status."""
    console = report_console()
    options = arguments(argv)
    try:
        cases = chosen(options.cases, "case", list(CASES), DEFAULT)
        only = chosen(options.only, "method", list(METHODS), ())
    except mtl.UsageError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 2
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*not DPP")  # cvxpy on the programs of Nash-MTL's code
    setting = Setting(torch.device(options.device), options.full, options.repeats, options.threads)
    console.print(machine(setting.device), markup=False)
    out: Path = options.out
    results = run_all(cases, only, setting, out, console)
    found = {name: [result for result in results if result.case == name] for name in cases}
    shown = [one for name in cases for one in tables(CASES[name].title, found[name])]
    for one in shown:
        console.print(to_rich(one))
        for note in one.notes:
            console.print(note, markup=False)
    atomic_write(out / "results.md", f"{machine(setting.device)}\n\n" + "\n".join(map(to_markdown, shown)))
    written = [out / "results.csv", out / "results.md"]
    with styled():
        for name in cases:
            figure = draw(CASES[name].title, found[name])
            written += save_all(figure, out / name)
    console.print("written:", *map(str, written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
