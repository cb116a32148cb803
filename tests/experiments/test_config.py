"""The door: what a config file may say, and what is said about one that is wrong."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import register
from mtlsuite.experiments.config import Config, validate
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.options import make_optimizer, make_scheduler
from mtlsuite.experiments.sweep import expand
from mtlsuite.experiments.yaml_file import Document, dump, load


@register("dataset", "three_domains")
class ThreeDomains:
    """A data set whose class tells its domains and tasks."""

    domains = ("day", "dusk", "night")
    tasks = {"segmentation": 3, "depth": 1}  # noqa: RUF012

    def __init__(self, folder: str, scale: float = 1.0) -> None:
        raise AssertionError(f"the door must not load data, neither {folder} nor {scale}")


@register("dataset", "two_unknown")
class TwoUnknown:
    """A data set that tells its tasks only once it is made."""


BASE: dict[str, Any] = {
    "data": {"name": "three_domains", "folder": "somewhere"},
    "model": "mlp",
    "sources": "domains",
    "solver": {"base": "equal", "wrap": ["sage"]},
    "train": {"steps": 5},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BASE), **changes}


def wrapped(*wrappers: Any, **rest: Any) -> dict[str, Any]:
    return changed(solver={"base": "equal", "wrap": list(wrappers), **rest})


def scheduled(name: str, **options: Any) -> dict[str, Any]:
    return changed(scheduler={"name": name, **options})


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        validate(values)
    return caught.value.message


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- YAML -----------------------------------------------------------------------------------------------


def test_lines_of_every_key_path(tmp_path: Path) -> None:
    data, lines = load(write(tmp_path, "# top\na: 1\nb:\n  - x\n  - c: 2\n    d: {e: 3}\n"))
    assert data == {"a": 1, "b": ["x", {"c": 2, "d": {"e": 3}}]}
    assert lines[("a",)] == 2
    assert lines[("b", 0)] == 4
    assert lines[("b", 1, "c")] == 5
    assert lines[("b", 1, "d", "e")] == 6


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("5E+2", 500.0), (".5", 0.5), ("-3", -3), ("015", "015"), ("no", "no"),
     ("1_000", "1_000"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("true", True), ("~", None),
     ("", None), ("'1e-3'", "1e-3"), ("-.inf", -math.inf), ("0x10", "0x10")],
)  # fmt: skip
def test_scalars(tmp_path: Path, text: str, value: object) -> None:
    found = load(write(tmp_path, f"key: {text}\n"))[0]["key"]
    assert found == value
    assert type(found) is type(value)


TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")) | st.sampled_from(" \n"), max_size=6
)
LOOKALIKES = st.sampled_from(
    ["1e-3", "015", "no", "null", "~", "", "1:30", "<<", "=", ".5", "0x1", "2020-01-01"]
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | LOOKALIKES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | LOOKALIKES, inner, max_size=3),
    max_leaves=6,
)


@given(data=st.dictionaries(TEXT, PLAIN, max_size=4))
def test_dump_is_read_back_by_us_and_by_pyyaml(tmp_path_factory: Any, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "dump.yaml"
    path.write_text(dump(data), encoding="utf-8")
    assert load(path)[0] == data
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == data


def test_merge_keys_and_anchors(tmp_path: Path) -> None:
    data, lines = load(write(tmp_path, "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\nc: *x\n"))
    assert data["b"] == {"p": 1, "q": 3}
    assert data["c"] == {"p": 1, "q": 2}
    assert lines[("b", "q")] == 4


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a:\n\t- x\n", 2, "not valid YAML"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "a.b: the key stands twice, first in line 2"),
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("- a\n- b\n", 1, "mapping"),
        ("just text\n", 1, "mapping"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("x: 1\na: !!python/object:os.system {}\n", 2, "not allowed"),
        ("x: 1\na: !!binary aGk=\n", 2, "not allowed"),
        ("x: 1\na: !!int many\n", 2, "not of the YAML type"),
        ("x: 1\na: &r [1, *r]\n", 2, "contains itself"),
        ("x: 1\n[1, 2]: y\n", 2, "a key must be text"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path: Path, text: str, line: int, part: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot read the file: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe\xe9\n")
    with pytest.raises(UsageError, match="UTF-8"):
        load(tmp_path / "latin.yaml")


# --- defaults and the plain form ------------------------------------------------------------------------


def test_defaults_are_filled_in_and_short_forms_opened() -> None:
    config = validate(changed())
    assert config.model == {"name": "mlp", "width": 64, "depth": 2}
    assert config.data == {"name": "three_domains", "folder": "somewhere", "scale": 1.0}
    assert config.solver.wrap[0]["rho"] == 0.05
    assert config.optimizer == {"name": "Adam", "lr": 1e-3}
    assert (config.train.unit, config.train.length, config.evaluation.every) == ("steps", 5, 5)
    assert validate(changed(sources="views")).views == validate(changed(sources="views", views={})).views
    assert validate(changed(solver="equal")) == validate(changed(solver={"base": {"name": "equal"}}))
    assert validate(changed(solver={"wrap": ["sam"]})).solver.base["name"] == "equal"
    assert validate(changed(optimizer={"lr": 1})).optimizer == {"name": "Adam", "lr": 1.0}
    assert validate(changed(train={"epochs": 3})).train.unit == "epochs"


def test_the_seed_of_the_run_is_that_of_the_solver_unless_it_has_one() -> None:
    assert validate(changed(seed=7)).solver.seed == 7
    assert validate(changed(seed=7, solver={"base": "equal", "seed": 3})).solver.seed == 3


def test_names_may_be_bare_and_numbers() -> None:
    numbers = changed(data="rotated_digits", held_out=15, domains=[0, 15, 30])
    assert validate(numbers).held_out == ("15",)
    assert validate(numbers).domains == ("0", "15", "30")
    assert validate(changed(held_out="day")).held_out == ("day",)
    assert validate(changed(held_out=None)).held_out == ()


@pytest.mark.parametrize(
    "values",
    [
        changed(),
        changed(sources="views", views={"count": 4}, label="1e-3", seed=3),
        changed(held_out=["day"], tasks=["depth"], sources="domains x tasks", train={"epochs": 2}),
        changed(optimizer={"name": "SGD", "lr": 1, "momentum": 0.9}),
        changed(scheduler={"name": "StepLR", "step_size": 2}),
        changed(solver={"base": {"name": "famo", "max_norm": None}, "wrap": ["sam", "sage"]}),
        wrapped({"name": "sage", "rho": 1}, on_nonfinite="skip", seed=8),
        changed(sources="tasks", single_task=True, threads=2, device="cuda:1", tensorboard=True),
    ],
)  # fmt: skip
def test_resolved_loads_to_an_equal_config(tmp_path: Path, values: dict[str, Any]) -> None:
    config = validate(values)
    path = write(tmp_path, dump(config.resolved()))
    assert validate(load(path)[0]) == config
    assert validate(yaml.safe_load(path.read_text())) == config
    [experiment] = expand(read(path))
    assert experiment.runs[0].config == config.model_copy(
        update={"label": experiment.runs[0].label, "single_task": False}
    )


def test_a_config_cannot_be_changed() -> None:
    config = validate(changed())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert isinstance(config, Config)


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key", "part"),
    [
        (changed(data="three_domain"), "data.name", "did you mean 'three_domains'"),
        (changed(data={"name": "three_domains"}), "data.folder", "required"),
        (changed(data={"name": "three_domains", "folder": 3}), "data.folder", "found 3; allowed: a string"),
        (changed(model="mlpp"), "model.name", "did you mean 'mlp'"),
        (changed(model={"name": "mlp", "width": 0}), "model.width", "found 0; allowed: greater than"),
        (changed(model={"name": "mlp", "widht": 3}), "model.widht", "did you mean 'width'"),
        (changed(model={"name": "mlp", "width": True}), "model.width", "found true; allowed: an integer"),
        (changed(solver="nash_mlt"), "solver.base.name", "did you mean 'nash_mtl'"),
        (wrapped("sgae"), "solver.wrap.0.name", "did you mean 'sage'"),
        (wrapped("sam", {"name": "sage", "rho": -1}), "solver.wrap.1.rho",
         "found -1; allowed: greater than or equal to 0"),
        (wrapped({"name": "sage", "rho": "big"}), "solver.wrap.0.rho",
         "found 'big'; allowed: a number"),
        (wrapped({"name": "sage", "roh": 1.0}), "solver.wrap.0.roh",
         "did you mean 'rho'"),
        (wrapped({"name": "sage", "inner": "equal"}), "solver.wrap.0.inner",
         "unknown option"),
        (changed(solver={"base": "equal", "wrap": "sage"}), "solver.wrap", "allowed: a list"),
        (changed(solver={"base": {"name": "equal", "seed": 1}}), "solver.base.seed", "unknown option"),
        (wrapped(on_nonfinite="rise"), "solver.on_nonfinite", "did you mean 'raise'"),
        (changed(solver=3), "solver", "found 3; allowed: a mapping"),
        (changed(optimizer="Adm"), "optimizer.name", "did you mean 'Adam'"),
        (changed(optimizer={"name": "Adam", "lr": "big"}), "optimizer.lr", "found 'big'; allowed: a number"),
        (changed(optimizer={"name": "Adam", "lr": True}), "optimizer.lr", "found true"),
        (changed(optimizer={"name": "Adam", "lr": -1}), "optimizer.lr", "Invalid learning rate"),
        (changed(optimizer={"name": "Adam", "momentum": 0.9}), "optimizer.momentum", "unknown option"),
        (changed(optimizer={"name": "Adam", "betas": [0.9]}), "optimizer.betas", "found [0.9]"),
        (changed(optimizer={"name": "SGD", "lr": 0.1, "nesterov": True}), "optimizer.nesterov", "momentum"),
        (changed(scheduler="StepLR"), "scheduler.step_size", "required"),
        (scheduled("StepLR", step_size=2.5), "scheduler.step_size", "allowed: an integer"),
        (scheduled("StepLR", step_size=0), "scheduler", "ZeroDivisionError"),
        (scheduled("StepLR", step_size=2, interval="stp"), "scheduler.interval", "'step'"),
        (scheduled("MultiStepLR", milestones=["a"]), "scheduler.milestones.0", "found 'a'"),
        (scheduled("StpLR"), "scheduler.name", "did you mean 'StepLR'"),
        (changed(sources="domian"), "sources", "did you mean 'domains'"),
        (changed(graph="jont"), "graph", "did you mean 'joint'"),
        (changed(train={"steps": "many"}), "train.steps", "found 'many'; allowed: an integer"),
        (changed(train={"steps": 3.5}), "train.steps", "found 3.5; allowed: an integer"),
        (changed(train={"steps": True}), "train.steps", "found true; allowed: an integer"),
        (changed(train={"steps": 0}), "train.steps", "greater than or equal to 1"),
        (changed(train={"steps": 3, "epochs": 2}), "train", "exactly one of 'steps' and 'epochs'"),
        (changed(train={}), "train", "exactly one of 'steps' and 'epochs'"),
        (changed(train={"steps": 3, "batchsize": 2}), "train.batchsize", "did you mean 'batch_size'"),
        (changed(train={"steps": 3, "replacement": 1}), "train.replacement", "allowed: true or false"),
        (changed(evaluation={"every": 6}), "evaluation.every", "at most the 5 steps"),
        (changed(tasks=["depth", "depth"]), "tasks.1", "two sources with the same name"),
        (changed(tasks=["depht"]), "tasks.0", "did you mean 'depth'"),
        (changed(tasks=[]), "tasks", "at least 1 item"),
        (changed(domains=["day", "day"]), "domains.1", "two sources with the same name"),
        (changed(domains=["day", "noon"]), "domains.1", "unknown domain 'noon'"),
        (changed(domains="day"), "domains", "found 'day'; allowed: a list"),
        (changed(held_out=["nigth"]), "held_out.0", "did you mean 'night'"),
        (changed(domains=["day", "dusk"], held_out=["night"]), "held_out.0", "allowed: day, dusk"),
        (changed(held_out=["day", "dusk", "night"]), "held_out", "no domain"),
        (changed(held_out=[True]), "held_out.0", "allowed: a string"),
        (changed(views={"count": 3}), "views", "only with 'sources: views'"),
        (changed(sources="views", views={"ops": 0}), "views.ops", "greater than or equal to 1"),
        (changed(single_task=True), "single_task", "only with 'sources: tasks'"),
        (changed(sources="tasks", tasks=["depth"], single_task=True), "single_task", "at least two"),
        (changed(sources="tasks", data="two_unknown", single_task=True), "single_task", "name them"),
        (changed(seed=-1), "seed", "greater than or equal to 0"),
        (changed(device="tpu"), "device", "found 'tpu'"),
        (changed(modle="mlp"), "modle", "did you mean 'model'"),
        ({key: value for key, value in BASE.items() if key != "train"}, "train", "required"),
    ],
)  # fmt: skip
def test_one_clear_message(values: dict[str, Any], key: str, part: str) -> None:
    message = refused(values)
    assert message.startswith(f"{key}: ")
    assert part in message
    assert "\n" not in message


def test_several_problems_are_listed_one_a_line() -> None:
    message = refused(changed(train={"steps": "many"}, graph="jont"))
    assert [line.partition(":")[0] for line in message.splitlines()] == ["graph", "train.steps"]


def test_optimizer_and_scheduler_are_made_as_described() -> None:
    import torch

    config = validate(
        changed(
            optimizer={"name": "Adam", "lr": 0.1, "betas": [0.5, 0.9]},
            scheduler={"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "step"},
        )
    )
    assert config.scheduler is not None
    optimizer = make_optimizer(config.optimizer, [torch.nn.Parameter(torch.ones(3))])
    scheduler = make_scheduler(config.scheduler, optimizer)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05]
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.5, 0.9)


# --- files and --set ------------------------------------------------------------------------------------

ONE = """\
data: {name: three_domains, folder: x}
model: mlp
sources: domains
solver: equal
train:
  steps: 5
"""
TWO = "name: two\nexperiments:\n" + "".join(
    f"  {name}:\n" + "".join(f"    {line}\n" for line in ONE.splitlines()) for name in ("a", "b")
)


def first(path: Path, *settings: str) -> Config:
    return expand(read(path, settings))[0].runs[0].config


def test_messages_name_the_line_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, ONE.replace("steps: 5", "steps: many"))
    with pytest.raises(UsageError) as caught:
        expand(read(path))
    assert caught.value.message == f"{path}:6: train.steps: found 'many'; allowed: an integer"
    path = write(tmp_path, TWO.replace("model: mlp", "model: mlpp"))
    with pytest.raises(UsageError, match=r"file\.yaml:5: model\.name: unknown model 'mlpp'"):
        expand(read(path))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (ONE + "trian: 3\n", ":7: trian: unknown key 'trian'; did you mean 'train'"),
        (ONE + "sewep: {seed: [0]}\n", ":7: sewep: unknown key 'sewep'; did you mean 'sweep'"),
        (ONE + "name: a/b\n", ":7: name: found 'a/b'"),
        (TWO + "model: mlp\n", "model: unknown key 'model'"),
        ("experiments: {}\n", ":1: experiments: found {}"),
        ("name: x\nexperiments: {a: 3}\n", ":2: experiments.a: found 3; allowed: a mapping"),
        (TWO.replace("  b:", "  b/c:"), "found the name 'b/c'"),
        (TWO.replace("    model: mlp", "    name: a", 1), "the name of this experiment is 'a'"),
    ],
)
def test_outline_of_a_file(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        expand(read(path))
    assert part in caught.value.message


def test_names_of_files_and_experiments(tmp_path: Path) -> None:
    assert read(write(tmp_path, ONE)).name == "file"
    assert [experiment.name for experiment in expand(read(write(tmp_path, TWO)))] == ["a", "b"]
    assert expand(read(write(tmp_path, TWO)))[1].runs[0].config.name == "b"


def test_set_opens_short_forms_and_reads_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, ONE)
    assert first(path, "train.steps=7").train.steps == 7
    assert first(path, "model.width=8").model["width"] == 8
    assert first(path, "solver.seed=4").solver.seed == 4
    assert first(path, "optimizer.name=SGD", "optimizer.lr=1e-2").optimizer == {"name": "SGD", "lr": 0.01}
    assert first(path, "model={name: mlp, depth: 1}").model["depth"] == 1
    wrapped = first(path, "solver.wrap=[sam, sage]", "solver.wrap.1.rho=0.5").solver
    assert [wrapper["rho"] for wrapper in wrapped.wrap] == [0.05, 0.5]
    assert first(path, "model=mlp", "model.width=3").model["width"] == 3
    assert first(path, "label=a=b").label == "a=b"
    assert read(path, ["name=other"]).name == "other"


def test_set_in_one_or_all_experiments(tmp_path: Path) -> None:
    path = write(tmp_path, TWO)
    steps = [e.runs[0].config.train.steps for e in expand(read(path, ["train.steps=7"]))]
    assert steps == [7, 7]
    steps = [e.runs[0].config.train.steps for e in expand(read(path, ["experiments.b.train.steps=7"]))]
    assert steps == [5, 7]


@pytest.mark.parametrize(
    ("setting", "start"),
    [
        ("train.steps=many", "--set train.steps: found 'many'; allowed: an integer"),
        ("trian.steps=3", "--set trian.steps: trian: unknown key 'trian'; did you mean 'train'"),
        ("solver=nash_mlt", "--set solver: solver.base.name: unknown solver 'nash_mlt'"),
        ("train.steps.x=3", "--set train.steps.x: train.steps is 5, which has no part 'x'"),
        ("sweep.seed=[]", "--set sweep.seed: found []"),
        ("experiments.a.seed=3", "--set experiments.a.seed: unknown experiment 'a'"),
        ("seed", "--set seed: allowed: --set dotted.key=value"),
        ("seed=[1", "--set seed: '[1' is not valid YAML"),
        ("seed={a: 1, a: 2}", "--set seed: "),
    ],
)
def test_set_is_named_where_it_is_wrong(tmp_path: Path, setting: str, start: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(read(write(tmp_path, ONE), [setting]))
    assert caught.value.message.startswith(start)


def test_set_in_a_list_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"solver\.wrap is a list of 1, without an entry 3"):
        read(write(tmp_path, ONE), ["solver.wrap=[sam]", "solver.wrap.3.rho=1"])


def test_set_of_a_swept_key_would_do_nothing_and_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ONE + "sweep: {seed: [0, 1]}\n")
    with pytest.raises(UsageError, match=r"--set seed: the key 'seed' is swept; .*sweep\.seed="):
        read(path, ["seed=3"])
    assert [r.config.seed for r in expand(read(path, ["sweep.seed=[3]"]))[0].runs] == [3]
    swept = expand(read(path, ["sweep.optimizer.lr=[1, 2]", "sweep.seed.1=5"]))[0].runs
    assert [(r.config.seed, r.config.optimizer["lr"]) for r in swept] == [(0, 1), (0, 2), (5, 1), (5, 2)]


def test_place_of_a_key_that_is_in_no_file() -> None:
    document = Document("f.yaml", {"a": {}}, {(): 1, ("a",): 4})
    assert document.place(("a", "b")) == "f.yaml:4: a.b"
    assert document.place(()) == "f.yaml:1"
