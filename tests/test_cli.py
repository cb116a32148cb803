"""The command line: exit codes, one clear message for bad input, nothing written where nothing should be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtlsuite import cli
from mtlsuite.core import registry
from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import registered
from mtlsuite.experiments import runner
from mtlsuite.experiments.catalogue import yaml_name
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.docstring import read_docstring
from mtlsuite.experiments.launch_config import LAUNCHERS, Local, Processes, Submitit
from mtlsuite.experiments.options import options_of
from mtlsuite.experiments.sweep import expand

ROOT = Path(__file__).parents[1]
CONFIG = """\
name: demo
data: {name: rotated_digits}
model: {name: mlp, width: 8}
sources: domains
domains: ["0", "15", "30"]
held_out: ["30"]
solver: {base: equal, wrap: [{name: sage, rho: 0.1}]}
train: {steps: 2, batch_size: 4}
sweep:
  seed: [0, 1]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "demo.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command line hands to the runner, which does nothing."""
    found: list[Any] = []
    monkeypatch.setattr(runner, "run_all", lambda *arguments: found.append(arguments))
    return found


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.startswith("mtlsuite: error: ")
    assert captured.err.count("\n") == 1, "one message"
    return captured.err.removeprefix("mtlsuite: error: ").rstrip("\n")


def test_experiments_go_to_the_runner(config: Path, calls: list[Any]) -> None:
    assert cli.main([str(config), "--set", "train.steps=3", "--set", "sweep.seed=[4]"]) == 0
    [(experiments, *others)] = calls
    assert others == [Path("runs/demo"), False, Local(), 0]
    assert [(r.config.seed, r.config.train.steps) for e in experiments for r in e.runs] == [(4, 3)]
    assert read("runs/demo/config.yaml").document.data["sweep"] == {"seed": [4]}


def test_several_settings_at_once_and_the_config_anywhere(config: Path, calls: list[Any]) -> None:
    settings = ["train.steps=3", "sweep.seed=[4]"]
    assert cli.main([str(config), "--set", *settings]) == 0
    assert cli.main(["--set", *settings, str(config)]) == 0
    for experiments, *_ in calls:
        assert [(r.config.seed, r.config.train.steps) for e in experiments for r in e.runs] == [(4, 3)]


def test_out_and_resume(config: Path, calls: list[Any]) -> None:
    assert cli.main([str(config), "--out", "elsewhere", "--resume", "--jobs", "2"]) == 0
    assert calls[0][1:] == (Path("elsewhere"), True, Processes(jobs=2), 0)
    assert Path("elsewhere/config.yaml").exists()


@pytest.mark.parametrize(("options", "steps"), [(["--profile"], 5), (["--profile", "7"], 7)])
def test_profile(config: Path, calls: list[Any], options: list[str], steps: int) -> None:
    assert cli.main([str(config), *options]) == 0
    assert calls[0][4] == steps


@pytest.mark.parametrize(
    ("of_file", "options", "launcher"),
    [
        (None, [], Local()),
        (None, ["--jobs", "1"], Local()),
        (None, ["--launcher", "processes", "--jobs", "1"], Processes(jobs=1)),
        (None, ["--launcher", "processes"], Processes()),
        (None, ["--launcher", "submitit"], Submitit()),
        ("{name: submitit, minutes: 5}", [], Submitit(minutes=5)),
        ("{name: submitit, minutes: 5}", ["--launcher", "submitit"], Submitit(minutes=5)),
        ("submitit", ["--set", "launcher.gpus=1"], Submitit(gpus=1)),
        ("{name: submitit, minutes: 5}", ["--launcher", "local"], Local()),
        ("submitit", ["--jobs", "3"], Processes(jobs=3)),
    ],
)
def test_launchers(
    config: Path, calls: list[Any], of_file: Any, options: list[str], launcher: object
) -> None:
    if of_file:
        config.write_text(CONFIG + f"launcher: {of_file}\n")
    assert cli.main([str(config), *options]) == 0
    assert calls[0][3] == launcher


@pytest.mark.parametrize("name", ["local", "submitit"])
def test_jobs_are_processes(
    config: Path, calls: list[Any], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert cli.main([str(config), "--jobs", "2", "--launcher", name]) == 2
    assert error_of(capsys) == f"--jobs 2: allowed with --launcher processes, not {name}"
    assert cli.main([str(config), "--launcher", "slurm"]) == 2
    assert not calls


def test_launchers_of_the_command_line_are_those_of_the_file() -> None:
    assert tuple(LAUNCHERS) == cli.LAUNCHERS, "told twice, for the parser is to be quick"


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("solver=nash_mlt", "unknown solver 'nash_mlt'; did you mean 'nash_mtl'?"),
        ("solver.wrap.0.name=sgae", "unknown wrapper 'sgae'; did you mean 'sage'?"),
        ("solver.wrap.0.roh=1", "unknown option 'roh'; did you mean 'rho'?"),
        ("data.name=rotated_digit", "unknown dataset 'rotated_digit'; did you mean 'rotated_digits'?"),
        ("solver.wrap.0.rho=-1", "found -1; allowed: greater than or equal to 0"),
        ("solver.wrap.0.rho=big", "found 'big'; allowed: a number"),
        ("train.steps=many", "found 'many'; allowed: an integer"),
        ("tasks=[class, class]", "two sources with the same name"),
        ("sweep={}", "allowed: a mapping"),
        ("sweep.seed=[]", "allowed: a list with at least one value"),
        ("trian.steps=3", "unknown key 'trian'; did you mean 'train'?"),
        ("held_out=[45]", "unknown domain '45'"),
    ],
)
def test_wrong_settings(
    config: Path, calls: list[Any], capsys: pytest.CaptureFixture[str], setting: str, part: str
) -> None:
    assert cli.main([str(config), "--set", setting]) == 2
    message = error_of(capsys)
    assert message.startswith(f"--set {setting.partition('=')[0]}: ")
    assert part in message
    assert not calls
    assert [path.name for path in config.parent.iterdir()] == ["demo.yaml"], "nothing written"


@pytest.mark.parametrize(
    ("before", "after", "line", "part"),
    [
        ("rho: 0.1", "rho: -1", 7, "solver.wrap.0.rho: found -1"),
        ("  seed: [0, 1]", "  seed: [0, one]", 10, "sweep.seed.1: found 'one'"),
        ("sources: domains", "sources: domain", 4, "did you mean 'domains'"),
        ("train: {", "train: [", 8, "not valid YAML"),
        ("name: demo", "nme: demo", 1, "nme: unknown key 'nme'; did you mean 'name'?"),
    ],
)
def test_wrong_files(
    config: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, line: int, part: str
) -> None:
    config.write_text(CONFIG.replace(before, after))
    assert cli.main([str(config)]) == 2
    message = error_of(capsys)
    assert message.startswith(f"{config}:{line}: ")
    assert part in message


def test_missing_file_and_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["none.yaml"]) == 2
    assert "none.yaml: cannot read the file: No such file" in error_of(capsys)
    assert cli.main([]) == 2
    assert "which config file?" in capsys.readouterr().err
    assert cli.main(["a.yaml", "--sett", "x=1", "--unknown"]) == 2
    assert cli.main(["--help"]) == 0


def test_folder_of_another_config(config: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(config), "--set", "model.width=4"]) == 0
    Path("runs/demo/runs/begun").mkdir(parents=True)
    assert cli.main([str(config)]) == 2
    captured = capsys.readouterr().err
    assert "runs/demo holds the results of another config" in captured
    assert "model.width: 4 there, 8 wanted" in captured
    assert len(calls) == 1


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_folder_that_is_a_file(config: Path, capsys: pytest.CaptureFixture[str], extra: list[str]) -> None:
    Path("taken").write_text("x")
    assert cli.main([str(config), "--out", "taken/below", *extra]) == 2
    assert "cannot write results to taken/below: taken is not a folder" in error_of(capsys)


def test_dry_run_lists_the_runs_and_writes_nothing(
    config: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    [experiment] = expand(read(config))
    assert cli.main([str(config), "--dry-run"]) == 0
    out = capsys.readouterr().out
    for run in experiment.runs:
        [row] = [line for line in out.splitlines() if run.id in line]
        assert all(part in row for part in ("sage(equal)", " 30 ", "2 steps", "new"))
    assert not calls
    assert not Path("runs").exists()


def test_dry_run_shows_what_is_done(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [experiment] = expand(read(config))
    folder = runner.run_folder(Path("runs/demo"), experiment.runs[1])
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": "done"}))
    assert cli.main([str(config), "--dry-run"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "seed-" in line]
    assert ["done" in row for row in rows] == [False, True]


def test_list_names_everything_registered(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    out = capsys.readouterr().out
    for kind in ("solver", "wrapper", "dataset", "model", "metric"):
        assert registered(kind)
        for name in registered(kind):
            assert f"│ {name} " in out
    assert "rho=0.05" in out
    assert not re.search(r"\binner(,|=| *│)", out), "options that users cannot give"


@pytest.mark.parametrize("kind", ["solver", "wrapper", "dataset", "model", "metric"])
def test_explain_shows_summary_and_options_of_everything(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, cls in registered(kind).items():
        assert cli.main(["--explain", name]) == 0
        out = capsys.readouterr().out
        assert f"{kind} {name} " in out
        words = " ".join(out.split())
        assert read_docstring(cls).summary in words
        for option in options_of(kind, cls):
            assert re.search(rf"^ {yaml_name(option)} +\S", out, re.MULTILINE), (name, option)
        assert max(map(len, out.splitlines())) <= 100, "the width of a page where it is piped"


def test_explain_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--explain", "famo"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023" in out
    assert "z = softmax(xi)" in out
    assert "Cost: 2 forwards" in out
    assert "Known: " in out
    assert "w_lr number > 0 0.025 learning rate of the logits." in out
    assert "UsageError" not in out, "what it raises is for programmers"


def test_explain_shows_every_kind_that_has_the_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(registry._classes["model"], "famo", registered("model")["mlp"])
    assert cli.main(["--explain", "famo"]) == 0
    out = capsys.readouterr().out
    assert out.index("solvers.famo.FAMO") < out.index("models.classifiers.MLP")


def test_explain_of_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--explain", "equilibrium"]) == 2
    message = error_of(capsys)
    assert message.startswith("unknown name 'equilibrium'; did you mean 'gradient_equilibrium'? (allowed: ")
    assert "rotated_digits" in message
    assert cli.main(["--explain"]) == 2, "a name is needed"


def failing(error: BaseException) -> Any:
    def run_all(*_: object) -> None:
        raise error

    return run_all


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("the run x was interrupted"), 2, "mtlsuite: error: the run x was interrupted\n"),
        (RuntimeError("sage_seed-0: out of memory"), 1, "mtlsuite: error: sage_seed-0: out of memory\n"),
        (MemoryError(), 1, "mtlsuite: error: MemoryError\n"),
        (KeyboardInterrupt(), 130, "mtlsuite: interrupted; the same command with --resume goes on\n"),
    ],
)
def test_exit_codes(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    monkeypatch.delenv("MTLSUITE_DEBUG", raising=False)
    monkeypatch.setattr(runner, "run_all", failing(error))
    assert cli.main([str(config)]) == code
    assert capsys.readouterr().err == text


def test_traceback_only_when_asked_for(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTLSUITE_DEBUG", "1")
    monkeypatch.setattr(runner, "run_all", failing(RuntimeError("broken")))
    assert cli.main([str(config)]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("program", [["run.py"], ["-m", "mtlsuite"]])
def test_programs(config: Path, program: list[str]) -> None:
    words = [
        sys.executable,
        *([str(ROOT / program[0])] if len(program) == 1 else program),
        str(config),
        "--set",
        "seed",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=config.parent, env=environment, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "mtlsuite: error: --set seed: allowed: --set dotted.key=value\n"
