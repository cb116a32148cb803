"""One run: train, evaluate, record, checkpoint; and go on from a checkpoint as if nothing had happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ..core.build import build_solver
from ..core.errors import UsageError
from ..core.ranks import ALONE, Ranks
from ..core.registry import load_plugin
from ..core.report import StepReport
from ..core.solver import Solver
from ..data.sampling import derived_seed
from .alike import check_parameters, unite_buffers
from .averaging import Averaging, make_averaging
from .checkpoint import check_ranks, random_state, read_checkpoint, restore_random_state, save_checkpoint
from .config import Config
from .distributed import everywhere, gathered, on_first, own_device
from .options import make_optimizer, make_scheduler
from .problem import Problem
from .profile import StepProfile
from .run_log import RunLog

CHECKPOINT = "checkpoint.pt"
Progress = Callable[[int], None]  # called with the number of steps done


class Trainer:
    """Everything one run needs, built from its config and nothing else.

    Args:
        config: the resolved run.
        ranks: who train it together; this is one of them.

    Raises:
        UsageError: the config does not fit the data set, the model, the number of sources or that of the
            ranks; its ``key`` is relative to the config.
    """

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        self.config = config
        self.ranks = ranks
        for plugin in config.plugins:  # a process of its own has not read the file
            load_plugin(plugin)
        self.problem = Problem(config, own_device(config.device, ranks), ranks)
        self.solver = make_solver(config, len(self.problem.source_names))

    def check(self) -> None:
        """Raise the UsageError of a model, optimizer, ... that cannot be made; nothing is kept."""
        _parts(self)

    @property
    def steps(self) -> int:
        """Length of the training in steps."""
        return self._in_steps(self.config.train.length)

    def run(self, folder: Path, resume: bool, progress: Progress, profile: int = 0) -> None:
        """Train to the end; rank 0 writes results.jsonl, timing.jsonl and checkpoint.pt into ``folder``.

        Args:
            folder: of this run.
            resume: go on from the checkpoint where there is one.
            progress: told the number of steps done.
            profile: so many of the first steps are profiled, into ``folder/profile``, by rank 0.

        Raises:
            NonFiniteError: the training diverged.
            UsageError: the checkpoint cannot be read, or is of another number of ranks.
            RuntimeError: the ranks no longer have the same parameters.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads or threads)
        try:
            self._train(_Session(self, folder, resume), progress, 0 if self.ranks.rank else profile)
        finally:
            torch.set_num_threads(threads)  # the next run may ask for none, and results depend on it

    def _train(self, session: _Session, progress: Progress, profile: int) -> None:
        if not session.restored:
            session.record(None)
        meter = _Meter()
        every = self._in_steps(self.config.evaluation.every)
        progress(session.step)
        with session.profiled(profile, self.steps - session.step) as profiled:
            while session.step < self.steps:
                meter.add(session.advance(profiled))
                profiled.step()
                if session.step % every == 0 or session.step == self.steps:
                    with profiled.range("evaluation"):
                        session.record(meter)
                    meter = _Meter()
                progress(session.step)
        session.close()

    def _in_steps(self, length: int) -> int:
        return length * (self.problem.steps_per_epoch if self.config.train.unit == "epochs" else 1)


class _Session:
    """The moving parts of a run, and their way to disk and back."""

    def __init__(self, trainer: Trainer, folder: Path, resume: bool) -> None:
        config = trainer.config
        self.trainer, self.problem, self.solver = trainer, trainer.problem, trainer.solver
        self.ranks = trainer.ranks
        self.model, self.optimizer, self.scheduler, self.averaging = _parts(trainer)
        self.scheduler_every = 1
        if config.scheduler and config.scheduler["interval"] == "epoch":
            self.scheduler_every = self.problem.steps_per_epoch
        self.path = folder / CHECKPOINT
        self.step = 0
        self.restored = on_first(lambda: resume and self.path.exists())
        if self.restored:
            everywhere(self._restore)
        else:
            rank = self.ranks.rank  # each drops out other units, and the first those of one process
            torch.manual_seed(derived_seed(config.seed, "rank", rank) if rank else config.seed)
        start = self.step if self.restored else None
        first = self.ranks.rank == 0
        self.log = everywhere(lambda: RunLog(folder, start, config.tensorboard) if first else None)
        self.clock = time.perf_counter()

    def profiled(self, steps: int, remaining: int) -> StepProfile:
        """The profile of the next ``steps`` of the ``remaining`` steps; 0: none."""
        return StepProfile(self.path.parent / "profile", steps, remaining, self.model, self.optimizer)

    def advance(self, profiled: StepProfile) -> StepReport:
        """One training step."""
        with profiled.range("batch"):
            objective = self.problem.objective(self.model, self.step)
        with profiled.range("solver"):
            report = self.solver.step(objective, self.optimizer)
        self.step += 1
        if self.scheduler and self.step % self.scheduler_every == 0:
            self.scheduler.step()
        if self.averaging:
            unite_buffers(self.model, self.ranks)
            self.averaging.update(self.step)
        return report

    def record(self, meter: _Meter | None) -> None:
        """Evaluate, add a line to the results, then write the checkpoint that stands for it."""
        seconds = time.perf_counter() - self.clock
        names = self.problem.source_names
        unite_buffers(self.model, self.ranks)
        check_parameters(self.model, self.ranks)
        scores, averaged = self._evaluate()
        record = {
            "step": self.step,
            "epoch": self.step / self.problem.steps_per_epoch,
            **(meter.summary(names) if meter else {"losses": None, "weights": None, "solver": {}}),
            "cosine": self.problem.cosine(self.model) if self.trainer.config.evaluation.cosine else None,
            **scores,
        }
        random_states = gathered(random_state(self.problem.device))
        if self.log:
            self.log.write(record, seconds)
            save_checkpoint(self.path, self._state(averaged, random_states))
        gathered(None)  # what is on disk is whole before any rank goes on
        self.clock = time.perf_counter()

    def close(self) -> None:
        if self.log:
            self.log.close()

    def _state(self, averaged: nn.Module | None, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "solver": self.solver.state_dict(),
            "averaging": self.averaging.state_dict() if self.averaging else None,
            "averaged": averaged.state_dict() if averaged else None,
            "rng": random_states,
        }

    def _evaluate(self) -> tuple[dict[str, Any], nn.Module | None]:
        """What to record of the quality of the model, and the averaged model where there is one.

        ``metrics`` are those of the averaged model as soon as there is one, else those of the trained one.
        """
        trained = self.problem.evaluate(self.model)
        if self.averaging is None:
            return {"metrics": trained}, None
        report = self.averaging.evaluate(lambda model: self.problem.validation_loss(self._ready(model)))
        model = self.averaging.model()
        metrics = trained if model is None else self.problem.evaluate(self._ready(model))
        return {"metrics": metrics, "raw_metrics": trained, "averaging": report}, model

    def _ready(self, model: nn.Module) -> nn.Module:
        """The averaged ``model`` itself, with the BatchNorm statistics that the config asks for."""
        config = self.trainer.config.averaging
        if config is not None and config.batch_norm == "recompute":
            self.problem.recompute_batch_norm(model, config.batch_norm_steps)
        return model

    def _restore(self) -> None:
        state = read_checkpoint(self.path, self.problem.device)
        check_ranks(state, self.path, self.ranks)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler:
                self.scheduler.load_state_dict(state["scheduler"])
            self.solver.load_state_dict(state["solver"])
            if self.averaging:
                self.averaging.load_state_dict(state["averaging"])
            restore_random_state(state["rng"][self.ranks.rank], self.problem.device)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.path}: does not fit this config: {error}") from None
        self.step = state["step"]


class _Meter:
    """Means over the steps between two evaluations."""

    def __init__(self) -> None:
        self._reports: list[StepReport] = []

    def add(self, report: StepReport) -> None:
        self._reports.append(report)

    def summary(self, names: list[str]) -> dict[str, Any]:
        weights = [r.weights for r in self._reports if r.weights is not None]
        absent = Counter(name for report in self._reports for name in report.absent)
        losses = torch.stack([r.losses for r in self._reports]).double().sum(0).tolist()
        present = [len(self._reports) - absent[name] for name in names]
        keys = dict.fromkeys(key for report in self._reports for key in report.metrics)
        return {
            "losses": {n: total / max(k, 1) for n, total, k in zip(names, losses, present, strict=True)},
            **({"absent": dict(absent)} if absent else {}),  # in so many steps
            "weights": _means(weights, names) if weights else None,
            "solver": {
                key: _mean([r.metrics[key] for r in self._reports if key in r.metrics]) for key in keys
            },
        }


def _parts(
    trainer: Trainer,
) -> tuple[nn.Module, torch.optim.Optimizer, LRScheduler | None, Averaging | None]:
    config = trainer.config
    key = "model"
    try:
        model = trainer.problem.model().train()
        key = "optimizer"
        optimizer = make_optimizer(config.optimizer, model.parameters())
        key = "scheduler"
        scheduler = make_scheduler(config.scheduler, optimizer) if config.scheduler else None
        key = "averaging"
        averaging = make_averaging(config.averaging, model, trainer.steps) if config.averaging else None
    except UsageError as error:
        raise error.under(key) from None
    return model, optimizer, scheduler, averaging


def make_solver(config: Config, n_sources: int) -> Solver:
    """The solver of a config for ``n_sources`` loss sources; errors carry a key below ``solver``."""
    try:
        return build_solver(config.resolved()["solver"], n_sources=n_sources)
    except UsageError as error:
        raise error.under("solver") from None


def _means(values: list[Tensor], names: list[str]) -> dict[str, float]:
    return dict(zip(names, torch.stack(values).double().mean(0).tolist(), strict=True))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
