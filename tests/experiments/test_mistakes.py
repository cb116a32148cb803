"""What is wrong in a config or a plugin is told in one message, with exit code 2, before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_runs import DIGITS, error_message, results, run, with_own_registry, without_report, write


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_report(monkeypatch)
    with_own_registry(monkeypatch)


# --- plugins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "No such file"),
        ("def (:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("import mtlsuite as mtl\n\n@mtl.register('solver', 'famo')\nclass A(mtl.Solver): ...\n", "taken"),
        ("import mtlsuite as mtl\n\n@mtl.register('solvr', 'a')\nclass A(mtl.Solver): ...\n", "'solver'"),
    ],
)
def test_plugins_that_cannot_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, part: str
) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    (tmp_path / "fine.py").write_text("")
    config = tmp_path / "one.yaml"
    write(config, DIGITS)
    config.write_text("plugins:\n  - fine.py\n  - mine.py\n" + config.read_text())
    assert run(config, tmp_path / "out") == 2
    error = error_message(capsys)
    assert error.startswith(f"{config}:3: plugins.1: ")
    assert "mine.py" in error
    assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_classes_of_one_name_in_two_plugins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(
            "import mtlsuite as mtl\n@mtl.register('wrapper', 'mine')\nclass Mine(mtl.Wrapper): ...\n"
        )
    config = write(tmp_path / "one.yaml", {"plugins": ["a.py", "b.py", "a.py"], **DIGITS})
    assert run(config, tmp_path / "out") == 2
    error = error_message(capsys)
    assert error.startswith(f"{config}:3: plugins.1: ")
    assert "the wrapper name 'mine' is taken" in error


def test_a_project_may_move_with_its_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "movable.py").write_text(
        "import mtlsuite as mtl\n\n\n@mtl.register('solver', 'movable')\n"
        "class Movable(mtl.Solver):\n"
        "    def direction(self, oracle: mtl.Oracle) -> mtl.Direction:\n"
        "        return mtl.Direction(oracle.mean_gradient())\n"
    )
    write(project / "one.yaml", {**DIGITS, "plugins": ["movable.py"], "solver": "movable"})
    assert run(project / "one.yaml", project / "out") == 0
    moved = project.rename(tmp_path / "moved")
    for name in [name for name in sys.modules if "plugin_movable" in name]:  # as in a new process
        monkeypatch.delitem(sys.modules, name)
    with_own_registry(monkeypatch, without="movable")
    assert run(moved / "one.yaml", moved / "out", "--resume") == 0


# --- configs ----------------------------------------------------------------------------------------------

WRONG = {
    "solver": ({"solver": "fmao"}, "solver.base.name", "did you mean 'famo'?"),
    "wrapper": ({"solver": {"wrap": ["sage", "sm"]}}, "solver.wrap.1.name", "did you mean 'sam'?"),
    "option": (
        {"solver": {"wrap": [{"name": "sage", "roh": 1}]}},
        "solver.wrap.0.roh",
        "did you mean 'rho'?",
    ),
    "data set": ({"data": "rotated_digit"}, "data.name", "did you mean 'rotated_digits'?"),
    "model": ({"model": "mlpp"}, "model.name", "did you mean 'mlp'?"),
    "rho: -1": ({"solver": {"wrap": [{"name": "sage", "rho": -1}]}}, "solver.wrap.0.rho", "found -1"),
    "rho: big": ({"solver": {"wrap": [{"name": "sam", "rho": "big"}]}}, "solver.wrap.0.rho", "found 'big'"),
    "n_sources": (
        {"solver": {"base": {"name": "nash_mtl", "n_sources": 5}}},
        "solver.base.n_sources",
        "n_sources is 2 here, found 5",
    ),
    "min_losses": (
        {"solver": {"base": {"name": "famo", "min_losses": [0.0]}}},
        "solver.base",
        "1 entries for 2 sources",
    ),
    "double source": ({"domains": ["0", "15", "0"]}, "domains.2", "two sources with the same name"),
    "held-out domain": ({"held_out": "31"}, "held_out.0", "did you mean '30'?"),
    "nothing left": ({"held_out": ["0", "15", "30"]}, "held_out", "is left to train on"),
    "empty sweep": ({"sweep": {}}, "sweep", "at least one value"),
    "empty axis": ({"sweep": {"seed": []}}, "sweep.seed", "at least one value"),
    "views of scenes": (
        {"data": "scenes", "domains": ["day"], "held_out": [], "sources": "views"},
        "sources",
        "views need the task 'class'",
    ),
    "task": ({"tasks": ["clas"]}, "tasks", "did you mean 'class'?"),
    "optimizer": ({"optimizer": {"name": "Adamm"}}, "optimizer.name", "did you mean 'Adam'?"),
    "no length": ({"train": {"batch_size": 4}}, "train", "exactly one of"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_message_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    change, key, part = WRONG[mistake]
    config = write(tmp_path / "one.yaml", {**DIGITS, **change})
    assert run(config, tmp_path / "out") == 2
    error = error_message(capsys)
    assert error.count("\n") == 1
    assert key in error
    assert part in error
    assert not results(tmp_path / "out")


def test_broken_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "one.yaml"
    config.write_text("name: a\ntrain: {steps: 1\nmodel: mlp\n")
    assert run(config, tmp_path / "out") == 2
    assert error_message(capsys).startswith(f"{config}:3: not valid YAML")
    assert not (tmp_path / "out").exists()
