"""Crossing what a sweep lists, ids, labels, baselines, and folders that belong to one config."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import register
from mtlsuite.experiments.config_file import ConfigFile, read
from mtlsuite.experiments.out_folder import check_folder
from mtlsuite.experiments.sweep import Run, expand
from mtlsuite.experiments.yaml_file import dump


@register("dataset", "sweep_scenes")
class SweepScenes:
    """A data set whose class tells its domains and tasks."""

    domains = ("0", "15", "30")
    tasks = {"segmentation": 3, "depth": 1, "normals": 3}  # noqa: RUF012

    def __init__(self, size: int = 8) -> None:
        raise AssertionError(f"a sweep must not load data of size {size}")


BASE: dict[str, Any] = {"data": "sweep_scenes", "model": "mlp", "sources": "tasks", "train": {"steps": 5}}


def file(folder: Path, sweep: object = None, settings: tuple[str, ...] = (), **changes: Any) -> ConfigFile:
    values = {**BASE, **changes, **({} if sweep is None else {"sweep": sweep})}
    path = folder / "demo.yaml"
    path.write_text(dump(values), encoding="utf-8")
    return read(path, settings)


def runs(folder: Path, sweep: object = None, **changes: Any) -> tuple[Run, ...]:
    [experiment] = expand(file(folder, sweep, **changes))
    return experiment.runs


def refused(folder: Path, sweep: object, **changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        runs(folder, sweep, **changes)
    return caught.value.message


def test_no_sweep_is_one_run(tmp_path: Path) -> None:
    [run] = runs(tmp_path, seed=3, solver={"base": "nash_mtl", "wrap": ["sage", "sam"]})
    assert run.label == "sage(sam(nash_mtl))" == run.config.label
    assert run.id.startswith("sage-sam-nash-mtl_seed-3_")
    assert not run.baseline


def test_every_combination_once_in_a_stable_order(tmp_path: Path) -> None:
    sweep = {
        "optimizer.lr": [1e-3, 1e-4],
        "seed": [0, 1],
        "held_out": [0, ["15", "30"]],
        "solver": {"ERM": "equal", "SAGE": {"base": "equal", "wrap": ["sage"]}},
    }
    found = runs(tmp_path, sweep)
    points = [
        (len(r.config.solver.wrap), r.config.held_out, r.config.seed, r.config.optimizer["lr"]) for r in found
    ]
    assert points == list(itertools.product([0, 1], [("0",), ("15", "30")], [0, 1], [1e-3, 1e-4]))
    assert len({run.id for run in found}) == 16
    assert found == runs(tmp_path, sweep)
    assert found[1].label == "ERM lr=0.0001"
    assert found[-1].id.startswith("SAGE-lr=0.0001_held-15+30_seed-1_")


def test_swept_seed_is_also_the_solvers(tmp_path: Path) -> None:
    assert [run.config.solver.seed for run in runs(tmp_path, {"seed": [4, 5]})] == [4, 5]
    fixed = runs(tmp_path, {"seed": [4, 5]}, solver={"base": "equal", "seed": 1})
    assert [run.config.solver.seed for run in fixed] == [1, 1]


def test_whole_specs_and_parts_of_lists_can_be_swept(tmp_path: Path) -> None:
    found = runs(tmp_path, {"model": ["mlp", {"name": "mlp", "width": 8}]})
    assert [run.config.model["width"] for run in found] == [64, 8]
    assert found[0].label == "equal model=mlp"
    swept = {"solver.wrap.0.rho": [0.1, 0.2], "scheduler.name": ["ExponentialLR"], "scheduler.gamma": [0.5]}
    found = runs(tmp_path, swept, solver={"base": "equal", "wrap": ["sam"]})
    assert [run.config.solver.wrap[0]["rho"] for run in found] == [0.1, 0.2]
    assert found[0].config.scheduler == {"name": "ExponentialLR", "interval": "step", "gamma": 0.5}
    assert found[1].label == "sam(equal) rho=0.2 name=ExponentialLR gamma=0.5"


def test_labels_of_a_list_of_solvers(tmp_path: Path) -> None:
    def sage(**options: Any) -> dict[str, Any]:
        return {"base": "nash_mtl", "wrap": [{"name": "sage", **options}]}

    found = runs(tmp_path, {"solver": ["equal", sage(rho=0.1), sage(rho=0.2), sage(rho=0.2, scale="none")]})
    assert [run.label for run in found] == [
        "equal",
        "sage(nash_mtl) rho=0.1 scale=weight_norm",
        "sage(nash_mtl) rho=0.2 scale=weight_norm",
        "sage(nash_mtl) rho=0.2 scale=none",
    ]


def test_label_of_the_file(tmp_path: Path) -> None:
    assert runs(tmp_path, {"seed": [0, 1]}, label="ours")[1].label == "ours"
    assert runs(tmp_path, {"solver": {"A": "equal"}}, label="ours")[0].label == "A"


def digest(run: Run) -> str:
    return run.id.rpartition("_")[2]


def test_id_depends_on_what_changes_results_and_on_nothing_else(tmp_path: Path) -> None:
    [base] = runs(tmp_path)
    cosmetic = {"label": "x", "name": "y", "device": "cpu", "threads": 1, "tensorboard": True}
    for key, value in cosmetic.items():
        assert digest(runs(tmp_path, **{key: value})[0]) == digest(base), key
    same = {"solver": {"base": {"name": "equal"}}, "model": {"name": "mlp", "width": 64}, "optimizer": "Adam"}
    for key in ("solver", "model"):
        assert digest(runs(tmp_path, **{key: same[key]})[0]) == digest(base), "written out or not"
    assert digest(runs(tmp_path, evaluation={"every": 5})[0]) == digest(base)
    decisive = {
        "seed": 1,
        "model": {"name": "mlp", "width": 65},
        "tasks": ["depth"],
        "train": {"steps": 6},
        "solver": {"base": "equal", "on_nonfinite": "skip"},
        "optimizer": {"lr": 1e-2},
    }
    ids = [digest(runs(tmp_path, **{key: value})[0]) for key, value in decisive.items()]
    assert len({digest(base), *ids}) == len(decisive) + 1


def test_ids_are_folder_names(tmp_path: Path) -> None:
    [run] = runs(tmp_path, {"solver": {"../a/b c: <ü>|*?\\" + "x" * 300: "equal"}})
    assert len(run.id) < 150
    assert Path(run.id).name == run.id
    assert not set(run.id) & set(' /\\:*?"<>|')
    assert run.id.isascii()


# --- single task ----------------------------------------------------------------------------------------


def test_one_baseline_a_task_and_seed_for_all_solvers(tmp_path: Path) -> None:
    sweep = {"solver": ["equal", "famo"], "seed": [0, 1], "solver.on_nonfinite": ["raise", "skip"]}
    found = runs(tmp_path, sweep, single_task=True, tasks=["depth", "normals"])
    baselines = [run for run in found if run.baseline]
    assert len(found) - len(baselines) == 8
    for_raise = [run for run in baselines if run.config.solver.on_nonfinite == "raise"]
    assert [(run.label, run.config.tasks, run.config.seed) for run in for_raise] == [
        ("single-task depth", ("depth",), 0),
        ("single-task normals", ("normals",), 0),
        ("single-task depth", ("depth",), 1),
        ("single-task normals", ("normals",), 1),
    ]
    assert all(run.config.solver.base["name"] == "equal" and not run.config.solver.wrap for run in baselines)
    assert not any(run.config.single_task for run in found)


def test_baselines_without_listed_tasks_and_with_other_swept_keys(tmp_path: Path) -> None:
    found = runs(tmp_path, {"train.steps": [5, 6]}, single_task=True)
    labels = [run.label for run in found if run.baseline]
    assert labels == [
        f"single-task {t} steps={n}" for n in (5, 6) for t in ("segmentation", "depth", "normals")
    ]


def test_no_baseline_unless_asked_for(tmp_path: Path) -> None:
    assert not any(run.baseline for run in runs(tmp_path, {"seed": [0, 1]}))


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweep", "key", "part"),
    [
        ({}, "sweep", "found {}; allowed: a mapping"),
        ([1], "sweep", "found [1]; allowed: a mapping"),
        ({"seed": []}, "sweep.seed", "found []; allowed: a list with at least one value"),
        ({"seed": 3}, "sweep.seed", "found 3"),
        ({"solver": {}}, "sweep.solver", "or a mapping of labels"),
        ({"optimizer": {"lr": [1]}}, "sweep.optimizer", "'optimizer.lr: [...]'"),
        ({"sede": [1]}, "sweep.sede", "did you mean 'seed'"),
        ({"label": ["a"]}, "sweep.label", "unknown key 'label'"),
        ({"optimizer.lrr": [1]}, "sweep.optimizer.lrr.0", "did you mean 'lr'"),
        ({"optimizer.lr": [1, "big"]}, "sweep.optimizer.lr.1", "found 'big'; allowed: a number"),
        ({"seed": [0, -1]}, "sweep.seed.1", "found -1"),
        ({"held_out": ["0", "16"]}, "sweep.held_out.1.0", "unknown domain '16'"),
        ({"solver": {"A": "equal", "B": {"base": "famoo"}}}, "sweep.solver.B.base.name", "'famo'"),
        ({"solver": ["equal", {"wrap": [{"name": "sam", "rho": -1}]}]}, "sweep.solver.1.wrap.0.rho", "-1"),
        ({"train.steps.x": [1]}, "sweep.train.steps.x.0", "train.steps is 5, which has no part 'x'"),
        ({"train.steps": [5, 3]}, "evaluation.every", "at most the 3 steps"),
        ({"seed": [0, 1, 0]}, "sweep.seed.2", "the same run as sweep.seed.0, both have the id 'equal"),
    ],
)  # fmt: skip
def test_wrong_sweeps(tmp_path: Path, sweep: object, key: str, part: str) -> None:
    changes = (
        {"solver": {"base": {"name": "equal"}, "wrap": []}} if "wrap.0" in key and "1" not in key else {}
    )
    message = refused(tmp_path, sweep, evaluation={"every": 4}, **changes)
    where, _, rest = message.partition(": ")
    assert where.rpartition(":")[0] == str(tmp_path / "demo.yaml")
    assert rest.startswith(f"{key}: ")
    assert part in rest
    assert "\n" not in message


def test_an_empty_sweep_key(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(dump(BASE) + "sweep:\n")
    with pytest.raises(UsageError, match=r"demo\.yaml:6: sweep: found null"):
        expand(read(path))


def test_lines_of_swept_values(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(dump(BASE) + "sweep:\n  optimizer.lr:\n    - 1e-3\n    - big\n")
    with pytest.raises(UsageError, match=r"demo\.yaml:9: sweep\.optimizer\.lr\.1: found 'big'"):
        expand(read(path))


# --- folders --------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder of results in which a run has begun."""
    (tmp_path / "out" / "runs" / "some").mkdir(parents=True)
    return tmp_path / "out"


def test_a_folder_without_results_takes_any_config(tmp_path: Path) -> None:
    check_folder(tmp_path / "deep" / "out", file(tmp_path))
    check_folder(tmp_path / "deep" / "out", file(tmp_path, seed=3))
    assert read(tmp_path / "deep" / "out" / "config.yaml").document.data["seed"] == 3


def test_a_folder_takes_one_config(tmp_path: Path, begun: Path) -> None:
    out = begun
    check_folder(out, file(tmp_path, {"seed": [0]}))
    written = read(out / "config.yaml")
    assert expand(written)[0].runs == expand(file(tmp_path, {"seed": [0]}))[0].runs
    assert written.name == "demo"
    before = (out / "config.yaml").read_text()
    with pytest.raises(UsageError) as caught:
        check_folder(
            out, file(tmp_path, {"seed": [0]}, train={"steps": 6}, model={"name": "mlp", "width": 8})
        )
    lines = caught.value.message.splitlines()
    assert "results of another config" in lines[0]
    assert "  model.width: 64 there, 8 wanted" in lines
    assert "  train.steps: 5 there, 6 wanted" in lines
    assert (out / "config.yaml").read_text() == before
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "runs"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"sweep": {"seed": [0]}}, {"sweep": {"seed": [0, 1]}}),
        ({"sweep": {"seed": [0]}}, {"sweep": {"seed": [1, 0]}}),
        ({"seed": 1}, {"sweep": {"seed": [0, 1]}}),
        ({"sweep": {"solver": ["equal"]}}, {"sweep": {"solver": ["famo", "equal"], "seed": [0, 1]}}),
        ({"sweep": {"model.name": ["mlp"]}}, {"sweep": {"model.name": ["convnet", "mlp"]}}),
        ({"sweep": {"train.steps": [5]}}, {"sweep": {"train.steps": [7, 5]}}),
        ({}, {"threads": 1, "device": "cpu", "tensorboard": True, "single_task": True, "name": "other"}),
        ({}, {"solver": {"base": "equal", "wrap": []}, "graph": "auto"}),
    ],
)
def test_a_folder_takes_a_sweep_that_grew(tmp_path: Path, begun: Path, before: Any, after: Any) -> None:
    check_folder(begun, file(tmp_path, **before))
    wanted = file(tmp_path, **after)
    check_folder(begun, wanted)
    assert expand(read(begun / "config.yaml")) == expand(wanted)


def test_a_folder_takes_more_experiments_but_not_others(tmp_path: Path, begun: Path) -> None:
    def several(*names: str) -> ConfigFile:
        path = tmp_path / "several.yaml"
        path.write_text(dump({"experiments": dict.fromkeys(names, BASE)}))
        return read(path)

    check_folder(begun, several("a"))
    check_folder(begun, several("a", "b"))
    with pytest.raises(UsageError, match="experiments: a, b there, c wanted"):
        check_folder(begun, several("c"))
    with pytest.raises(UsageError, match="experiments: a, b there, one without a name wanted"):
        check_folder(begun, file(tmp_path))


def test_settings_are_part_of_what_a_folder_holds(tmp_path: Path, begun: Path) -> None:
    check_folder(begun, file(tmp_path, settings=("train.steps=3",)))
    with pytest.raises(UsageError, match=r"train\.steps: 3 there, 5 wanted"):
        check_folder(begun, file(tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        for write in (True, False):
            with pytest.raises(UsageError, match=r"cannot write results to .*taken is not a folder"):
                check_folder(out, file(tmp_path), write=write)
    assert (tmp_path / "taken").read_text() == "a file"


def test_looking_at_a_folder_writes_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "out", file(tmp_path), write=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_config_is_broken(tmp_path: Path, begun: Path) -> None:
    (begun / "config.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match=r"out/config\.yaml:2: not valid YAML"):
        check_folder(begun, file(tmp_path))
