"""Does the sharpness that SAM, ASAM and SAGE measure depend on how the weights are scaled?

    python benchmarks/scale_invariance.py             # less than a minute
    python benchmarks/scale_invariance.py --seeds 10  # ten trained networks

The experiment of Ballas and Diou, Flatness and Gradient Alignment Are Both Necessary (SAGE), 2026, Figure 4:
in a two-layer ReLU network without normalization layers the first weights are multiplied by a factor a and
the second ones divided by it. The network computes the same function for every a, so its sharpness should not
change either. Measured is L(theta + eps) - L(theta), eps the ascent of each method, by a solver inside the
wrapper that notes the loss where it is asked.

The text of the paper does not say, and here is chosen: scikit-learn's digits (1797 images of 8x8 pixels), 32
hidden units, cross-entropy, 300 training steps of Adam with lr 0.01 on all images at once; factors from 0.01
to 100; radii that raise the loss a little at a = 1; SAGE without its noise, which is no part of the ascent;
float64; networks without biases and with (then the first bias is multiplied by a, too). Written into the
output folder: results.csv, results.md, and the figure sharpness as PNG and SVG.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mtlsuite as mtl
from mtlsuite.experiments.files import atomic_write
from mtlsuite.experiments.style import WIDTH, look, plain, save, styled
from mtlsuite.experiments.tables import Cell, Column, Row, Table, to_csv, to_markdown, to_rich

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
Array = NDArray[np.float64]
FLAT = 1e-6  # relative change of the sharpness up to which it counts as constant


class Probe(mtl.Solver):
    """Notes the mean loss at the point where it is asked; its direction is the mean gradient there."""

    mean_loss = math.nan

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        self.mean_loss = float(oracle.losses().mean())
        return mtl.Direction(oracle.mean_gradient())


class OffsetASAM(mtl.Wrapper):
    """ASAM with T = |theta| + eta, the form of its authors' code; eta does not scale with the weights."""

    def __init__(self, inner: mtl.Solver, rho: float, eta: float = 0.01) -> None:
        super().__init__(inner)
        self.rho = rho
        self.eta = eta

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        scale = torch.cat([p.detach().flatten() for p in oracle.space.parameters]).abs() + self.eta
        scaled = scale * oracle.mean_gradient()
        with oracle.moved(self.rho * scale * scaled / scaled.norm()) as there:
            return self.inner.direction(there)


ASCENTS: dict[str, Callable[[mtl.Solver], mtl.Solver]] = {
    "SAM": lambda inner: mtl.SAM(inner, rho=0.05),
    "ASAM": lambda inner: mtl.SAM(inner, rho=0.5, adaptive=True),
    "ASAM, T = |theta| + 0.01": lambda inner: OffsetASAM(inner, rho=0.5),
    "SAGE": lambda inner: mtl.SAGE(inner, rho=0.01, gamma=0.0),
    "SAGE, scale none": lambda inner: mtl.SAGE(inner, rho=0.01, gamma=0.0, scale="none"),
}


@dataclass(frozen=True)
class Measurement:
    """Sharpness of every method: method -> (seeds, factors), for networks with or without biases."""

    biases: bool
    factors: tuple[float, ...]
    sharpness: dict[str, Array]

    @property
    def title(self) -> str:
        """What kind of network was measured."""
        return "two-layer MLP with biases" if self.biases else "two-layer MLP without biases"

    def ratios(self, method: str) -> Array:
        """(seeds, factors) sharpness over that at factor 1."""
        values = self.sharpness[method]
        ratios: Array = values / values[:, [self.factors.index(1.0)]]
        return ratios

    def change(self, method: str) -> float:
        """The largest |ratio - 1| of all seeds and factors."""
        return float(np.abs(self.ratios(method) - 1).max())


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 64) pixels in 0..1 and (1797,) labels."""
    data = load_digits()
    return torch.from_numpy(data.data / 16.0), torch.from_numpy(data.target)


def trained_network(seed: int, biases: bool, steps: int, data: tuple[Tensor, Tensor]) -> nn.Sequential:
    """A 64-32-10 ReLU network in float64, trained from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(64, 32, bias=biases), nn.ReLU(), nn.Linear(32, 10, bias=biases))
    network.double()
    objective = objective_of(network, data)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    solver = mtl.Equal()
    for _ in range(steps):
        solver.step(objective, optimizer)
    return network


def objective_of(network: nn.Module, data: tuple[Tensor, Tensor]) -> mtl.Objective:
    """The cross-entropy over all data as the one source."""
    pixels, labels = data
    return mtl.Objective(
        lambda: [nn.functional.cross_entropy(network(pixels), labels)], shared=network.parameters()
    )


def rescale(network: nn.Sequential, factor: float) -> nn.Sequential:
    """A copy with the first layer times ``factor``, the second weights divided by it: the same function."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied[0].parameters():
            parameter.mul_(factor)
        copied[2].get_parameter("weight").div_(factor)
    return copied


def sharpness(
    network: nn.Module, ascent: Callable[[mtl.Solver], mtl.Solver], data: tuple[Tensor, Tensor]
) -> float:
    """L(theta + eps) - L(theta) as the wrapper's own step sees it; the network stays as it is."""
    probe = Probe()
    report = ascent(probe).step(objective_of(network, data), torch.optim.SGD(network.parameters(), lr=0.0))
    return probe.mean_loss - float(report.losses.mean())


def measure(biases: bool, seeds: int, steps: int, factors: Sequence[float], console: Console) -> Measurement:
    """Train one network a seed, rescale it by each factor, and ask every method for its sharpness."""
    data = digits()
    found = {method: np.empty((seeds, len(factors))) for method in ASCENTS}
    for seed in range(seeds):
        with console.status(f"network {seed + 1} of {seeds}, {'with' if biases else 'without'} biases"):
            network = trained_network(seed, biases, steps, data)
            for column, factor in enumerate(factors):
                rescaled = rescale(network, factor)
                for method, ascent in ASCENTS.items():
                    found[method][seed, column] = sharpness(rescaled, ascent, data)
    return Measurement(biases, tuple(factors), found)


def tables(measured: Measurement) -> list[Table]:
    """Sharpness and its ratio to factor 1, means over the seeds: a row a method, a column a factor."""
    columns = tuple(Column(f"a = {factor:g}") for factor in measured.factors)

    def table(what: str, values: Callable[[str], Array], form: str) -> Table:
        rows = [
            Row(
                name,
                tuple(Cell(mean, text=format(mean, form)) for mean in values(name).mean(axis=0).tolist()),
            )
            for name in ASCENTS
        ]
        return Table(f"{what}, {measured.title}", columns, tuple(rows))

    return [
        table("Sharpness", lambda name: measured.sharpness[name], ".2g"),
        table("Sharpness over that at a = 1", measured.ratios, ".4g"),
    ]


def verdicts(measured: Measurement) -> list[str]:
    """One line a method, from the numbers measured."""
    lines = [f"{measured.title}:"]
    for method in ASCENTS:
        change, ratios = measured.change(method), measured.ratios(method)
        found = f"changes, {ratios.min():.3g} to {ratios.max():.3g} times that at a = 1"
        if change <= FLAT:
            found = f"constant, largest relative change {change:.0e}"
        lines.append(f"- {method}: {found}")
    return lines


def comment(measurements: Sequence[Measurement]) -> str:
    """How the result compares with the paper's claim that SAGE alone is constant."""
    if max(measured.change("ASAM") for measured in measurements) > FLAT:
        return "As in the paper's Figure 4, the sharpness of ASAM depends on the factor."
    return (
        "The paper's Figure 4 shows ASAM changing with the factor. With T = |theta| it does not, by "
        "construction: weights times a have gradients divided by a, so T g stays, and the displacement, in "
        "proportion to T^2 g, is multiplied by a as the weights are. An offset in T breaks this. "
        "SAGE needs the weights' norm in its displacement for that, and moves biases by a fixed length."
    )


def draw(measurements: Sequence[Measurement]) -> Figure:
    """Ratio to factor 1 over the factor, mean and range of the seeds, a panel a kind of network."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = figure.subplots(1, len(measurements), sharey=True, squeeze=False)[0]
    for ax, measured in zip(panels, measurements, strict=True):
        ax.axhline(1.0, color="#cccccc", linewidth=5.0, zorder=1, label="the same function for every a")
        for number, method in enumerate(ASCENTS):
            ratios, style = measured.ratios(method), look(number)
            if method == "ASAM":  # hollow and large, so that a line on top of it leaves it visible
                style |= {"markerfacecolor": "white", "markersize": 7.0}
            ax.plot(measured.factors, ratios.mean(axis=0), label=plain(method), **style)
            low, high = ratios.min(axis=0), ratios.max(axis=0)
            ax.fill_between(measured.factors, low, high, color=style["color"], alpha=0.15, linewidth=0)
        ax.set(xscale="log", yscale="log", title=measured.title, xlabel="factor $a$ of the first layer")
    panels[0].set_ylabel("sharpness / sharpness at $a = 1$")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="trained networks of each kind (default: 3)")
    add("--steps", type=int, default=300, help="training steps (default: 300)")
    add(
        "--factors",
        type=float,
        nargs="+",
        default=FACTORS,
        metavar="A",
        help="factors besides 1 (default: 0.01 to 100)",
    )
    add(
        "--out", type=Path, default=Path("runs/scale_invariance"), help="output folder (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if options.seeds < 1 or options.steps < 0 or min(options.factors) <= 0:
        parser.error("--seeds and --factors must be positive, --steps must not be negative")
    options.factors = sorted({*options.factors, 1.0})
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; the exit status."""
    console = Console()
    options = arguments(argv)
    measurements = [
        measure(biases, options.seeds, options.steps, options.factors, console) for biases in (False, True)
    ]
    results = [table for measured in measurements for table in tables(measured)]
    for table in results:
        console.print(to_rich(table))
    text = "\n\n".join([*("\n".join(verdicts(measured)) for measured in measurements), comment(measurements)])
    console.print(text, markup=False, highlight=False)
    out: Path = options.out
    atomic_write(out / "results.csv", to_csv(results))
    atomic_write(out / "results.md", "\n".join([*map(to_markdown, results), text, ""]))
    with styled():
        written = save(draw(measurements), out / "sharpness")
    console.print("written:", *map(str, [out / "results.csv", out / "results.md", *written]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
