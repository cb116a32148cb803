"""How time and memory of a training step grow with the sources, the parameters and the batch.

    python benchmarks/scaling.py                  # about six minutes on two free cores
    python benchmarks/scaling.py --quick          # about a minute: fewer and smaller sizes
    python benchmarks/scaling.py --device cuda

A ReLU network on noise, once with K domains (a minibatch each; in our steps graphs of their own) and once
with K tasks (one batch, one graph, a linear head each). One of K, P and the batch size is varied; the others
stay. Times are medians over interleaved rounds; memory is the peak of a fresh solver's first two steps, so
buffers that it keeps count. A law y = c x^p is fitted by least squares in log x and log y to the larger half
of the sizes: at the smaller ones fixed costs (Python, starting kernels) hide the law. A method whose step
would take longer than --longest, in proportion to the size before, is left out from there on. Written into
the output folder: results.csv, results.md, and the figures domains and tasks as PNG and SVG.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from measure import available, machine
from rich.console import Console
from rich.progress import Progress
from scaling_cases import METHODS, Axis, Kind, Sample, Size, fitted, measured, problem, step_of
from scaling_figures import draw

from mtlsuite.core.errors import unknown_name
from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.report import report_console
from mtlsuite.experiments.style import save, styled
from mtlsuite.experiments.tables import Cell, Column, Row, Table, to_markdown, to_rich

USUAL: dict[Axis, Size] = {
    "sources": Size(4, 1_000_000, 16),
    "parameters": Size(4, 1_000_000, 16),
    "batch": Size(4, 100_000, 16),  # a small network, so that its activations count
}
SWEEPS: dict[Axis, tuple[int, ...]] = {
    "sources": (2, 4, 8, 16, 24, 40),
    "parameters": (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 25_000_000),
    "batch": (16, 64, 256, 1024, 2048, 4096),
}
QUICK: dict[Axis, tuple[int, ...]] = {
    "sources": (2, 4, 8, 16),
    "parameters": (50_000, 100_000, 200_000, 400_000),
    "batch": (16, 64, 256, 1024),
}


def measure(options: argparse.Namespace, methods: Sequence[str], console: Console) -> list[Sample]:
    """Every size of every axis, of domains and of tasks."""
    device = torch.device(options.device)
    sweeps: dict[Axis, tuple[int, ...]] = options.sweeps
    count = len(get_args(Kind)) * sum(map(len, sweeps.values()))
    samples: list[Sample] = []
    with Progress(console=console) as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not DPP")  # cvxpy compiles the papers' problem each time
        bar = progress.add_task("sizes", total=count)
        for kind, axis in itertools.product(get_args(Kind), sweeps):
            before: list[Sample] = []
            for value in sweeps[axis]:
                slow = {s.method for s in before if s.median * value / s.value > options.longest}
                asked = [method for method in methods if method not in slow]
                size = dataclasses.replace(options.usual[axis], **{axis: value})
                found = measured(kind, axis, size, asked, options.repeats, device)
                before = [*found, *(s for s in before if s.method in slow)]
                samples += found
                progress.advance(bar)
    return samples


def tables(samples: Sequence[Sample], kind: Kind) -> list[Table]:
    """The fitted exponents, then milliseconds and megabytes of every size: a row a method."""
    chosen = [sample for sample in samples if sample.kind == kind]
    found = [_exponents(chosen, kind)]
    for axis in dict.fromkeys(sample.axis for sample in chosen):
        of_axis = [sample for sample in chosen if sample.axis == axis]
        what = _varied(axis, of_axis[0].size)
        found.append(
            _by_value(f"{kind}: milliseconds of a step by {what}", of_axis, lambda s: 1e3 * s.median)
        )
        found.append(_by_value(f"{kind}: peak MB of a step by {what}", of_axis, lambda s: s.peak / 1e6))
    return found


def _varied(axis: Axis, size: Size) -> str:
    others = ", ".join(f"{name} {getattr(size, name):,}" for name in get_args(Axis) if name != axis)
    return f"{axis} ({others})"


def _by_value(title: str, samples: Sequence[Sample], quantity: Callable[[Sample], float]) -> Table:
    values = list(dict.fromkeys(sample.value for sample in samples))
    cells = {(s.method, s.value): Cell(quantity(s), text=f"{quantity(s):.3g}") for s in samples}
    rows = [
        Row(method, tuple(cells.get((method, value)) for value in values))
        for method in dict.fromkeys(sample.method for sample in samples)
    ]
    return Table(title, tuple(Column(f"{value:,}") for value in values), tuple(rows))


def _exponents(samples: Sequence[Sample], kind: Kind) -> Table:
    """p of y = c x^p, time and memory by each axis."""
    columns: list[Column] = []
    cells: dict[str, list[Cell | None]] = {s.method: [] for s in samples}
    ranges: dict[str, list[str]] = {}
    for axis in dict.fromkeys(sample.axis for sample in samples):
        columns += [Column(f"time by {axis}", digits=2), Column(f"memory by {axis}", digits=2)]
        for method, of_method in cells.items():
            chosen = [s for s in samples if s.axis == axis and s.method == method]
            laws = fitted({s.value: s.median for s in chosen}), fitted({s.value: s.peak for s in chosen})
            of_method += [Cell(law.exponent) if law else None for law in laws]
            if laws[0]:
                ranges.setdefault(f"{axis} {laws[0].low:,} to {laws[0].high:,}", []).append(method)
    notes = [
        f"Fitted to {range_}" + (f" ({', '.join(of)})." if len(of) < len(cells) else ".")
        for range_, of in ranges.items()
    ]
    rows = tuple(Row(method, tuple(of_method)) for method, of_method in cells.items())
    return Table(f"{kind}: exponents p of c x^p", tuple(columns), rows, tuple(notes))


def results_csv(samples: Sequence[Sample]) -> str:
    """One line a method and size, the numbers in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["kind", "varied", "method", "sources", "parameters", "batch", "seconds", "peak_bytes"]
    writer.writerow(names)
    for s in samples:
        size = [s.size.sources, s.size.parameters, s.size.batch]
        writer.writerow([s.kind, s.axis, s.method, *size, s.median, s.peak])
    return out.getvalue()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and smaller sizes, three rounds")
    add("--methods", nargs="+", metavar="NAME", default=list(METHODS), help="only these (default: all)")
    for axis in get_args(Axis):
        add(f"--{axis}", type=int, nargs="+", metavar="N", help=f"sizes when the {axis} are varied")
    add("--longest", type=float, default=4.0, help="seconds a step may take (default: 4)")
    add("--repeats", type=int, help="rounds that count (default: 7)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--out", type=Path, default=Path("runs/scaling"), help="output folder (default: %(default)s)")
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (3 if options.quick else 7)
    options.usual = dict(USUAL)
    if options.quick:
        options.usual["sources"] = dataclasses.replace(USUAL["sources"], parameters=100_000)
    options.sweeps = {
        axis: tuple(sorted(getattr(options, axis) or values))
        for axis, values in (QUICK if options.quick else SWEEPS).items()
    }
    if options.longest <= 0 or min(options.repeats, *(min(values) for values in options.sweeps.values())) < 1:
        parser.error("--repeats and all sizes must be at least 1, --longest positive")
    if any(len(set(values)) < 2 for values in options.sweeps.values()):
        parser.error("a law needs two different sizes at least")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; the exit status."""
    console = report_console()
    options = arguments(argv)
    for name in options.methods:
        if name not in METHODS:
            console.print(f"error: {unknown_name('method', name, METHODS)}", style="red", markup=False)
            return 2
    small = problem("tasks", Size(2, 1_000, 1), torch.device("cpu"))
    names = available(options.methods, partial(step_of, small), partial(console.print, markup=False))
    samples = measure(options, names, console)
    found = [table for kind in get_args(Kind) for table in tables(samples, kind)]
    for table in found:
        console.print(to_rich(table))
    for note in dict.fromkeys(note for table in found for note in table.notes):
        console.print(note, markup=False, highlight=False)
    text = f"{machine(options.device)}; {options.repeats} rounds"
    console.print(text, markup=False, highlight=False)
    out: Path = options.out
    atomic_write(out / "results.csv", results_csv(samples))
    atomic_write(out / "results.md", "\n".join([*map(to_markdown, found), text, ""]))
    written = []
    with styled():
        for kind in get_args(Kind):
            written += save(draw([sample for sample in samples if sample.kind == kind]), out / kind)
    console.print("written:", *map(str, [out / "results.csv", out / "results.md", *written]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
