"""Time and memory of one call beside others: what the benchmarks measure with.

Times are compared within a round, in which every way is called once, so that whatever slows the machine down
for a while slows down all of them. Memory is that of tensors, not of the process: on a GPU as its allocator
counts it, on a CPU as torch's profiler sees each block come and go.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mtlsuite as mtl

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its own start and stop otherwise

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of a ratio over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    repeats: int = 7,
    warmup: int = 2,
    device: torch.device | str = CPU,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every way in each of ``repeats`` rounds.

    A round calls each way once; the next round begins with another way. Garbage is collected between the
    rounds only.

    Args:
        ways: name -> what is to be timed.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        device: on a GPU the time is between two CUDA events, the device idle before the first.
        after_round: called after each round, warm-up included.

    Returns:
        name -> one time a round; entry r of all lists is of the same round.
    """
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    clock = _clock(torch.device(device))
    collecting = gc.isenabled()
    try:
        gc.disable()
        gc.freeze()  # a collection then looks at the garbage of a round alone, not at every module
        for number in range(warmup + repeats):
            gc.collect()
            first = number % max(len(names), 1)
            for name in names[first:] + names[:first]:
                seconds = clock(ways[name])
                if number >= warmup:
                    times[name].append(seconds)
            after_round()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return times


def median_ratio(times: Mapping[str, Sequence[float]], of: str, to: str) -> Ratio:
    """The time of one way as a multiple of another's, taken within each round of :func:`interleaved`."""
    ratios = np.asarray(times[of]) / np.asarray(times[to])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return Ratio(float(median), float(low), float(high))


def peak_bytes(step: Callable[[], object], device: torch.device | str = CPU) -> int:
    """The most tensor memory in use at once during one call of ``step``, above what was in use before it.

    On a CPU only blocks that come during the call count, so the freeing of one that was there before makes no
    room for others. Memory that torch did not allocate (NumPy's) does not count on any device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.experimental_event_tree()
    return _peak(sorted(_allocations(events)))


def machine(device: torch.device | str = CPU) -> str:
    """Processor, threads and version of torch; the GPU's name where the device is one."""
    device = torch.device(device)
    parts = [_processor(), f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    if device.type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _clock(device: torch.device) -> Callable[[Callable[[], object]], float]:
    if device.type != "cuda":
        return _wall_seconds

    def seconds(call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1000

    return seconds


def _wall_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak(changes: Iterable[tuple[int, int, int]]) -> int:
    """The most bytes in use after any of the changes (time, address, bytes), of blocks that came with one."""
    blocks: dict[int, int] = {}
    in_use = peak = 0
    for _, address, size in changes:
        if size > 0:
            blocks[address] = size
            in_use += size
            peak = max(peak, in_use)
        else:
            in_use -= blocks.pop(address, 0)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """(time, address, bytes) of every block that came (bytes > 0) or went (< 0)."""
    pending = list(events)
    while pending:
        event = pending.pop()
        pending += event.children
        if str(event.tag).endswith("Allocation"):
            yield event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size


def available(
    names: Sequence[str], make: Callable[[str], object], tell: Callable[[str], object]
) -> list[str]:
    """The methods that can be made here; of the others ``tell`` hears the reason."""
    found = []
    for name in names:
        try:
            make(name)
            found.append(name)
        except (mtl.UsageError, ImportError) as error:
            tell(f"left out: {name} ({error})")
    return found


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
