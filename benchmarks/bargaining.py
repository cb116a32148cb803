"""Nash bargaining weights: how fast and how exact, against TorchJD and against cvxpy's solvers.

    python benchmarks/bargaining.py           # about five minutes on two free cores
    python benchmarks/bargaining.py --quick   # less than a minute: K up to 20, three conditions, three rounds

Every way gets the same K gradients and returns weights a > 0 with G a = 1 / a, G their Gramian. The ways:
``bargaining_weights`` (ours); TorchJD's ``NashMTL``, which is the published code, from ones and, warm, from
its solution for the same Gramian; the same sequence of convex programs written so that cvxpy compiles it only
once; and the convex problem itself, one solution by each solver that cvxpy has. Times are medians over
interleaved rounds in one process, without building the problem; in a round every way is called until a
hundredth of a second is over, and its time is the mean. Exact is max_i |a_i (G a)_i - 1|, and the
distance of log a from a reference in extended precision. Written into the output folder: results.csv,
results.md, and the figure bargaining as PNG and SVG.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from bargaining_cases import Case, conditioned, hard, reference, unsolvable
from bargaining_figures import draw
from bargaining_results import Result, judged, results_csv, tables, verdict
from bargaining_ways import OURS, Way, answer, ways
from measure import interleaved, machine, median_ratio
from rich.progress import track
from torch import Tensor

from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.report import report_console
from mtlsuite.experiments.style import save, styled
from mtlsuite.experiments.tables import to_markdown, to_rich

SIZES = (2, 3, 5, 10, 20, 50, 100)
CONDITIONS = (1.0, 1e2, 1e4, 1e6, 1e8)
HARD_SIZES = (2, 10, 40)


def measure(case: Case, repeats: int) -> list[Result]:
    """Time and judge every way on one case."""
    asked = ways(case.k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's, of inexact solutions and of problems it compiles again
        given = {name: answer(way, case.matrix) for name, way in asked.items()}
        counts = {name: calls_of(partial(answer, way, case.matrix)) for name, way in asked.items()}
        loops = {name: partial(loop, way, case.matrix, counts[name]) for name, way in asked.items()}
        times = {
            name: [seconds / counts[name] for seconds in measured]
            for name, measured in interleaved(loops, repeats, warmup=0).items()
        }
    exact = reference(case.gramian) if case.solvable else None
    if case.solvable and exact is None:
        raise ArithmeticError(f"{case.family}, K = {case.k}: the reference found no weights")
    return [
        Result(
            case,
            name,
            statistics.median(times[name]),
            median_ratio(times, name, OURS),
            *judged(case, given[name], exact),
        )
        for name in asked
    ]


def calls_of(call: Callable[[], object]) -> int:
    """How many calls take about a hundredth of a second; the first, which may compile, is not timed."""
    call()
    start = time.perf_counter()
    call()
    return max(1, math.ceil(0.01 / (time.perf_counter() - start)))


def loop(way: Way, matrix: Tensor, count: int) -> None:
    """Ask the way ``count`` times."""
    for _ in range(count):
        answer(way, matrix)


def cases(options: argparse.Namespace) -> Iterable[Case]:
    """All cases that the command line asks for."""
    for k in options.sizes:
        for condition in options.conditions:
            yield conditioned(k, condition, options.seed)
    hard_sizes = [k for k in HARD_SIZES if k <= max(options.sizes)]
    yield from hard(hard_sizes, options.seed)
    for k in hard_sizes:
        yield from unsolvable(k, options.seed)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="K up to 20, three conditions, three rounds")
    add("--sizes", type=int, nargs="+", metavar="K", help="numbers of sources (default: 2 to 100)")
    add("--conditions", type=float, nargs="+", metavar="C", help="condition numbers (default: 1 to 1e8)")
    add("--repeats", type=int, help="rounds that count (default: 7)")
    add("--seed", type=int, default=0, help="of the gradients (default: 0)")
    add("--out", type=Path, default=Path("runs/bargaining"), help="output folder (default: %(default)s)")
    options = parser.parse_args(argv)
    quick = options.quick
    options.sizes = options.sizes or (SIZES[:5] if quick else SIZES)
    options.conditions = options.conditions or (CONDITIONS[::2] if quick else CONDITIONS)
    options.repeats = options.repeats or (3 if quick else 7)
    if min(options.sizes) < 1 or min(options.conditions) < 1 or options.repeats < 1:
        parser.error("--sizes, --conditions and --repeats must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; the exit status."""
    console = report_console()
    options = arguments(argv)
    chosen = list(cases(options))
    results: list[Result] = []
    for case in track(chosen, "Gramians", console=console):
        results += measure(case, options.repeats)
    found = tables(results)
    for table in found:
        console.print(to_rich(table))
    text = "\n".join([*verdict(results), "", f"{machine()}; {options.repeats} rounds"])
    console.print(text, markup=False, highlight=False)
    out: Path = options.out
    atomic_write(out / "results.csv", results_csv(results))
    atomic_write(out / "results.md", "\n".join([*map(to_markdown, found), text, ""]))
    with styled():
        written = save(draw(results), out / "bargaining")
    console.print("written:", *map(str, [out / "results.csv", out / "results.md", *written]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
