"""What the steps of a training spend time and memory on, by ``torch.profiler``."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile, schedule

from .files import atomic_write

TRACE, TABLE = "trace.json.gz", "operators.txt"
WARM_UP = 3  # steps that are left out: allocators, cuDNN's choices and the profiler itself start slowly
ROWS = 30


class StepProfile:
    """Profiles some steps of a training, which are the same with and without.

    A context manager; after the last of the steps, or where the training ends before it, the trace
    (``trace.json.gz``, for Perfetto or chrome://tracing) and a table of operators are written.

    Args:
        folder: where to.
        steps: how many steps; 0: none, nothing is written.
        remaining: steps that the training still has; of few, the first ones are no warm-up.
        model: its forwards get the range "forward".
        optimizer: its steps get the range "optimizer".
    """

    def __init__(
        self, folder: Path, steps: int, remaining: int, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self._active = min(steps, remaining)
        self._warm_up = min(WARM_UP, remaining - self._active)
        self._left = self._warm_up + self._active if self._active else 0
        self._folder = folder
        self._model, self._optimizer = model, optimizer
        self._stack = ExitStack()
        self._profile: Any = None

    def __enter__(self) -> StepProfile:
        if self._left:
            device = next(self._model.parameters()).device.type
            kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
            self._profile = self._stack.enter_context(
                profile(
                    activities=kinds,
                    schedule=schedule(wait=0, warmup=self._warm_up, active=self._active, repeat=1),
                    on_trace_ready=partial(_write, folder=self._folder),
                    profile_memory=True,
                )
            )
            self._name_ranges()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def step(self) -> None:
        """To be called after every training step."""
        if self._left:
            self._profile.step()
            self._left -= 1
            if not self._left:
                self._stack.close()

    def range(self, name: str) -> AbstractContextManager[Any]:
        """A range of the trace; free where nothing is profiled; torch's own costs 20 microseconds."""
        return record_function(name) if self._left else nullcontext()

    def _name_ranges(self) -> None:
        """Ranges "forward" and "optimizer", by hooks that are there while profiling only."""
        forward, step = _Range("forward"), _Range("optimizer")
        model, optimizer = self._model, self._optimizer
        for handle in (
            model.register_forward_pre_hook(forward.begin),
            model.register_forward_hook(forward.end, always_call=True),
            optimizer.register_step_pre_hook(step.begin),
            optimizer.register_step_post_hook(step.end),
        ):
            self._stack.callback(handle.remove)


class _Range:
    """A named range of the trace that begins in one hook and ends in another."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._open: list[Any] = []

    def begin(self, *_: Any) -> None:
        self._open.append(record_function(self.name))
        self._open[-1].__enter__()

    def end(self, *_: Any) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)


def _write(found: profile, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / TRACE
        found.export_chrome_trace(str(path))
        atomic_write(folder / TRACE, path.read_bytes())
    averages = found.key_averages()
    where = "device" if ProfilerActivity.CUDA in found.activities else "cpu"
    tables = {
        title: averages.table(sort_by=f"self_{where}_{what}", row_limit=ROWS, max_name_column_width=60)
        for title, what in (("time", "time_total"), ("memory", "memory_usage"))
    }
    text = "\n".join(f"The operators with the most {title} of their own\n{t}" for title, t in tables.items())
    atomic_write(folder / TABLE, text)
