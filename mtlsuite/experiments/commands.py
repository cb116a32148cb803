"""The commands ``mtlsuite status | table | export``, on results that are there already."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..core.errors import UsageError
from .domainbed_files import export, search_tables, sweep_tables
from .report import report_console
from .selection_tables import print_selection, write_selection
from .status import exit_code, status_table, statuses


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        argv: what follows ``mtlsuite``, beginning with the name of the command.

    Raises:
        SystemExit: from argparse, on ``--help`` and on wrong options.
        UsageError: something in the call or its files is wrong.
    """
    arguments = parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def parser() -> argparse.ArgumentParser:
    """The options of all commands; ``run`` of what it parses is the function to call with it."""
    top = argparse.ArgumentParser("mtlsuite", description="Look at results.", allow_abbrev=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    status = _command(commands, "status", "which runs are done, running, failed, interrupted or missing")
    status.set_defaults(run=_status)
    status.add_argument("folder", type=Path, metavar="DIR", help="a folder of results")
    table = _command(commands, "table", "model selection: tables of a random hyperparameter search")
    table.set_defaults(run=_table)
    table.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="a folder of results of mtlsuite")
    table.add_argument("--from-domainbed", type=Path, metavar="DIR", help="a sweep of DomainBed instead")
    table.add_argument(
        "--out", type=Path, metavar="DIR", help="also write table.md, table.csv and table.tex there"
    )
    exported = _command(commands, "export", "write results in the form of another framework")
    kinds = exported.add_subparsers(required=True, metavar="FORM")
    domainbed = _command(kinds, "domainbed", "jobs for DomainBed's collect_results")
    domainbed.set_defaults(run=_export)
    domainbed.add_argument("folder", type=Path, metavar="DIR", help="a folder of results of mtlsuite")
    domainbed.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    domainbed.add_argument("--dataset", metavar="NAME", help="DomainBed's name of the data set")
    return top


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    return added


def _status(arguments: argparse.Namespace) -> int:
    found = statuses(arguments.folder)
    _console().print(status_table(found, arguments.folder))
    return exit_code(found)


def _table(arguments: argparse.Namespace) -> int:
    if (arguments.folder is None) == (arguments.from_domainbed is None):
        raise UsageError("table: allowed: exactly one of DIR and --from-domainbed DIR")
    console = report_console()
    source: Path = arguments.folder or arguments.from_domainbed
    unfinished: list[str] = []
    if arguments.folder is not None:
        tables = search_tables(source)
    else:
        tables, unfinished = sweep_tables(source)
    if not tables:
        raise UsageError(
            f"{source}: its runs allow no selection: no accuracies on the domains that they need"
        )
    print_selection(tables, console)
    if unfinished:
        console.print(Text(f"{len(unfinished)} jobs not done and left out: {', '.join(unfinished)}."))
    if arguments.out is not None:
        write_selection(tables, arguments.out / "table", source.resolve().name)
        console.print(Text(f"Tables: {arguments.out}"))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    found = export(arguments.folder, arguments.out, arguments.dataset)
    _console().print(f"{len(found)} jobs in {arguments.out}")
    return 0


def _console(width: int = 160) -> Console:
    """Of that width where the output is a file or a pipe, so that tables keep their columns there."""
    console = Console(highlight=False, markup=False, emoji=False)
    return (
        console if console.is_terminal else Console(width=width, highlight=False, markup=False, emoji=False)
    )
