"""A LightningModule that trains with a solver: our own loop's numbers, and what Lightning does around it."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import our_runner
import pytest
import torch
from problems import One, domain_batches, mse, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import mtlsuite as mtl

lightning = pytest.importorskip("lightning.pytorch", reason="the extra mtlsuite[lightning] is not installed")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from mtlsuite.plugins import lightning as plugin  # noqa: E402
from mtlsuite.plugins.lightning import SolverMixin  # noqa: E402

SAGE_FAMO = {"base": "famo", "wrap": [{"name": "sage", "rho": 0.02, "gamma": 0.05}]}
BATCHES = [domain_batches(seed, sizes=(4, 6, 5), dtype=torch.float32) for seed in range(5)]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request: pytest.FixtureRequest) -> ModuleType:
    """Lightning under each of its names, whose classes are not the same."""
    return pytest.importorskip(request.param)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning|pytorch_lightning|torch")
        yield


class Net(SolverMixin, lightning.LightningModule):
    """Domains on a small network."""

    def __init__(self, spec: Any = "equal", lr: float = 0.05) -> None:
        super().__init__()
        self.solver_spec, self.lr = spec, lr
        self.net = seeded(One, dtype=torch.float32)

    def objective(self, batch: Any) -> mtl.Objective:
        return mtl.DomainObjective(self.net, batch, mse, names=["a", "b", "c"], graph="separate")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val", torch.stack([mse(self.net(x), y) for x, y in batch]).mean(), batch_size=1)


class Stream:
    """Ready batches in order; knows where it is, so that a resume in the middle of an epoch goes on there."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.position = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for index in range(self.position, len(self.batches)):
            self.position = (index + 1) % len(self.batches)
            yield self.batches[index]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def trainer(pl: ModuleType = lightning, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**quiet, **(defaults | options))


def fit(
    net: Any, batches: Any = BATCHES, ckpt_path: str | None = None, val: Any = None, **options: Any
) -> Any:
    """The trainer after training on ready batches, in order."""
    lightning.seed_everything(0)
    done = trainer(**options)
    done.fit(net, Stream(batches), val and Stream(val), ckpt_path=ckpt_path)
    return done


def by_hand(spec: Any, epochs: int = 1, autocast: bool = False) -> nn.Module:
    """The same training by our own loop."""
    net = seeded(One, dtype=torch.float32)
    solver = mtl.build_solver(spec, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)

    def losses(batch: Any) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return [mse(net(x), y) for x, y in batch]

    for batch in BATCHES * epochs:
        domains = mtl.DomainObjective(net, batch, mse, graph="separate")
        plain = mtl.Objective(
            lambda batch=batch: losses(batch),
            net.parameters(),
            source=lambda k, batch=batch: losses(batch[k : k + 1])[0],
            names=["a", "b", "c"],
            graph="separate",
        )
        solver.step(plain if autocast else domains, optimizer)
    return net


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- numbers ------------------------------------------------------------------------------------------


def test_the_yaml_runner_gives_the_same_numbers(package: ModuleType, tmp_path: Path) -> None:
    run = our_runner.run(tmp_path)

    class Digits(SolverMixin, package.LightningModule):
        solver_spec = our_runner.SPEC

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def objective(self, batch: Any) -> mtl.Objective:
            return mtl.DomainObjective(self.net, batch, lambda p, y: F.cross_entropy(p["class"], y))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(
                self.net.parameters(), lr=our_runner.LR, weight_decay=our_runner.WEIGHT_DECAY
            )

    package.seed_everything(our_runner.SEED)
    done = trainer(package)
    done.fit(Digits(run.model), Stream(run.minibatches))
    assert done.global_step == our_runner.STEPS
    for found, expected in zip(run.model.parameters(), run.parameters, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("spec", ["nash_mtl", SAGE_FAMO], ids=["nash", "sage(famo)"])
def test_numbers_are_those_of_our_own_loop(spec: Any) -> None:
    net = Net(spec)
    fit(net, max_epochs=2)
    assert same(net.net, by_hand(spec, epochs=2))


class Automatic(lightning.LightningModule):
    """Lightning's own optimization of the mean loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(One, dtype=torch.float32)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return torch.stack([mse(self.net(x), y) for x, y in batch]).mean()

    configure_optimizers = Net.configure_optimizers
    validation_step = Net.validation_step
    lr = 0.05


def test_equal_weights_are_lightnings_automatic_optimization() -> None:
    automatic, ours = Automatic(), Net("equal")
    assert fit(automatic).global_step == fit(ours).global_step == len(BATCHES)
    for expected, found in zip(automatic.net.parameters(), ours.net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


# --- precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["nash_mtl", SAGE_FAMO], ids=["nash", "sage(famo)"])
def test_bf16_is_for_the_objective_alone(spec: Any) -> None:
    """Bit for bit what autocast around the forwards gives, and not what float32 gives."""
    net = Net(spec)
    fit(net, precision="bf16-mixed")
    assert same(net.net, by_hand(spec, autocast=True))
    assert not same(net.net, by_hand(spec))


def test_the_solver_computes_outside_of_autocast() -> None:
    seen = []

    class Looking(mtl.Equal):
        def direction(self, oracle: mtl.Oracle) -> mtl.Direction:
            seen.append(("solver", torch.is_autocast_enabled("cpu")))
            return super().direction(oracle)

    net = Net()
    net.solver = Looking()
    net.net.register_forward_hook(lambda *_: seen.append(("forward", torch.is_autocast_enabled("cpu"))))
    fit(net, BATCHES[:1], precision="bf16-mixed")
    assert seen == [("solver", False)] + [("forward", True)] * 3


# --- hooks, schedulers, logs --------------------------------------------------------------------------


def test_hooks_and_steps_count_once() -> None:
    events: list[Any] = []

    class Hooked(Net):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            norm = torch.stack([p.grad.norm() for p in self.net.parameters()]).norm()
            events.append((type(optimizer), bool(norm > 0)))

    done = fit(Hooked({"base": "nash_mtl", "wrap": ["sam", "sage"]}))
    assert events == [(torch.optim.SGD, True)] * len(BATCHES)
    assert done.global_step == len(BATCHES)


class Trace(lightning.Callback):
    """The learning rate at the beginning of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


SCHEDULERS = {
    "epoch": lambda opt: torch.optim.lr_scheduler.StepLR(opt, 1, 0.5),
    "every second epoch": lambda opt: {
        "scheduler": torch.optim.lr_scheduler.StepLR(opt, 1, 0.5), "frequency": 2,
    },
    "every second step": lambda opt: {
        "scheduler": torch.optim.lr_scheduler.ExponentialLR(opt, 0.9), "interval": "step", "frequency": 2,
    },
    "plateau": lambda opt: {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(opt, "max", 0.5, 0), "monitor": "val",
    },
}  # fmt: skip


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_learning_rates_are_those_of_automatic_optimization(make: Any) -> None:
    traces = []
    for cls in (Automatic, Net):

        class Scheduled(cls):
            monitor = "val"

            def configure_optimizers(self) -> Any:
                optimizer = super().configure_optimizers()
                return {"optimizer": optimizer, "lr_scheduler": make(optimizer)}

        trace = Trace()
        fit(Scheduled(), BATCHES, val=BATCHES[:1], max_epochs=4, callbacks=[trace])
        traces.append(trace.rates)
    assert traces[0] == traces[1]
    assert len(traces[0]) == 4 * len(BATCHES)
    assert len(set(traces[0])) > 1, "the rate changes at all"


def test_a_scheduler_that_monitors_nothing_is_refused() -> None:
    class Scheduled(Net):
        monitor = "vall"

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)]

    with pytest.raises(mtl.UsageError, match=r"monitor = 'vall': .* logged: loss, .*val"):
        fit(Scheduled(), val=BATCHES[:1])


def test_logs_tell_losses_weights_and_metrics() -> None:
    net = Net({"base": "nash_mtl", "wrap": ["sage"]})
    logged = fit(net, BATCHES[:1]).callback_metrics
    fresh = seeded(One, dtype=torch.float32)
    expected = [mse(fresh(x), y).item() for x, y in BATCHES[0]]
    assert [float(logged[f"loss/{name}"]) for name in "abc"] == pytest.approx(expected, rel=1e-6)
    assert float(logged["loss"]) == pytest.approx(sum(expected) / 3, rel=1e-6)
    assert all(float(logged[f"weight/{name}"]) > 0 for name in "abc")
    assert -1 <= float(logged["sage/cosine"]) <= 1


# --- checkpoints --------------------------------------------------------------------------------------


class Scheduled(Net):
    """With a learning rate that changes each epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]


SAVED = {
    "in an epoch": {"every_n_train_steps": 7},
    "after an epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "after a validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
}


@pytest.mark.parametrize("when", SAVED.values(), ids=SAVED)
def test_resume_is_exact(when: dict[str, Any], tmp_path: Path) -> None:
    """With noise, momentum, FAMO's state and the learning rate going on."""
    options = {"max_epochs": 3, "val": BATCHES[:1]}
    through = Scheduled(SAGE_FAMO)
    keep = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, **when)
    fit(through, callbacks=[keep], enable_checkpointing=True, **options)
    path = min(tmp_path.glob("*.ckpt"), key=lambda file: int(file.stem.partition("=")[2]))
    assert path.stem in ("step=7", "step=5")
    resumed = Scheduled(SAGE_FAMO)
    assert fit(resumed, ckpt_path=str(path), **options).global_step == 3 * len(BATCHES)
    assert same(resumed.net, through.net)
    assert not same(resumed.net, by_hand(SAGE_FAMO, epochs=3)), "the learning rate has changed"


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """Of a training with SAM."""
    path = str(tmp_path / "sam.ckpt")
    fit(Net({"base": "equal", "wrap": ["sam"]}), BATCHES[:2]).save_checkpoint(path)
    return path


def test_a_checkpoint_of_another_solver_is_refused_for_training_only(checkpoint: str) -> None:
    with pytest.raises(mtl.UsageError, match="the state is of the solver 'sam', this one is 'equal'"):
        fit(Net("equal"), max_epochs=2, ckpt_path=checkpoint)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    loaded = Net.load_from_checkpoint(checkpoint, spec="equal")
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    trainer().validate(Net("equal"), Stream(BATCHES[:1]), ckpt_path=checkpoint, verbose=False)


def test_a_checkpoint_without_a_solver_is_refused(checkpoint: str, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    del state[plugin.CHECKPOINT_KEY]
    torch.save(state, tmp_path / "plain.ckpt")
    with pytest.raises(mtl.UsageError, match="holds no solver's state"):
        fit(Net({"base": "equal", "wrap": ["sam"]}), max_epochs=2, ckpt_path=str(tmp_path / "plain.ckpt"))


# --- what cannot work ---------------------------------------------------------------------------------


class Several(Net):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.net.trunk, self.net.heads)]


class NeedsClosure(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class NoObjective(Net):
    objective = SolverMixin.objective


class WrongObjective(Net):
    def objective(self, batch: Any) -> Any:
        return [mse(self.net(x), y) for x, y in batch]


def half_precision() -> Any:
    """As ``precision="16-mixed"`` on a GPU; on the CPU Lightning takes bfloat16 instead."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Several, {}, "steps one optimizer, configure_optimizers gave 2"),
        (NeedsClosure, {}, "LBFGS calls a closure"),
        (NoObjective, {}, r"NoObjective must define objective\(batch\)"),
        (WrongObjective, {}, "must return an Objective, found list"),
        (Net, {"plugins": half_precision}, "'16-mixed' scales one loss"),
        (lambda: Net("nash"), {}, "did you mean 'nash_mtl'"),
    ],
)
def test_what_cannot_work_is_refused(make: Any, options: dict[str, Any], message: str) -> None:
    options = {name: value() for name, value in options.items()}
    with pytest.raises(mtl.UsageError, match=message):
        fit(make(), **options)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning.Trainer, "world_size", property(lambda _: 2))
    with pytest.raises(mtl.UsageError, match="2 processes would each take a direction of their own"):
        fit(Net())


def test_a_compiled_module_is_refused() -> None:
    with pytest.raises(mtl.UsageError, match=r"self\.net = torch\.compile\(net\)"):
        fit(torch.compile(Net(), backend="eager"))


@pytest.mark.parametrize("option", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}], ids=str)
def test_lightning_itself_refuses_what_needs_automatic_optimization(option: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="not supported for manual optimization"):
        fit(Net(), **option)


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(mtl.UsageError, match=r"pip install 'mtlsuite\[lightning\]'"):
        importlib.reload(plugin)
