"""Random hyperparameters against the published rule, computed here once more, and sweeps over them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtlsuite.core.errors import UsageError
from mtlsuite.core.registry import register
from mtlsuite.experiments.config_file import read
from mtlsuite.experiments.hparams import Distribution, domainbed
from mtlsuite.experiments.sweep import Run, expand
from mtlsuite.experiments.yaml_file import dump
from mtlsuite.models import MLP


@register("dataset", "split_by_trial")
class SplitByTrial:
    """A data set whose split depends on the trial."""

    domains = ("a", "b", "c")
    tasks = {"class": 3}  # noqa: RUF012

    def __init__(self, trial_seed: int = 0) -> None:
        raise AssertionError(f"a sweep must not load data of trial {trial_seed}")


@register("model", "with_dropout")
class WithDropout(MLP):
    """A model with the option that DomainBed draws."""

    def __init__(self, tasks: dict[str, int], input_shape: tuple[int, ...], dropout: float = 0.3) -> None:
        raise AssertionError(f"a sweep must not make models with dropout {dropout} of {tasks}, {input_shape}")


BASE: dict[str, Any] = {
    "data": "split_by_trial",
    "model": "with_dropout",
    "sources": "domains",
    "train": {"steps": 5},
}
DEFAULTS = {"lr": 5e-5, "weight_decay": 0.0, "batch_size": 32, "dropout": 0.0}


def hashed(*args: object) -> int:
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


def random(hparams_seed: int, trial: int, name: str) -> np.random.RandomState:
    return np.random.RandomState(hashed(hashed(hparams_seed, trial), name))


def runs(folder: Path, sweep: object, *settings: str, **changes: Any) -> tuple[Run, ...]:
    path = folder / "search.yaml"
    path.write_text(dump({**BASE, **changes, "sweep": sweep}), encoding="utf-8")
    [experiment] = expand(read(path, settings))
    return experiment.runs


def drawn(run: Run) -> dict[str, Any]:
    config = run.config
    return {
        "lr": config.optimizer["lr"],
        "weight_decay": config.optimizer.get("weight_decay"),
        "batch_size": config.train.batch_size,
        "dropout": config.model.get("dropout"),
    }


def search(*seeds: int, distributions: Any = "domainbed") -> dict[str, Any]:
    return {"seeds": list(seeds), "distributions": distributions}


# --- distributions --------------------------------------------------------------------------------------


RULES: dict[str, tuple[tuple[Any, ...], Callable[[np.random.RandomState], Any]]] = {
    "uniform": ((-1, 2.5), lambda r: r.uniform(-1, 2.5)),
    "log10_uniform": ((-5, -3.5), lambda r: 10 ** r.uniform(-5, -3.5)),
    "int_log2_uniform": ((3, 5.5), lambda r: int(2 ** r.uniform(3, 5.5))),
    "choice": ((0.0, 0.1, 0.5), lambda r: r.choice([0.0, 0.1, 0.5])),
}


@pytest.mark.parametrize("kind", RULES)
def test_draws_are_those_of_numpy(kind: str) -> None:
    values, rule = RULES[kind]
    distribution = Distribution(kind, values)
    found = [distribution.draw(np.random.RandomState(seed)) for seed in range(200)]
    assert found == [rule(np.random.RandomState(seed)) for seed in range(200)]
    assert {type(value) for value in found} == {int if kind == "int_log2_uniform" else float}
    assert len(set(found)) > 2


@pytest.mark.parametrize(
    ("dataset", "lr", "batch", "decay"),
    [
        ("pacs", (-5, -3.5), (3, 5.5), (-6, -2)),
        ("domain_net", (-5, -3.5), (3, 5), (-6, -2)),
        ("rotated_mnist", (-4.5, -2.5), (3, 9), None),
    ],
)
def test_domainbeds_ranges_and_defaults(dataset: str, lr: Any, batch: Any, decay: Any) -> None:
    known = domainbed(dataset)
    of_decay = Distribution("log10_uniform", decay) if decay else Distribution("choice", (0.0,))
    small = decay is None
    assert known == {
        "optimizer.lr": (1e-3 if small else 5e-5, Distribution("log10_uniform", lr)),
        "optimizer.weight_decay": (0.0, of_decay),
        "train.batch_size": (64 if small else 32, Distribution("int_log2_uniform", batch)),
        "model.dropout": (0.0, Distribution("choice", (0.0, 0.1, 0.5))),
    }


# --- DomainBed's search ---------------------------------------------------------------------------------


def test_values_are_domainbeds(tmp_path: Path) -> None:
    sweep = {"hparams": search(0, 1, 2), "trial": [0, 1], "held_out": ["a", "b"]}
    found = runs(tmp_path, sweep, optimizer={"lr": 0.5})
    assert len(found) == 12
    for run in found:
        assert run.search is not None
        h, t = run.search.hparams_seed, run.search.trial
        expected = DEFAULTS if h == 0 else {
            "lr": 10 ** random(h, t, "lr").uniform(-5, -3.5),
            "weight_decay": 10 ** random(h, t, "weight_decay").uniform(-6, -2),
            "batch_size": int(2 ** random(h, t, "batch_size").uniform(3, 5.5)),
            "dropout": random(h, t, "resnet_dropout").choice([0.0, 0.1, 0.5]),
        }  # fmt: skip
        assert drawn(run) == expected
        assert run.config.data["trial_seed"] == t
    points = [(r.search.hparams_seed, r.config.held_out[0], r.search.trial) for r in found if r.search]
    assert points == list(itertools.product([0, 1, 2], ["a", "b"], [0, 1]))


def test_seeds_are_hashes_of_the_job(tmp_path: Path) -> None:
    solvers = {"ERM": "equal", "ours": {"base": "nash_mtl", "wrap": ["sage"]}}
    sweep = {"solver": solvers, "hparams": search(0, 7), "trial": [0, 2], "held_out": ["a", ["b", "c"]]}
    found = runs(tmp_path, sweep)
    words = {"ERM": "equal", "ours": "sage(nash_mtl)"}
    for run in found:
        assert run.search is not None
        job = (
            words[run.search.algorithm],
            list(run.config.held_out),
            run.search.hparams_seed,
            run.search.trial,
        )
        assert run.config.seed == hashed("split_by_trial", *job) == run.config.solver.seed
    assert len({run.config.seed for run in found}) == len(found) == 16


def test_labels_and_ids(tmp_path: Path) -> None:
    found = runs(tmp_path, {"solver": {"ERM": "equal"}, "hparams": search(0, 1), "held_out": ["a"]})
    assert [run.label for run in found] == ["ERM hparams=0", "ERM hparams=1"]
    assert [run.search.algorithm for run in found if run.search] == ["ERM", "ERM"]
    assert found[1].id.startswith("ERM-hparams=1_held-a_trial-0_")
    [plain, again] = runs(tmp_path, {"solver": {"ERM": "equal"}, "trial": [0, 1]})
    assert plain.label == again.label == "ERM", "trials are repetitions"
    assert again.id.startswith("ERM_trial-1_")


def test_dropout_only_where_the_model_has_it(tmp_path: Path) -> None:
    found = runs(tmp_path, {"model": ["mlp", "with_dropout"], "hparams": search(3)})
    assert [run.config.model.get("dropout", "none") for run in found] == [
        "none",
        random(3, 0, "resnet_dropout").choice([0.0, 0.1, 0.5]),
    ]
    assert [run.config.optimizer["lr"] for run in found] == [10 ** random(3, 0, "lr").uniform(-5, -3.5)] * 2


# --- searches of one's own ------------------------------------------------------------------------------

OWN = {
    "optimizer.lr": {"log10_uniform": [-4, -2]},
    "solver.wrap.0.rho": {"uniform": [0.01, 0.2]},
    "optimizer.weight_decay": "domainbed",
}
SAM = {"base": "equal", "wrap": ["sam"]}


def test_distributions_by_key(tmp_path: Path) -> None:
    default, one = runs(
        tmp_path, {"hparams": search(0, 1, distributions=OWN)}, solver=SAM, optimizer={"lr": 0.5}
    )
    assert drawn(default) == {"lr": 0.5, "weight_decay": 0.0, "batch_size": 32, "dropout": 0.3}
    assert default.config.solver.wrap[0]["rho"] == 0.05
    assert drawn(one) == {
        "lr": 10 ** random(1, 0, "lr").uniform(-4, -2),
        "weight_decay": 10 ** random(1, 0, "weight_decay").uniform(-6, -2),
        "batch_size": 32,
        "dropout": 0.3,
    }
    assert one.config.solver.wrap[0]["rho"] == random(1, 0, "solver.wrap.0.rho").uniform(0.01, 0.2)


@pytest.mark.parametrize("left", [1, 2])
def test_one_more_key_moves_no_other(tmp_path: Path, left: int) -> None:
    few = dict(list(OWN.items())[:left])
    before = runs(tmp_path, {"hparams": search(1, 2, 3, distributions=few)}, solver=SAM)
    after = runs(tmp_path, {"hparams": search(1, 2, 3, distributions=OWN)}, solver=SAM)
    for one, other in zip(before, after, strict=True):
        assert one.config.optimizer["lr"] == other.config.optimizer["lr"]
        assert one.config.seed == other.config.seed
        if left == 2:
            assert one.config.solver.wrap == other.config.solver.wrap


def test_baselines_of_trials_are_one_for_all_solvers(tmp_path: Path) -> None:
    sweep = {"solver": ["equal", "famo"], "trial": [0, 1]}
    changes = {"data": "scenes", "model": "unet", "sources": "tasks", "tasks": ["depth", "normals"]}
    found = [run for run in runs(tmp_path, sweep, single_task=True, **changes) if run.baseline]
    assert [(run.label, run.search.trial) for run in found if run.search] == [
        ("single-task depth", 0),
        ("single-task normals", 0),
        ("single-task depth", 1),
        ("single-task normals", 1),
    ]
    assert [run.config.seed for run in found[::2]] == [hashed("scenes", "equal", [], 0, t) for t in (0, 1)]
    assert all(run.config.solver.seed == run.config.seed for run in found)


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweep", "key", "part"),
    [
        ({"hparams": [0]}, "hparams", "a mapping with 'seeds' and 'distributions'"),
        ({"hparams": {"seeds": [0]}}, "hparams.distributions", "this key is required"),
        ({"hparams": {**search(0), "sede": 1}}, "hparams.sede", "did you mean 'seeds'"),
        ({"hparams": search()}, "hparams.seeds", "found []"),
        ({"hparams": search(0, -1)}, "hparams.seeds.1", "found -1; allowed: an integer from 0 up"),
        ({"hparams": search(0, True)}, "hparams.seeds.1", "found true"),
        ({"hparams": search(0, distributions="domain_bed")}, "hparams.distributions", "'domainbed', or a"),
        ({"hparams": search(1, distributions={})}, "hparams.distributions", "found {}"),
        ({"hparams": search(1, distributions={"seed": "domainbed"})}, "hparams.distributions.seed",
         "DomainBed draws only optimizer.lr"),
        ({"hparams": search(1, distributions={"optimizer.lr": {"normal": [0, 1]}})},
         "hparams.distributions.optimizer.lr.normal", "unknown distribution 'normal'"),
        ({"hparams": search(1, distributions={"optimizer.lr": {"uniform": [2, 1]}})},
         "hparams.distributions.optimizer.lr.uniform", "found [2, 1]; allowed: [low, high]"),
        ({"hparams": search(1, distributions={"optimizer.lr": {"choice": []}})},
         "hparams.distributions.optimizer.lr.choice", "at least one value"),
        ({"hparams": search(1, distributions={"optimizer.lr": {"choice": ["big"]}})},
         "hparams.distributions.optimizer.lr", "found 'big'; allowed: a number"),
        ({"hparams": search(1, distributions={"optimizer.lrr": {"choice": [1.0]}})},
         "hparams.distributions.optimizer.lrr", "did you mean 'lr'"),
        ({"trial": 3}, "trial", "found 3"),
        ({"trial": [0, 1, 0]}, "trial.2", "the same run as sweep.trial.0"),
        ({"trial": [0], "seed": [0, 1]}, "seed", "it is set by sweep.trial"),
        ({"hparams": search(1), "optimizer.lr": [0.1]}, "optimizer.lr", "it is set by sweep.hparams"),
    ],
)  # fmt: skip
def test_wrong_searches(tmp_path: Path, sweep: object, key: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        runs(tmp_path, sweep)
    where, _, rest = caught.value.message.partition(": ")
    assert where.rpartition(":")[0] == str(tmp_path / "search.yaml")
    assert rest.startswith(f"sweep.{key}: ")
    assert part in rest


def test_a_baseline_for_each_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep\.hparams: single_task needs one baseline"):
        runs(tmp_path, {"hparams": search(0)}, single_task=True)


def test_settings_reach_into_a_search_and_idle_ones_are_refused(tmp_path: Path) -> None:
    sweep = {"hparams": search(0, 1, distributions={"optimizer.lr": {"uniform": [0, 1]}})}
    found = runs(tmp_path, sweep, "sweep.hparams.seeds=[4]")
    assert [run.search.hparams_seed for run in found if run.search] == [4]
    [run] = runs(
        tmp_path, sweep, "sweep.hparams.seeds=[4]", "sweep.hparams.distributions.optimizer.lr.uniform=[2,3]"
    )
    assert run.config.optimizer["lr"] == random(4, 0, "lr").uniform(2, 3)
    for setting in ("seed=3", "data.trial_seed=1", "optimizer.lr=0.1"):
        with pytest.raises(UsageError, match=r"--set .*: the key .* is swept; set sweep\.hparams"):
            runs(tmp_path, sweep, setting)
