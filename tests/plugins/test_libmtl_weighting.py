"""A solver as a weighting of LibMTL's own trainer."""

from __future__ import annotations

import copy

import libmtl_problems
import numpy as np
import pytest
import torch
from libmtl_problems import ARCHITECTURES, arguments, assert_same, loaders, reference, trainer, values
from problems import BASES, WRAPPERS

import mtlsuite as mtl
from mtlsuite.core import registry
from mtlsuite.plugins import libmtl

import LibMTL.trainer  # isort: skip  (importable once the plugin is)

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # LibMTL, of accuracy 0
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
EQUILIBRIUM = {"base": "nash_mtl", "wrap": ["gradient_equilibrium"]}


class OnCPU:
    """torch for LibMTL's trainer, with the CPU in the place of the GPU that it insists on."""

    def __getattr__(self, name: str):
        return getattr(torch, name)

    def device(self, _name: str) -> torch.device:
        return torch.device("cpu")


@pytest.mark.parametrize("architecture", ["HPS", "DSelect_k", "CGC", "PLE"])
@pytest.mark.parametrize("spec", ["nash_mtl", EQUILIBRIUM], ids=["nash_mtl", "equilibrium(nash_mtl)"])
def test_libmtls_own_trainer_takes_it(
    architecture: str, spec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LibMTL.trainer, "torch", OnCPU())
    theirs = LibMTL.trainer.Trainer(weighting=libmtl.weighting(spec), **arguments(architecture))
    alone = copy.deepcopy(theirs.model)
    weights = theirs.train(loaders(), loaders(seed=1), epochs=2, return_weight=True)
    reports = reference(alone, spec, loaders(), epochs=2)
    assert_same(theirs.model, alone, **CLOSE)
    assert len(libmtl_problems.tables(capsys.readouterr().out)) == 2
    assert weights.shape == (2, 2, 2)
    expected = torch.stack([report.weights for report in reports], dim=1)
    torch.testing.assert_close(torch.from_numpy(weights).flatten(1).float(), expected.float(), **CLOSE)
    assert theirs.model.report.metrics == pytest.approx(reports[-1].metrics)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"MTAN"}))
def test_equal_weights_are_those_of_libmtl(architecture: str) -> None:
    spec = {"base": {"name": "equal", "reduction": "sum"}}
    one = trainer(architecture=architecture, weighting=libmtl.weighting(spec))
    other = trainer(architecture=architecture, weighting=LibMTL.weighting.EW)
    for each in (one, other):
        each.train(loaders(), loaders(seed=1), epochs=1)
    assert_same(one.model, other.model, **CLOSE)


def batch_losses(model: torch.nn.Module) -> list[torch.Tensor]:
    return libmtl_problems.losses_of(model, next(iter(loaders())))


def test_backward_gives_numpy_weights_and_all_gradients() -> None:
    spec = {"base": {"name": "equal", "weights": [1.0, 3.0]}}
    model = trainer(weighting=libmtl.weighting(spec)).model
    weights = model.backward(torch.stack(batch_losses(model)))
    assert isinstance(weights, np.ndarray)
    assert weights.tolist() == [1, 3]
    one, three = batch_losses(model)
    found = torch.autograd.grad(one + 3 * three, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **CLOSE)


def test_a_solver_without_weights_returns_none() -> None:
    model = trainer(weighting=libmtl.weighting({"base": {"name": "torchjd", "aggregator": "ConFIG"}})).model
    assert model.backward(torch.stack(batch_losses(model))) is None
    assert model.encoder.conv1.weight.grad.any()


LOCAL = {"gradient_equilibrium", "gga_l"}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("options", ["typical", "default"])
def test_what_looks_elsewhere_is_refused_at_construction(wrapper: str, options: str) -> None:
    entry = {"name": wrapper, **(WRAPPERS[wrapper] if options == "typical" else {})}
    spec = {"base": "equal", "wrap": [entry]}
    if wrapper in LOCAL:
        assert libmtl.weighting(spec).spec == spec
        return
    with pytest.raises(
        mtl.UsageError, match=rf"{wrapper}\(equal\) needs more than .*Trainer\(solver=\.\.\.\)"
    ):
        libmtl.weighting(spec)
    with pytest.raises(mtl.UsageError, match=rf"gga_l\({wrapper}\(equal\)\) needs more"):
        libmtl.weighting({"base": "equal", "wrap": ["gga_l", entry]})


@pytest.mark.parametrize("base", BASES)
def test_base_solvers(base: str) -> None:
    if base != "famo":
        libmtl.weighting(base)
        return
    with pytest.raises(mtl.UsageError, match=r"famo needs more than .* after the optimizer's step"):
        libmtl.weighting(base)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"aggregator": "UPGrad"}, True),
        ({"scalarizer": "UW"}, True),
        ({"scalarizer": "FAMO"}, False),
        ({"aggregator": "MoDo"}, False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else next(iter(value.values())),
)
def test_torchjd(options: dict, fits: bool) -> None:
    spec = {"base": {"name": "torchjd", **options}}
    if fits:
        libmtl.weighting(spec)
        return
    with pytest.raises(mtl.UsageError, match="torchjd needs more than"):
        libmtl.weighting(spec)


def test_a_solver_of_ones_own_is_judged_by_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """No list of names decides: reading the parameters after the step is refused as well."""
    copies = {kind: dict(names) for kind, names in registry._classes.items()}
    monkeypatch.setattr(registry, "_classes", copies)

    @mtl.register("solver", "reads_theta_later")
    class ReadsThetaLater(mtl.Equal):
        def after_step(self, oracle: mtl.Oracle) -> None:
            self.norm = sum(p.norm() for p in oracle.space.parameters)

    @mtl.register("solver", "two_looks")
    class TwoLooks(mtl.Equal):
        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            oracle.probe()  # costs nothing here: the losses are known
            return super().direction(oracle)

    with pytest.raises(mtl.UsageError, match="reads_theta_later needs more than"):
        libmtl.weighting("reads_theta_later")
    made = libmtl.weighting("two_looks")
    trainer(weighting=made).train(loaders(), loaders(seed=1), epochs=1)


def test_one_that_looks_elsewhere_only_later_stops_with_the_same_words() -> None:
    late = {"base": "equal", "wrap": [{"name": "gga", "start_step": 500, "end_step": 501}]}
    ours = trainer(weighting=libmtl.weighting(late))
    ours.model.solver.steps = 500
    with pytest.raises(mtl.UsageError, match=r"gga\(equal\) needs more than .*Trainer\(solver=\.\.\.\)"):
        ours.train(loaders(), loaders(seed=1), epochs=1)


def test_the_trial_leaves_no_trace() -> None:
    torch.manual_seed(5)
    libmtl.weighting({"base": {"name": "torchjd", "aggregator": "Random"}})
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_each_model_has_a_solver_of_its_own() -> None:
    made = libmtl.weighting("nash_mtl")
    one, other = trainer(weighting=made), trainer(weighting=made)
    one.train(loaders(), loaders(seed=1), epochs=1)
    assert one.model.solver.steps == 2
    assert other.model.solver.steps == 0


def test_a_skipped_batch_leaves_no_gradient() -> None:
    poisoned = [(torch.full_like(x, torch.nan), y) for x, y in loaders().dataset[:4]]
    ours = trainer(weighting=libmtl.weighting({"base": "equal", "on_nonfinite": "skip"}))
    before = values(ours.model.decoders)
    ours.train(torch.utils.data.DataLoader(poisoned, batch_size=4), loaders(seed=1), epochs=1)
    assert all(p.grad is None for p in ours.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in values(ours.model.decoders).items())


def test_what_else_is_refused() -> None:
    made = libmtl.weighting("nash_mtl")
    with pytest.raises(mtl.UsageError, match="rep_grad=False is needed"):
        trainer(weighting=made, rep_grad=True)
    with pytest.raises(mtl.UsageError, match=r"weight_args: found \{'T': 2.0\}"):
        trainer(weighting=made, weight_args={"T": 2.0}).train(loaders(), loaders(seed=1), epochs=1)
    with pytest.raises(mtl.UsageError, match="n_sources is 2 here, found 3"):
        trainer(weighting=libmtl.weighting({"base": {"name": "nash_mtl", "n_sources": 3}}))
    with pytest.raises(mtl.UsageError, match="did you mean 'nash_mtl'"):
        libmtl.weighting("nash_mlt")
    with pytest.raises(mtl.UsageError, match=r"LibMTL\.weighting has a 'EW' of its own"):
        libmtl.weighting("equal", name="EW")
    with pytest.raises(mtl.UsageError, match="that of a class, found 'my weighting'"):
        libmtl.weighting("equal", name="my weighting")


def test_names_tell_specs_apart() -> None:
    one, same, other = (
        libmtl.weighting({"base": {"name": "nash_mtl", "max_norm": norm}}) for norm in (1.0, 1.0, 2.0)
    )
    assert one.__name__ == same.__name__ != other.__name__
    assert one.__name__.startswith("mtlsuite_nash_mtl_")
    assert vars(LibMTL.weighting)[other.__name__] is other
