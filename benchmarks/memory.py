"""Peak memory of a training step on domains, against empirical risk minimisation plus the gradients' buffer.

    python benchmarks/memory.py  # about a minute: 3 and 5 domains, of each 16 images of 96x96
    python benchmarks/memory.py --device cuda --images 32 --pixels 224

The model is ResNet-18 with frozen BatchNorm, as in DomainBed. ERM is a plain training loop: one forward of
all domains, one backward, one optimizer step. Our steps evaluate the domains one after the other; they may
need what ERM needs plus the (K, P) buffer of the K gradients. With ``memory: low`` it is never made.
Measured is the most tensor memory in use at once, above what was there before (parameters, batch), in the
first two steps of a fresh solver, with SGD: buffers that a solver keeps count. Written into the output
folder: results.csv, results.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import available, machine, peak_bytes
from papers_base import Step
from step_cases import N_CLASSES, Problem, domain_problem

import mtlsuite as mtl
from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.report import report_console
from mtlsuite.experiments.tables import Cell, Column, Row, Table, to_csv, to_markdown, to_rich
from mtlsuite.models.backbones import ResNet18

SPECS: dict[str, dict[str, Any]] = {
    "equal": {"base": "equal"},
    "famo": {"base": "famo"},
    "nash_mtl": {"base": "nash_mtl"},
    "nash_mtl, memory low": {"base": "nash_mtl", "memory": "low"},
    "torchjd UPGrad": {"base": {"name": "torchjd", "aggregator": "UPGrad"}},
    "sam(equal)": {"base": "equal", "wrap": ["sam"]},
    "sage(equal)": {"base": "equal", "wrap": ["sage"]},
    "sage(nash_mtl)": {"base": "nash_mtl", "wrap": ["sage"]},
    "sage(nash_mtl), memory low": {"base": "nash_mtl", "wrap": ["sage"], "memory": "low"},
    "gradient_equilibrium(nash_mtl)": {"base": "nash_mtl", "wrap": ["gradient_equilibrium"]},
}
MIB = 2**20
COLUMNS = (
    Column("peak", "MiB", 1),
    Column("ERM", "MiB", 1),
    Column("(K, P) buffer", "MiB", 1),
    Column("peak - ERM - buffer", "MiB", 1),
)


def problem(n_domains: int, n_images: int, pixels: int, device: torch.device) -> Problem:
    """ResNet-18 on noise, a minibatch a domain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet18({"class": N_CLASSES}, freeze_bn=True).train()
        images = torch.randn(n_domains, n_images, 3, pixels, pixels)
        labels = torch.randint(N_CLASSES, (n_domains, n_images))
    model.to(device)
    return domain_problem(model, list(zip(images.to(device), labels.to(device), strict=True)))


def peak_of_erm(posed: Problem) -> int:
    """Bytes of a plain training step on the mean loss of all domains."""
    posed.model.zero_grad(set_to_none=True)
    return peak_bytes(Step(posed, torch.optim.SGD(posed.parameters, lr=1e-6)), posed.parameters[0].device)


def peak_of(posed: Problem, spec: dict[str, Any]) -> int:
    """Bytes of the first two steps of a fresh solver."""
    solver, optimizer = mtl.build_solver(spec), torch.optim.SGD(posed.parameters, lr=1e-6)
    posed.model.zero_grad(set_to_none=True)

    def twice() -> None:
        for _ in range(2):
            solver.step(posed.objective(), optimizer)

    return peak_bytes(twice, posed.parameters[0].device)


def buffer_of(posed: Problem) -> int:
    """Bytes of the K gradients."""
    entry = posed.parameters[0].element_size()
    return posed.n_sources * entry * sum(parameter.numel() for parameter in posed.parameters)


def table(n_domains: int, erm: int, buffer: int, peaks: dict[str, int]) -> Table:
    """A row a method; the last column is at most zero where the target is met."""
    rows = [
        Row(name, tuple(Cell(value / MIB) for value in (peak, erm, buffer, peak - erm - buffer)))
        for name, peak in peaks.items()
    ]
    return Table(f"Peak memory of a step, {n_domains} domains", COLUMNS, tuple(rows))


def verdict(n_domains: int, erm: int, buffer: int, peaks: dict[str, int]) -> str:
    """Which methods need more than ERM and the buffer."""
    above = [name for name, peak in peaks.items() if peak > erm + buffer]
    found = "met by all" if not above else "NOT met by " + ", ".join(above)
    return f"{n_domains} domains: not above ERM plus the (K, P) buffer: {found}"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--domains", type=int, nargs="+", default=[3, 5], metavar="K", help="(default: 3 5)")
    add("--images", type=int, default=16, help="of each domain (default: 16)")
    add("--pixels", type=int, default=96, help="height and width of an image (default: 96)")
    add("--methods", nargs="+", choices=SPECS, default=list(SPECS), metavar="NAME", help="(default: all)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--out", type=Path, default=Path("runs/memory"), help="output folder (default: %(default)s)")
    options = parser.parse_args(argv)
    if min(*options.domains, options.images) < 1 or options.pixels < 32:
        parser.error("--domains and --images must be at least 1, --pixels at least 32")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; the exit status."""
    console = report_console()
    options = arguments(argv)
    plainly = partial(console.print, markup=False)
    specs = {
        name: SPECS[name]
        for name in available(options.methods, lambda name: mtl.build_solver(SPECS[name]), plainly)
    }
    tables, lines = [], []
    for n_domains in options.domains:
        posed = problem(n_domains, options.images, options.pixels, torch.device(options.device))
        with console.status(f"{n_domains} domains"):
            erm, buffer = peak_of_erm(posed), buffer_of(posed)
            peaks = {name: peak_of(posed, spec) for name, spec in specs.items()}
        tables.append(table(n_domains, erm, buffer, peaks))
        lines.append(verdict(n_domains, erm, buffer, peaks))
        console.print(to_rich(tables[-1]))
    what = f"{options.images} images of {options.pixels}x{options.pixels} a domain"
    lines.append(f"{machine(options.device)}; {what}")
    text = "\n".join(lines)
    console.print(text, markup=False, highlight=False)
    out: Path = options.out
    atomic_write(out / "results.csv", to_csv(tables))
    atomic_write(out / "results.md", "\n".join([*map(to_markdown, tables), text, ""]))
    console.print("written:", str(out / "results.csv"), str(out / "results.md"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
