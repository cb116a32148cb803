"""Runs through submitit: all the way with its local executor, and as far as sbatch with a stand-in."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import DIGITS, error_message, results, run, statuses, without_report, write

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.job import TRACEBACK, Job
from mtlsuite.experiments.launch_config import Local, Processes, Submitit, parse_launcher
from mtlsuite.experiments.submitit_launcher import Training, executor, submit
from mtlsuite.experiments.sweep import expand

pytest.importorskip("submitit")

BROKEN = '''\
import os
import signal

import mtlsuite as mtl


class Stumbling(mtl.Solver):
    """Stumbles at the fourth step, unless a file tells it not to."""

    stateful = ("steps",)
    steps = 0

    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
        self.steps += 1
        if self.steps > 3 and not os.path.exists("FILE"):
            self.stumble()
        return mtl.Direction(oracle.mean_gradient())


@mtl.register("solver", "raising")
class Raising(Stumbling):
    def stumble(self) -> None:
        raise RuntimeError("out of [luck]")


@mtl.register("solver", "dying")
class Dying(Stumbling):
    def stumble(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.mark.slow
def test_local_executor_with_runs_that_fail_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_report(monkeypatch)
    mended = tmp_path / "mended"
    (tmp_path / "broken.py").write_text(BROKEN.replace("FILE", str(mended)))
    sweep = {"solver": {"fine": "famo", "raising": "raising", "dying": "dying"}}
    launcher = {"name": "submitit", "cluster": "local", "minutes": 10}
    values = {**DIGITS, "plugins": ["broken.py"], "launcher": launcher, "sweep": sweep}
    config, out = write(tmp_path / "three.yaml", values), tmp_path / "out"
    assert run(config, out) == 1
    found = {status["label"]: status for status in statuses(out).values()}
    assert {label: status["status"] for label, status in found.items()} == {
        "fine": "done",
        "raising": "failed",
        "dying": "failed",
    }
    assert found["raising"]["error"].endswith("RuntimeError: out of [luck]")
    [text] = [path.read_text() for path in out.glob(f"runs/*/{TRACEBACK}")]
    assert "broken.py" in text
    assert re.search(r"dying_.*: its job \d+ died .*submitit/.*\.err", found["dying"]["error"])
    assert capsys.readouterr().err.count("\n") == 2
    mended.touch()
    assert run(config, out) == 2
    assert "add --resume" in error_message(capsys)
    assert run(config, out, "--resume") == 0
    assert {status["status"] for status in statuses(out).values()} == {"done"}
    assert not list(out.glob(f"runs/*/{TRACEBACK}"))
    assert run(config, tmp_path / "here", "--launcher", "local") == 0
    assert results(tmp_path / "here") == results(out), "where a run is trained does not change it"


# --- as far as sbatch -----------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs with the names of Slurm's on the path; sbatch keeps the script that it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = '#!/bin/sh\nfor last; do :; done\ncp "$last" ' + f"{tmp_path}/script\n"
    for name, text in {"srun": "#!/bin/sh\n", "sbatch": script + 'echo "Submitted batch job 12"\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "script"


def jobs(folder: Path) -> list[Job]:
    [experiment] = expand(read(write(folder / "many.yaml", {**DIGITS, "sweep": {"seed": [0, 1, 2]}})))
    return [Job(run, folder / run.id) for run in experiment.runs]


def test_one_array_for_all_runs(slurm: Path, tmp_path: Path) -> None:
    options = Submitit(
        partition="gpu", minutes=90, gpus=2, cpus=3, memory_gb=16, parallel=2, slurm={"account": "lab"}
    )
    handles = submit(executor(options, tmp_path / "logs"), jobs(tmp_path), False)
    assert [handle.job_id for handle in handles] == ["12_0", "12_1", "12_2"]
    lines = slurm.read_text().splitlines()
    for line in ("partition=gpu", "array=0-2%2", "time=90", "gpus-per-node=2", "cpus-per-task=3", "mem=16GB"):
        assert f"#SBATCH --{line}" in lines, line
    assert "#SBATCH --account=lab" in lines
    assert "#SBATCH --job-name=mtlsuite" in lines


def test_defaults_leave_the_partition_to_slurm(slurm: Path, tmp_path: Path) -> None:
    submit(executor(Submitit(), tmp_path / "logs"), jobs(tmp_path), False)
    text = slurm.read_text()
    assert "--partition" not in text
    assert "--mem" not in text


def test_no_slurm_and_no_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no Slurm on this machine .*allowed: 'cluster: local'"):
        executor(Submitit(), tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"pip install 'mtlsuite\[slurm\]'"):
        executor(Submitit(cluster="local"), tmp_path)


def test_a_job_out_of_time_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    [job, *_] = jobs(tmp_path)
    again = Training().checkpoint(job, False)
    assert (type(again.function), again.args) == (Training, (job, True))


# --- the section launcher -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("local", Local()),
        ({"name": "processes", "jobs": 3}, Processes(jobs=3)),
        ({"name": "submitit", "slurm": {"qos": "low"}}, Submitit(slurm={"qos": "low"})),
    ],
)
def test_sections(section: Any, expected: object) -> None:
    assert parse_launcher(section) == expected
    assert parse_launcher("processes") == Processes(jobs=os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("section", "key", "part"),
    [
        ("slurm", "launcher.name", "unknown launcher 'slurm'"),
        ([1], "launcher", "found [1]; allowed: a name"),
        ({"name": "processes", "jobs": 0}, "launcher.jobs", "found 0"),
        ({"name": "submitit", "partion": "gpu"}, "launcher.partion", "did you mean 'partition'"),
        ({"name": "submitit", "minutes": 1.5}, "launcher.minutes", "found 1.5"),
    ],
)
def test_wrong_sections(tmp_path: Path, section: Any, key: str, part: str) -> None:
    file = read(write(tmp_path / "one.yaml", {**DIGITS, "launcher": section}))
    expand(file)  # it is no part of the runs
    with pytest.raises(UsageError) as caught:
        file.launcher()
    assert re.match(rf"{re.escape(str(tmp_path))}/one\.yaml:\d+: {re.escape(key)}: ", caught.value.message)
    assert part in caught.value.message


def test_one_launcher_for_all_experiments(tmp_path: Path) -> None:
    values = {"launcher": "submitit", "experiments": {"a": DIGITS, "b": DIGITS}}
    file = read(write(tmp_path / "two.yaml", values), ["launcher.partition=gpu"])
    assert file.launcher() == Submitit(partition="gpu")
    assert [len(experiment.runs) for experiment in expand(file)] == [1, 1]
    inside = {"experiments": {"a": {**DIGITS, "launcher": "local"}}}
    with pytest.raises(UsageError, match=r"experiments\.a\.launcher: unknown key 'launcher'"):
        read(write(tmp_path / "inside.yaml", inside))
