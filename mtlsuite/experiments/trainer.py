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
from ..core.registry import load_plugin
from ..core.report import StepReport
from ..core.solver import Solver
from .averaging import Averaging, make_averaging
from .checkpoint import read_checkpoint, restore_random_state, save_checkpoint
from .config import Config
from .options import make_optimizer, make_scheduler
from .problem import Problem
from .results import ResultFile
from .tensorboard import TensorBoardLog

CHECKPOINT = "checkpoint.pt"
Progress = Callable[[int], None]  # called with the number of steps done


class Trainer:
    """Everything one run needs, built from its config and nothing else.

    Args:
        config: the resolved run.

    Raises:
        UsageError: the config does not fit the data set, the model or the number of sources; its ``key`` is
            relative to the config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        for plugin in config.plugins:  # a process of its own has not read the file
            load_plugin(plugin)
        self.problem = Problem(config, _device(config.device))
        self.solver = make_solver(config, len(self.problem.source_names))

    def check(self) -> None:
        """Raise the UsageError of a model, optimizer, ... that cannot be made; nothing is kept."""
        _parts(self)

    @property
    def steps(self) -> int:
        """Length of the training in steps."""
        return self._in_steps(self.config.train.length)

    def run(self, folder: Path, resume: bool, progress: Progress) -> None:
        """Train to the end; ``folder`` gets results.jsonl, timing.jsonl and checkpoint.pt.

        Args:
            folder: of this run.
            resume: go on from the checkpoint where there is one.
            progress: told the number of steps done.

        Raises:
            NonFiniteError: the training diverged.
            UsageError: the checkpoint cannot be read.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads or threads)
        try:
            self._train(_Session(self, folder, resume), progress)
        finally:
            torch.set_num_threads(threads)  # the next run may ask for none, and results depend on it

    def _train(self, session: _Session, progress: Progress) -> None:
        if not session.restored:
            session.record(None)
        meter = _Meter()
        every = self._in_steps(self.config.evaluation.every)
        progress(session.step)
        while session.step < self.steps:
            meter.add(session.advance())
            if session.step % every == 0 or session.step == self.steps:
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
        self.model, self.optimizer, self.scheduler, self.averaging = _parts(trainer)
        self.scheduler_every = 1
        if config.scheduler and config.scheduler["interval"] == "epoch":
            self.scheduler_every = self.problem.steps_per_epoch
        self.path = folder / CHECKPOINT
        self.step = 0
        self.restored = resume and self.path.exists()
        if self.restored:
            self._restore()
        else:
            torch.manual_seed(config.seed)
        self.results = ResultFile(folder / "results.jsonl")
        self.timing = ResultFile(folder / "timing.jsonl")
        for file in (self.results, self.timing):
            file.truncate(self.step if self.restored else -1)
        self.board = (
            TensorBoardLog(folder, self.step if self.restored else None) if config.tensorboard else None
        )
        self.clock = time.perf_counter()

    def advance(self) -> StepReport:
        """One training step."""
        report = self.solver.step(self.problem.objective(self.model, self.step), self.optimizer)
        self.step += 1
        if self.scheduler and self.step % self.scheduler_every == 0:
            self.scheduler.step()
        if self.averaging:
            self.averaging.update(self.step)
        return report

    def record(self, meter: _Meter | None) -> None:
        """Evaluate, add a line to the results, then write the checkpoint that stands for it."""
        seconds = time.perf_counter() - self.clock
        names = self.problem.source_names
        scores, averaged = self._evaluate()
        record = {
            "step": self.step,
            "epoch": self.step / self.problem.steps_per_epoch,
            **(meter.summary(names) if meter else {"losses": None, "weights": None, "solver": {}}),
            "cosine": self.problem.cosine(self.model) if self.trainer.config.evaluation.cosine else None,
            **scores,
        }
        self.results.append(record)
        self.timing.append({"step": self.step, "training_seconds": seconds})
        if self.board:
            self.board.write(record)
        save_checkpoint(
            self.path,
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict() if self.scheduler else None,
                "solver": self.solver.state_dict(),
                "averaging": self.averaging.state_dict() if self.averaging else None,
                "averaged": averaged.state_dict() if averaged else None,
            },
        )
        self.clock = time.perf_counter()

    def close(self) -> None:
        if self.board:
            self.board.close()

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
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler:
                self.scheduler.load_state_dict(state["scheduler"])
            self.solver.load_state_dict(state["solver"])
            if self.averaging:
                self.averaging.load_state_dict(state["averaging"])
            restore_random_state(state)
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


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"{name!r}, but torch finds no CUDA device here; allowed: auto, cpu", ("device",))
    return torch.device(name)


def _means(values: list[Tensor], names: list[str]) -> dict[str, float]:
    return dict(zip(names, torch.stack(values).double().mean(0).tolist(), strict=True))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
