"""LibMTL's trainer with a solver: the same numbers as the suite alone, in LibMTL's loop and tables."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from libmtl_problems import (
    ARCHITECTURES,
    SGD,
    TASKS,
    arguments,
    assert_same,
    loaders,
    reference,
    tables,
    trainer,
    values,
)
from problems import WRAPPERS

import mtlsuite as mtl
from mtlsuite.plugins import _libmtl_trainer, libmtl

from LibMTL.weighting import EW, UW  # isort: skip  (importable once the plugin is)

SOLVERS = {
    "nash_mtl": "nash_mtl",
    "famo": "famo",
    "sage(nash_mtl)": {"base": "nash_mtl", "wrap": [{"name": "sage", "rho": 0.01}]},
    "disam(famo)": {"base": "famo", "wrap": ["disam"]},
}
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # LibMTL, of accuracy 0
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


HEAVY = {("MTAN", label) for label in SOLVERS if label != "famo"}  # seven million parameters


@pytest.mark.parametrize(
    ("architecture", "spec"),
    [
        pytest.param(name, spec, id=f"{name}-{label}", marks=[pytest.mark.slow] * ((name, label) in HEAVY))
        for name in ARCHITECTURES
        for label, spec in SOLVERS.items()
    ],
)
def test_every_architecture_trains_as_by_the_suite_alone(architecture: str, spec) -> None:
    ours = trainer(spec, architecture)
    alone, before = copy.deepcopy(ours.model), values(ours.model)
    weights = ours.train(loaders(), loaders(seed=1), epochs=1, return_weight=True)
    reports = reference(alone, spec, loaders())
    assert_same(ours.model, alone, **CLOSE)
    expected = torch.stack([report.weights for report in reports], dim=1)
    torch.testing.assert_close(torch.from_numpy(weights[:, 0]).float(), expected.float(), **CLOSE)
    for name, parameter in ours.model.named_parameters():
        if parameter.dim() > 1:  # the bias before a BatchNorm layer has no gradient
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_gets_the_whole_batch(wrapper: str) -> None:
    spec = {"base": "famo", "wrap": [{"name": wrapper, **WRAPPERS[wrapper]}], "seed": 3}
    ours = trainer(spec)
    alone = copy.deepcopy(ours.model)
    ours.train(loaders(), loaders(seed=1), epochs=2)
    reports = reference(alone, spec, loaders(), epochs=2)
    assert_same(ours.model, alone, **CLOSE)
    assert ours.report.metrics.keys() == reports[-1].metrics.keys()


def test_parameters_may_be_set_free_on_the_way() -> None:
    ours = trainer("nash_mtl")
    head = ours.model.decoders["digit"][2].weight.requires_grad_(False)
    ours.train(loaders(), loaders(seed=1), epochs=1)
    before = head.requires_grad_().detach().clone()
    ours.train(loaders(), loaders(seed=1), epochs=1)
    assert not torch.equal(head, before)


def test_a_ready_solver_will_do() -> None:
    one, other = trainer("famo"), trainer(solver := mtl.FAMO())
    for each in (one, other):
        each.train(loaders(), loaders(seed=1), epochs=2)
    assert_same(one.model, other.model, rtol=0, atol=0)
    assert other.solver is solver
    assert torch.equal(one.solver.logits, solver.logits)
    assert bool(solver.logits.any()), "the update after the step"


@pytest.mark.parametrize(
    "spec", ["famo", SOLVERS["sage(nash_mtl)"], {"base": "equal", "wrap": ["arithmetic"]}]
)
@pytest.mark.parametrize("architecture", ["HPS", "MMoE", "CGC", pytest.param("MTAN", marks=pytest.mark.slow)])
def test_multi_input(architecture: str, spec) -> None:
    """Each task with batches of its own; the shorter loader starts anew."""
    ours = trainer(spec, architecture, multi_input=True)
    alone = copy.deepcopy(ours.model)
    ours.train(loaders(True), loaders(True, seed=1), epochs=1)
    reference(alone, spec, loaders(True))
    assert_same(ours.model, alone, **CLOSE)


@pytest.mark.parametrize("multi_input", [False, True])
def test_equal_weights_are_those_of_libmtl(multi_input: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """LibMTL's loop untouched but for the device, with its EW, against the sum of the losses."""
    equal = {"base": {"name": "equal", "reduction": "sum"}}
    found = []
    for kwargs in ({"weighting": EW}, {"solver": equal}, {"weighting": libmtl.weighting(equal)}):
        one = trainer(multi_input=multi_input, scheduler_param={"scheduler": "exp", "gamma": 0.5}, **kwargs)
        capsys.readouterr()
        weights = one.train(
            loaders(multi_input),
            loaders(multi_input, seed=1),
            epochs=3,
            val_dataloaders=loaders(multi_input, seed=2),
            return_weight=True,
        )
        found.append((one, weights, tables(capsys.readouterr().out), one.scheduler.get_last_lr()))
    (libmtls, weights, table, rates), *others = found
    assert len(table) == 3
    assert len(table[0]) == 1 + 3 * 2 * len(TASKS), "epoch; losses and metrics of train, val and test"
    for other, other_weights, other_table, other_rates in others:
        assert_same(other.model, libmtls.model, **CLOSE)
        assert (other_weights == weights).all()
        assert other_rates == rates
        torch.testing.assert_close(torch.tensor(other_table), torch.tensor(table), rtol=0, atol=2e-4)
        assert other.meter.best_result["epoch"] == libmtls.meter.best_result["epoch"]


@pytest.mark.parametrize("wrapper", ["sam", "sage", "samo", "arithmetic", "gsam"])
def test_looking_around_leaves_no_trace(wrapper: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At learning rate 0, meters and BatchNorm statistics are those of a training that never looks around."""
    still = {"optim": "sgd", "lr": 0.0}
    spec = {"base": "famo", "wrap": [{"name": wrapper, **WRAPPERS[wrapper]}]}
    found = []
    for kwargs in ({"weighting": EW}, {"solver": spec}):
        one = trainer(optim_param=still, **kwargs)
        capsys.readouterr()
        one.train(loaders(), loaders(seed=1), epochs=2)
        found.append((one.model, tables(capsys.readouterr().out)))
    assert found[0][1] == found[1][1]
    assert_same(found[0][0], found[1][0], rtol=0, atol=0)


def count_training(counted: list[bool], module: torch.nn.Module, *_: object) -> None:
    counted.append(module.training)


@pytest.mark.parametrize("multi_input", [False, True])
def test_passes(multi_input: bool, passes) -> None:
    """What LibMTL has computed is used: Nash-MTL costs one forward, SAM two, FAMO one after the step."""
    n_tasks = len(TASKS)
    for spec, forwards, backwards in (
        ("nash_mtl", 1, n_tasks),
        ("famo", 2, n_tasks if multi_input else 1),
        ({"base": "equal", "wrap": ["sam"]}, 2, 2 * n_tasks if multi_input else 2),
    ):
        ours = trainer(spec, multi_input=multi_input)
        counted = []
        ours.model.encoder.register_forward_hook(partial(count_training, counted))
        passes.reset()
        ours.train(loaders(multi_input), loaders(multi_input, seed=1), epochs=1)
        per_batch = n_tasks if multi_input else 1
        assert sum(counted) == 2 * forwards * per_batch, spec
        assert passes.backwards == 2 * backwards + n_tasks, spec  # once: what each task owns


def test_predictions_are_processed_each_time() -> None:
    class Halved(libmtl.Trainer):
        def process_preds(self, preds, task_name=None):  # noqa: ARG002
            return {task: prediction / 2 for task, prediction in preds.items()}

    class Half(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) / 2

    spec = {"base": "famo", "wrap": ["sam"]}
    plain = trainer(spec)
    plain.model.decoders = torch.nn.ModuleDict({t: Half(d) for t, d in plain.model.decoders.items()})
    plain.optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.05, momentum=0.9)
    plain.train(loaders(), loaders(seed=1), epochs=2)
    halved = Halved(solver=spec, device="cpu", **arguments())
    halved.train(loaders(), loaders(seed=1), epochs=2)
    for one, other in zip(plain.model.parameters(), halved.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_a_skipped_step_leaves_everything_as_it_was() -> None:
    poisoned = [(torch.full_like(x, torch.nan), y) for x, y in loaders().dataset[:4]]
    loader = torch.utils.data.DataLoader(poisoned, batch_size=4)
    ours = trainer({"base": "famo", "on_nonfinite": "skip"})
    before = values(ours.model)
    weights = ours.train(loader, loaders(seed=1), epochs=1, return_weight=True)
    assert ours.report.metrics == {"famo/skipped": 1.0}
    assert not weights.any()
    for name, value in values(ours.model).items():
        assert torch.equal(value, before[name]), name


def test_a_failed_training_leaves_the_trainer_as_it_was() -> None:
    poisoned = [(torch.full_like(x, torch.nan), y) for x, y in loaders().dataset[:4]]
    ours = trainer("nash_mtl", "DSelect_k")
    optimizer = ours.optimizer
    with pytest.raises(mtl.NonFiniteError, match="digit"):
        ours.train(torch.utils.data.DataLoader(poisoned, batch_size=4), loaders(seed=1), epochs=1)
    assert ours.optimizer is optimizer
    assert not {"backward", "_entropy_reg_loss"} & set(vars(ours.model))


def test_dselect_k_selects_among_different_experts() -> None:
    codes = trainer("equal", "DSelect_k").model._binary_codes
    assert codes[0].int().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_the_device_is_the_named_one() -> None:
    ours = trainer("equal")
    assert ours.device == ours.model.device == torch.device("cpu")
    assert {p.device.type for p in ours.model.parameters()} == {"cpu"}
    default = _libmtl_trainer._device(None).type
    assert default == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(mtl.UsageError, match=r"'cuda:0', but this machine has no GPU"):
        libmtl.Trainer(solver="equal", device="cuda:0", **arguments())


def test_what_is_refused() -> None:
    with pytest.raises(mtl.UsageError, match="a weighting or a solver is needed"):
        trainer()
    with pytest.raises(mtl.UsageError, match="did you mean 'nash_mtl'"):
        trainer("nash_mlt")
    with pytest.raises(mtl.UsageError, match="rep_grad=False is needed"):
        trainer("nash_mtl", rep_grad=True)
    with pytest.raises(mtl.UsageError, match=r"equal is for 3 sources, there are 2 tasks: digit, size"):
        trainer(mtl.Equal(3))
    with pytest.raises(mtl.UsageError, match=r"weight_args: found \{'T': 2.0\}"):
        trainer("equal", weight_args={"T": 2.0})
    with pytest.raises(mtl.UsageError, match=r"device: found 'gpu'; allowed: cpu"):
        libmtl.Trainer(solver="equal", device="gpu", **arguments())
    fresh = {"name": "arithmetic", "minibatches": "fresh", "inner_steps": 2}
    ours = trainer({"base": "equal", "wrap": [fresh]})
    with pytest.raises(mtl.UsageError, match="no minibatches beside those of the step"):
        ours.train(loaders(), loaders(seed=1), epochs=1)


def test_a_weighting_beside_a_solver_is_not_asked() -> None:
    with pytest.warns(UserWarning, match="the weighting .*UW.* is not asked"):
        ours = trainer("nash_mtl", weighting=UW)
    other = trainer("nash_mtl")
    for each in (ours, other):
        each.train(loaders(), loaders(seed=1), epochs=1)
    assert_same(ours.model.encoder, other.model.encoder, **CLOSE)
    assert not ours.model.loss_scale.grad.any()


def test_arguments_by_position() -> None:
    kwargs = arguments()
    keywords = {name: kwargs.pop(name) for name in ("weight_args", "arch_args")}
    task_dict, *others = kwargs.values()
    ours = libmtl.Trainer(task_dict, EW, *others, device="cpu", **keywords)
    ours.train(loaders(), loaders(seed=1), epochs=1)
    assert ours.optimizer.param_groups[0]["momentum"] == SGD["momentum"]
