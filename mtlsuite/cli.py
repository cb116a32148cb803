"""The command line: ``mtlsuite``, ``python -m mtlsuite`` and ``python run.py``, each with a config file.

Exit codes: 0 done, 1 a run failed, 2 something in the call or its files is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from .core.errors import UsageError

if TYPE_CHECKING:
    from .experiments.sweep import Experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments; default: those of the process.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        if arguments.config is None and arguments.settings and "=" not in arguments.settings[-1]:
            arguments.config = arguments.settings.pop()  # `--set a=1 CONFIG.yaml`
        if arguments.list:
            _list_registered()
        elif arguments.config is None:
            parser.error("which config file? for example: mtlsuite configs/quickstart.yaml")
        else:
            _run(arguments)
    except SystemExit as exit_:  # argparse: --help, or a wrong option
        return int(exit_.code or 0)
    except KeyboardInterrupt:
        print("mtlsuite: interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130
    except UsageError as error:
        print(f"mtlsuite: error: {error.message}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("MTLSUITE_DEBUG") == "1":
            traceback.print_exc()
        print(f"mtlsuite: error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mtlsuite", description="Train what a config file describes.", allow_abbrev=False
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="the experiments to run")
    parser.add_argument(
        "--set",
        dest="settings",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the config, e.g. --set train.steps=20 --set solver.wrap.0.rho=0.1 (repeatable)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (runs/<name>)")
    parser.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="runs at a time, each a process of its own (1)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with interrupted and failed runs")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, list the runs, train nothing"
    )
    parser.add_argument(
        "--list", action="store_true", help="list solvers, wrappers, data sets, models, metrics"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number from 1 up")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    from .experiments.yaml_file import load

    load(arguments.config)  # a broken file is told at once: the imports below take seconds

    from .experiments.config_file import read
    from .experiments.sweep import check_folder, expand

    file = read(arguments.config, arguments.settings)
    experiments = expand(file)
    out = arguments.out or Path("runs") / file.name
    check_folder(out, file, write=not arguments.dry_run)
    from .experiments.runner import check_runs, run_all

    if arguments.dry_run:
        check_runs(experiments, out)
        _console().print(_run_table(experiments, out))
    else:
        run_all(experiments, out, arguments.resume, arguments.jobs)


def _run_table(experiments: Sequence[Experiment], out: Path) -> Table:
    from .experiments.results import read_status
    from .experiments.runner import experiment_folder, run_folder

    columns = ("experiment", "run", "label", "held out", "seed", "length", "status")
    count = sum(len(experiment.runs) for experiment in experiments)
    table = Table(*(Column(name, overflow="fold") for name in columns), title=f"{count} runs in {out}")
    for experiment in experiments:
        folder = experiment_folder(out, experiment)
        for run in experiment.runs:
            train = run.config.train
            held_out = ", ".join(run.config.held_out)
            status = read_status(run_folder(folder, run))["status"]
            table.add_row(
                experiment.name,
                run.id,
                run.label,
                held_out,
                str(run.config.seed),
                f"{train.length} {train.unit}",
                status,
            )
        table.add_section()
    return table


def _list_registered() -> None:
    from .core.registry import KINDS, registered
    from .experiments import config  # noqa: F401  (registers ours)

    console = _console()
    for kind in KINDS:
        table = Table("name", "what", "options", title=f"{kind}s", title_justify="left", expand=True)
        for name, cls in registered(kind).items():
            summary = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
            table.add_row(name, summary, _options(kind, cls))
        console.print(table)


def _options(kind: str, cls: type) -> str:
    from .experiments.options import REQUIRED, options_of

    options = options_of(kind, cls).items()
    return ", ".join(name if default is REQUIRED else f"{name}={default!r}" for name, default in options)


def _console() -> Console:
    """Tables keep their columns where the output is a file or a pipe."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(width=160, highlight=False, markup=False)
