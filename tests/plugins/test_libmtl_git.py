"""The plugin on the interface of LibMTL's git version, by a small stand-in."""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from types import ModuleType

import libmtl_git
import libmtl_problems as problems
import pytest
import torch
from torch import nn

import mtlsuite as mtl

OURS = ("libmtl", "_libmtl_compat", "_libmtl_objective", "_libmtl_trainer", "_libmtl_weighting")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin, imported anew with the stand-in in LibMTL's place; what it warns of is an error."""
    ours = [f"mtlsuite.plugins.{name}" for name in OURS]
    for name in [name for name in sys.modules if name.split(".")[0] == "LibMTL" or name in ours]:
        monkeypatch.delitem(sys.modules, name)
    for name in OURS:
        monkeypatch.setattr(mtl.plugins, name, getattr(mtl.plugins, name))  # so that it comes back
    for name, module in libmtl_git.package().items():
        monkeypatch.setitem(sys.modules, name, module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = importlib.import_module("mtlsuite.plugins.libmtl")
    yield made
    for name in ours:
        sys.modules.pop(name, None)  # before the real ones come back


def arguments(multi_input: bool = False) -> dict:
    kwargs = problems.arguments(multi_input=multi_input) | {"architecture": "HPS"}
    losses = {"digit": nn.functional.cross_entropy, "size": nn.functional.mse_loss}
    kwargs["task_dict"] = {task: {"loss_fn": libmtl_git.Loss(loss)} for task, loss in losses.items()}
    return kwargs


def test_a_libmtl_that_works_is_left_alone(plugin: ModuleType) -> None:
    assert plugin.Trainer.__mro__[1] is libmtl_git.Trainer
    source = libmtl_git.Trainer._process_data.__code__.co_filename
    assert source == libmtl_git.__file__


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("spec", ["nash_mtl", {"base": "famo", "wrap": [{"name": "sage", "rho": 0.01}]}])
def test_the_trainer_takes_any_solver(plugin: ModuleType, spec, multi_input: bool, tmp_path) -> None:
    ours = plugin.Trainer(
        **arguments(multi_input), solver=spec, device="cpu", save_path=str(tmp_path / "model.pt")
    )
    alone = copy.deepcopy(ours.model)
    loader, test = problems.loaders(multi_input), problems.loaders(multi_input, seed=1)
    weights = ours.train(loader, test, 2, return_weight=True)
    reports = problems.reference(alone, spec, loader, epochs=2)
    problems.assert_same(ours.model, alone, **CLOSE)
    expected = torch.stack([report.weights for report in reports], dim=1)
    torch.testing.assert_close(torch.from_numpy(weights).flatten(1).float(), expected.float(), **CLOSE)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["encoder.conv1.weight"], ours.model.encoder.conv1.weight)


def test_a_weighting_is_known_by_its_name(plugin: ModuleType) -> None:
    spec = {"base": "nash_mtl", "wrap": ["gradient_equilibrium"]}
    made = plugin.weighting(spec, name="equilibrium_nash")
    by_name = plugin.Trainer(**arguments(), weighting="equilibrium_nash", device="cpu")
    assert isinstance(by_name.model, made)
    alone = copy.deepcopy(by_name.model)
    by_name.train(problems.loaders(), problems.loaders(seed=1), 2)
    problems.reference(alone, spec, problems.loaders(), epochs=2)
    problems.assert_same(by_name.model, alone, **CLOSE)
    assert plugin.weighting(spec).__name__ in vars(sys.modules["LibMTL.weighting"])
    with pytest.raises(mtl.UsageError, match="has a 'FAMO' of its own"):
        plugin.weighting("equal", name="FAMO")


def test_their_own_weightings_still_work(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libmtl_git.FAMO, "updates", 0)
    theirs = plugin.Trainer(**arguments(), weighting="FAMO", device="cpu")
    theirs.train(problems.loaders(), problems.loaders(seed=1), 1)
    assert libmtl_git.FAMO.updates == len(problems.loaders())
