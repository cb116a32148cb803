"""The command line: ``mtlsuite``, ``python -m mtlsuite`` and ``python run.py``, each with a config file.

Exit codes: 0 done, 1 a run failed, 2 something in the call or its files is wrong, 130 interrupted.

Each process that ``torchrun -m mtlsuite CONFIG.yaml`` starts comes here, too; together they train every run.
"""

from __future__ import annotations

import argparse
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
    from .experiments.config_file import ConfigFile
    from .experiments.launch_config import Launcher
    from .experiments.sweep import Experiment

LAUNCHERS = ("local", "processes", "submitit")
PROFILED = 5  # steps
RESULT_COMMANDS = ("status", "table", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments; default: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not _under_torchrun():
        return _command(argv)
    from .experiments.distributed import as_rank

    try:
        return as_rank(lambda: _command(argv))
    except UsageError as error:
        return _told(error)


def _under_torchrun() -> bool:
    """Whether torchrun, or something that sets the same environment, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("WORLD_SIZE", "1") != "1"


def _command(argv: list[str]) -> int:
    parser = _parser()
    try:
        if _under_torchrun() and argv and argv[0] in ("data", *RESULT_COMMANDS):
            raise UsageError(f"the command {argv[0]!r} runs without torchrun, which trains a CONFIG.yaml")
        if argv[:1] == ["data"]:
            from .data.commands import main as data_command

            return data_command(argv[1:])
        if argv and argv[0] in RESULT_COMMANDS:
            from .experiments.commands import main as result_command

            return result_command(argv)
        arguments = parser.parse_args(argv)
        if arguments.config is None and arguments.settings and "=" not in arguments.settings[-1]:
            arguments.config = arguments.settings.pop()  # `--set a=1 CONFIG.yaml`
        if arguments.list or arguments.explain is not None:
            _show_registered(arguments.explain)
        elif arguments.config is None:
            parser.error("which config file? for example: mtlsuite configs/quickstart.yaml")
        else:
            _run(arguments)
    except SystemExit as exit_:  # argparse: --help, or a wrong option
        return int(exit_.code or 0)
    except KeyboardInterrupt:
        _tell("interrupted; the same command with --resume goes on")
        return 130
    except UsageError as error:
        return _told(error)
    except Exception as error:
        if _under_torchrun() and not _is_of_all_ranks(error):
            raise
        if os.environ.get("MTLSUITE_DEBUG") == "1":
            traceback.print_exc()
        _tell(f"error: {str(error) or type(error).__name__}")
        return 1
    return 0


def _told(error: UsageError) -> int:
    _tell(f"error: {error.message}")
    return 2


def _tell(message: str) -> None:
    """Once, where several ranks have the same to say."""
    if not _under_torchrun() or os.environ.get("RANK", "0") == "0":
        print(f"mtlsuite: {message}", file=sys.stderr, flush=True)


def _is_of_all_ranks(error: Exception) -> bool:
    from .experiments.runner import RunFailedError

    return isinstance(error, RunFailedError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mtlsuite",
        description="Train what a config file describes.",
        epilog="Commands: data (check and prepare data sets), status, table, export (look at results); "
        "mtlsuite COMMAND --help tells more.",
        allow_abbrev=False,
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
        "--jobs", type=_count, metavar="N", help="runs at a time, each a process of its own (1)"
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="where runs are trained: here, in --jobs processes, or as a Slurm array through submitit",
    )
    parser.add_argument("--resume", action="store_true", help="go on with interrupted and failed runs")
    parser.add_argument(
        "--profile",
        nargs="?",
        type=_count,
        const=PROFILED,
        default=0,
        metavar="N",
        help=f"profile N steps of each run ({PROFILED}) into its folder; after CONFIG.yaml",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, list the runs, train nothing"
    )
    parser.add_argument(
        "--list", action="store_true", help="list solvers, wrappers, data sets, models, metrics"
    )
    parser.add_argument(
        "--explain", metavar="NAME", help="explain one of them: source, formula, cost and options"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number from 1 up")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    if not _under_torchrun():
        from .experiments.yaml_file import load

        load(arguments.config)  # a broken file is told at once: the imports below take seconds

    from .experiments.distributed import everywhere, on_first
    from .experiments.out_folder import check_folder

    file, experiments, launcher = everywhere(lambda: _read(arguments))
    out = arguments.out or Path("runs") / file.name
    on_first(lambda: check_folder(out, file, write=not arguments.dry_run))
    from .experiments.runner import check_runs, run_all

    if arguments.dry_run:
        check_runs(experiments, out)
        _console().print(_run_table(experiments, out))
    else:
        run_all(experiments, out, arguments.resume, launcher, arguments.profile)


def _read(arguments: argparse.Namespace) -> tuple[ConfigFile, list[Experiment], Launcher]:
    from .experiments.config_file import read
    from .experiments.launch_config import Local
    from .experiments.sweep import expand

    file = read(arguments.config, arguments.settings)
    experiments = expand(file)
    launcher = _launcher(file.launcher(), arguments)
    if _under_torchrun() and not isinstance(launcher, Local):
        raise UsageError(
            f"found the launcher {launcher.name!r} under torchrun, which trains one run after the other with "
            "all of its processes; allowed: local (--launcher local, and no --jobs)"
        )
    return file, experiments, launcher


def _launcher(of_file: Launcher, arguments: argparse.Namespace) -> Launcher:
    """What the file says, unless the command line says otherwise."""
    from .experiments.launch_config import Local, Processes, parse_launcher

    name, jobs = arguments.launcher, arguments.jobs
    if jobs is not None and name not in (None, "processes"):
        raise UsageError(f"--jobs {jobs}: allowed with --launcher processes, not {name}")
    if jobs is not None:
        return Local() if jobs == 1 and name is None else Processes(jobs=jobs)
    return of_file if name in (None, of_file.name) else parse_launcher(name)


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


def _show_registered(name: str | None) -> None:
    from .experiments.catalogue import explanation, overview

    console = _console() if name is None else _console(width=100)
    for part in overview() if name is None else explanation(name):
        console.print(part)


def _console(width: int = 160) -> Console:
    """Of that width where the output is a file or a pipe, so that tables keep their columns there."""
    console = Console(highlight=False, markup=False, emoji=False)
    return (
        console if console.is_terminal else Console(width=width, highlight=False, markup=False, emoji=False)
    )
