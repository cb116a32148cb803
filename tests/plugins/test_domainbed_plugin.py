"""Solvers as algorithms of DomainBed, in a small stand-in with its interface: the numbers of our own loop."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import our_runner
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mtlsuite as mtl
from mtlsuite.plugins.domainbed import NAMED, algorithm, register

STAND_IN = Path(__file__).parent / "stand_in"
DOCS = Path(__file__).parents[2] / "docs" / "plugging_in.md"
HPARAMS = {"lr": 1e-2, "weight_decay": 1e-4, "nonlinear_classifier": False, "freeze_bn": False}
SAGE_NASH = {"base": "nash_mtl", "wrap": [{"name": "sage", "rho": 0.02, "gamma": 0.05}]}
SHAPE, CLASSES, DOMAINS = (6,), 4, 3


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "domainbed"]:
        del sys.modules[name]


@pytest.fixture
def domainbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module ``domainbed.algorithms``, new for every test."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    forget()
    yield importlib.import_module("domainbed.algorithms")
    forget()


def made(spec: Any, seed: int = 0, **hparams: Any) -> Any:
    torch.manual_seed(seed)
    return algorithm(spec)(SHAPE, CLASSES, DOMAINS, HPARAMS | hparams)


def minibatches(seed: int, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, *SHAPE, generator=g), torch.randint(CLASSES, (size,), generator=g))
        for _ in range(DOMAINS)
    ]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("domainbed")
def test_the_yaml_runner_gives_the_same_numbers(tmp_path: Path) -> None:
    run = our_runner.run(tmp_path)
    torch.manual_seed(our_runner.SEED)
    hparams = HPARAMS | {"lr": our_runner.LR, "weight_decay": our_runner.WEIGHT_DECAY}
    [first, *_] = run.minibatches
    ours = algorithm(our_runner.SPEC)(first[0][0].shape[1:], 10, len(first), hparams)
    with torch.no_grad():
        for parameter, value in zip(ours.network.parameters(), run.model.parameters(), strict=True):
            parameter.copy_(value)
    for batches in run.minibatches:
        ours.update(batches)
    for found, expected in zip(ours.network.parameters(), run.parameters, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("domainbed")
@pytest.mark.parametrize("spec", [*NAMED.values(), SAGE_NASH], ids=[*NAMED, "SAGE_NashMTL"])
def test_numbers_are_those_of_our_own_loop(spec: Any) -> None:
    """Adam with DomainBed's hyperparameters, and the solver seeded as torch is."""
    theirs, seed = made(spec, seed=7), 7
    ours = copy.deepcopy(theirs.network)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2, weight_decay=1e-4)
    solver = mtl.build_solver(spec, n_sources=DOMAINS, seed=seed)
    for step in range(3):
        values = theirs.update(minibatches(step), unlabeled=None)
        report = solver.step(mtl.DomainObjective(ours, minibatches(step), F.cross_entropy), optimizer)
        assert [values[f"loss_{k}"] for k in range(DOMAINS)] == report.losses.tolist()
        assert values["loss"] == report.losses.mean().item()
    assert same(theirs.network, ours)


def test_equal_weights_are_erm(domainbed: ModuleType) -> None:
    """Of DomainBed's own code, in float64: its mean over all images is the mean of our equal minibatches."""
    ours = made("equal").double()
    torch.manual_seed(0)
    erm = domainbed.ERM(SHAPE, CLASSES, DOMAINS, HPARAMS).double()
    for step in range(5):
        batches = [(x.double(), y) for x, y in minibatches(step)]
        assert ours.update(batches)["loss"] == pytest.approx(erm.update(batches)["loss"], rel=1e-12)
    x = minibatches(9)[0][0].double()
    torch.testing.assert_close(ours.predict(x), erm.predict(x), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("domainbed")
def test_seeds_make_different_noise() -> None:
    noisy = {"base": "equal", "wrap": [{"name": "sage", "rho": 0.0, "gamma": 0.5}]}
    one, other = made(noisy, seed=0), made(noisy, seed=1)
    other.network.load_state_dict(one.network.state_dict())
    for each in (one, other):
        each.update(minibatches(0))
    assert not same(one.network, other.network)
    fixed = [made(noisy | {"seed": 5}, seed=seed) for seed in (0, 1)]
    assert torch.equal(*(each.solver.generator.get_state() for each in fixed))


@pytest.mark.usefixtures("domainbed")
def test_what_update_tells_is_what_train_py_can_average_and_write() -> None:
    values = made(SAGE_NASH).update(minibatches(0))
    assert {"loss", "loss_0", "loss_2", "weight_0", "weight_2", "sage_cosine"} <= set(values)
    assert all(type(value) is float for value in values.values())
    assert not any("/" in name for name in values)
    assert (
        not any(name.startswith("weight") for name in made("torchjd_free").update(minibatches(0))) if 0 else 1
    )


# --- state --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("domainbed")
def test_state_dict_holds_the_state_of_the_solver(tmp_path: Path) -> None:
    """FAMO's logits and the generator of the noise go on where they were."""
    spec = {"base": "famo", "wrap": ["sage"]}
    through = made(spec)
    for step in range(3):
        through.update(minibatches(step))
    torch.save(through.state_dict(), tmp_path / "model.pkl")
    resumed = made(spec, seed=1)
    resumed.load_state_dict(torch.load(tmp_path / "model.pkl", weights_only=True))
    resumed.optimizer.load_state_dict(copy.deepcopy(through.optimizer.state_dict()))
    for each in (through, resumed):
        each.update(minibatches(3))
    assert same(through, resumed)
    with pytest.raises(mtl.UsageError, match="the state is of the solver 'sage', this one is 'equal'"):
        made("equal").load_state_dict(through.state_dict())


@pytest.mark.usefixtures("domainbed")
@pytest.mark.parametrize("name", ["SAMO", "SAGM", "GGA"])
def test_frozen_batch_norm_stays_frozen(name: str) -> None:
    """SAMO looks at the model in evaluation mode and puts it back."""
    spec = {"base": "equal", "wrap": [{"name": "gga", "start_step": 0, "end_step": 9, "n_search": 2}]}
    ours = made(spec if name == "GGA" else NAMED[name], freeze_bn=True)
    ours.train()
    norm = ours.featurizer.norm
    before = norm.running_mean.clone(), norm.weight.detach().clone()
    ours.update(minibatches(0))
    assert not norm.training
    assert ours.featurizer.training
    assert torch.equal(norm.running_mean, before[0])
    assert not torch.equal(norm.weight, before[1]), "its affine parameters train"


@pytest.mark.usefixtures("domainbed")
def test_gga_moves_the_featurizer_by_name() -> None:
    [gga] = NAMED["GGA"]["wrap"]
    early = gga | {"start_step": 0, "end_step": 0, "n_search": 1, "candidates": "walk", "loss_tolerance": 9.0}
    moved = []
    for radius in (1e-5, 1e-3):
        ours = made({"base": "equal", "wrap": [early | {"radius": radius}]}, lr=0.0, weight_decay=0.0)
        before = copy.deepcopy(ours.network)
        for seed in range(8):  # until one is accepted
            ours.solver.steps = 0
            ours.solver.reseed(seed)
            ours.update(minibatches(seed))
        moved.append(not same(ours.featurizer, before.featurizer))
        assert same(ours.classifier, before.classifier)
    assert moved == [True, True]


# --- hyperparameters ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("domainbed")
def test_hyperparameters_replace_options() -> None:
    ours = made(SAGE_NASH, sage_rho=0.5, nash_mtl_max_norm=2.0)
    assert (ours.solver.rho, ours.solver.gamma, ours.solver.inner.max_norm) == (0.5, 0.05, 2.0)
    assert made("nash_mtl", nash_mtl_max_norm=3.0).solver.max_norm == 3.0
    assert made({"base": "equal", "wrap": ["disam"]}, disam_lambda=0.3).solver.ascent.lambda_ == 0.3
    assert SAGE_NASH["wrap"][0]["rho"] == 0.02, "the spec itself stays"


@pytest.mark.usefixtures("domainbed")
def test_a_hyperparameter_goes_to_the_longest_name() -> None:
    both = {"base": "equal", "wrap": [{"name": "gga", "parameters": ["featurizer.*"]}, "gga_l"]}
    ours = made(both, gga_l_gamma=0.25, gga_radius=0.5)
    assert (ours.solver.radius, ours.solver.inner.gamma) == (0.5, 0.25)


def test_register_makes_algorithms_and_hyperparameters_known(domainbed: ModuleType) -> None:
    registry = importlib.import_module("domainbed.hparams_registry")
    plain = registry.random_hparams("ERM", "Plain", 3)
    rho = (0.05, lambda r: 10 ** r.uniform(-3, -1))
    register(domainbed, {"SAGE_Nash": SAGE_NASH, "Nash": "nash_mtl"}, {"sage_rho": rho})
    register(domainbed)
    assert list(domainbed.ALGORITHMS) == ["ERM", "Fish", "SAGE_Nash", "Nash", *NAMED]
    for name in NAMED:
        made_by_name = domainbed.get_algorithm_class(name)(SHAPE, CLASSES, DOMAINS, HPARAMS)
        assert "loss" in made_by_name.update(minibatches(0))
    assert registry.default_hparams("SAGE_Nash", "Plain")["sage_rho"] == 0.05
    drawn = registry.random_hparams("SAGE_Nash", "Plain", 3)
    seed = importlib.import_module("domainbed.lib.misc").seed_hash(3, "sage_rho")
    assert drawn == plain | {"sage_rho": 10 ** np.random.RandomState(seed).uniform(-3, -1)}
    assert registry.random_hparams("Nash", "Plain", 3) == registry.random_hparams("ERM", "Plain", 3) == plain
    ours = domainbed.SAGE_Nash(SHAPE, CLASSES, DOMAINS, drawn)
    assert ours.solver.rho == drawn["sage_rho"]


def test_drawn_numpy_numbers_become_python_numbers(domainbed: ModuleType) -> None:
    """So that options accept them and train.py can write them as JSON."""
    spec = {"base": "equal", "wrap": [{"name": "arithmetic"}]}
    register(domainbed, {"A": spec}, {"arithmetic_inner_steps": (1, lambda r: r.choice([2, 3]))})
    registry = importlib.import_module("domainbed.hparams_registry")
    drawn = registry.random_hparams("A", "Plain", 1)
    assert json.loads(json.dumps(drawn)) == drawn
    assert domainbed.A(SHAPE, CLASSES, DOMAINS, drawn).solver.inner_steps in (2, 3)


def test_registering_again_replaces_ours_only(domainbed: ModuleType) -> None:
    for rho in (0.1, 0.2):
        register(domainbed, {"Mine": "nash_mtl"}, {"nash_mtl_max_norm": (rho, lambda _: 1.0)})
    assert domainbed.ALGORITHMS.count("Mine") == 1
    registry = importlib.import_module("domainbed.hparams_registry")
    assert registry.default_hparams("Mine", "Plain")["nash_mtl_max_norm"] == 0.2
    with pytest.raises(mtl.UsageError, match="has a 'Fish' already"):
        register(domainbed, {"New": "equal", "Fish": {"base": "equal", "wrap": ["fish"]}})
    assert "New" not in domainbed.ALGORITHMS


# --- what cannot work ---------------------------------------------------------------------------------

FRESH = {"name": "arithmetic", "minibatches": "fresh", "inner_steps": 2}


@pytest.mark.usefixtures("domainbed")
@pytest.mark.parametrize(
    ("spec", "hparams", "message"),
    [
        ({"base": "equal", "wrap": [FRESH]}, {}, "one minibatch a domain and step, this spec takes more"),
        ({"base": "equal", "wrap": ["sage", FRESH]}, {}, "one minibatch a domain and step"),
        ({"base": "equal", "wrap": ["sagee"]}, {}, r"SolverAlgorithm \(wrap.0.name\): .*did you mean 'sage'"),
        (SAGE_NASH, {"sage_roh": 0.1}, "unknown option 'roh'; did you mean 'rho'"),
        (SAGE_NASH, {"sage_rho": "big"}, r"wrap\.0\.rho.*found 'big'"),
        ({"base": "equal", "wrap": ["sam", "sam"]}, {"sam_rho": 0.1}, "'sam' stands twice"),
        ({"base": {"name": "famo", "min_losses": [0.0, 0.0]}}, {}, "2 entries for 3 sources"),
        (7, {}, "found 7"),
        ({"base": "equal", "wrap": "sam"}, {}, "a list of wrappers is needed"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(spec: Any, hparams: Any, message: str) -> None:
    with pytest.raises(mtl.UsageError, match=message):
        made(spec, **hparams)


@pytest.mark.usefixtures("domainbed")
@pytest.mark.parametrize("aggregator", ["MoDo", "SDMGrad"])
def test_aggregators_of_two_minibatches_are_refused(aggregator: str) -> None:
    pytest.importorskip("torchjd", reason="the extra mtlsuite[torchjd] is not installed")
    with pytest.raises(mtl.UsageError, match="one minibatch a domain and step"):
        made({"base": {"name": "torchjd", "aggregator": aggregator}})


def test_without_domainbed_the_error_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(STAND_IN)])
    with pytest.raises(mtl.UsageError, match="not on PyPI: put a clone"):
        made("equal")


def test_what_register_refuses(domainbed: ModuleType) -> None:
    with pytest.raises(mtl.UsageError, match=r"needs the module domainbed\.algorithms, found 'json'"):
        register(json)
    with pytest.raises(
        mtl.UsageError, match="'sam_rho' belongs to none of Nash; it is named <solver>_<option>"
    ):
        register(domainbed, {"Nash": "nash_mtl"}, {"sam_rho": (0.1, lambda _: 0.2)})
    assert domainbed.ALGORITHMS == ["ERM", "Fish"]


# --- DomainBed's own scripts, with what the docs say to add -------------------------------------------


def added_lines() -> str:
    """The lines that docs/plugging_in.md adds to DomainBed's algorithms.py."""
    [diff] = [block for block in re.findall(r"```diff\n(.*?)```", DOCS.read_text(), re.DOTALL)
              if "domainbed/algorithms.py" in block]  # fmt: skip
    return "\n".join(line[1:] for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)) + "\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the stand-in with the lines added."""
    shutil.copytree(STAND_IN, tmp_path / "clone", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "clone" / "domainbed" / "algorithms.py", "a") as file:
        file.write(added_lines())
    return tmp_path / "clone"


def test_train_py_runs_what_the_docs_register(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(clone))
    forget()
    out = tmp_path / "out"
    options = ["--algorithm", "SAGE_NashMTL", "--hparams", '{"sage_gamma": 0.01}', "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["train.py", *options, "--output_dir", str(out)])
    runpy.run_module("domainbed.scripts.train", run_name="__main__")
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 5]
    assert {"loss", "sage_cosine", "env0_out_acc"} <= set(records[-1])
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[0]["hparams"]["sage_gamma"] == 0.01
    assert "sage_rho" in records[0]["hparams"], "a default that the docs register"
    assert (out / "done").exists()
    state = torch.load(out / "model.pkl", weights_only=True)["model_dict"]
    assert state["_extra_state"]["solver"] == "sage"
    forget()


@pytest.mark.slow
def test_the_sweep_finds_our_algorithms_in_processes_of_its_own(clone: Path, tmp_path: Path) -> None:
    """Once with the defaults and once with random hyperparameters."""
    options = ["launch", "--n_hparams", "2", "--algorithms", "SAGE_NashMTL", "--output_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "domainbed.scripts.sweep", *options],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [
        json.loads((tmp_path / f"SAGE_NashMTL_{seed}" / "results.jsonl").read_text().splitlines()[0])
        for seed in range(2)
    ]
    rho = [record["hparams"]["sage_rho"] for record in found]
    assert rho[0] == 0.05
    assert 1e-3 < rho[1] < 1e-1
    assert rho[1] != rho[0]
