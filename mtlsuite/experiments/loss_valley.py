"""LossValley: which stretch of training SWAD averages over, told by validation losses alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Segment:
    """The mean of the weights of some consecutive steps.

    Attributes:
        number: counted from 1.
        loss: validation loss of ``weights``.
        steps: how many weights it is the mean of.
        weights: the mean, by name.
        buffers: what is not averaged (statistics, counters), as it was at the end.
    """

    number: int
    loss: float
    steps: int
    weights: Weights
    buffers: Weights


class LossValley:
    """Finds the valley of the validation loss and averages the segments inside it, weighted by their steps.

    With N_s = ``n_converge``, N_e = ``n_tolerance``, r = ``tolerance_ratio`` and the losses l_1, l_2, ... of
    the segments:

    * it has converged at the first t where l_c, c = t - N_s + 1, is the smallest of the last N_s losses;
      from then on the threshold is (1 + r) times their mean (for losses below 0: the mean + r |mean|);
    * the valley starts after the last of the segments t - N_e + 1, ..., c whose loss is above the
      threshold, or with the first of them;
    * it ends with segment t' - N_e at the first t' > t where the last N_e losses are all above the
      threshold; until then it reaches to the last segment.

    A NaN is above every threshold and never the smallest. Of the segments, at most N_e are kept, on the CPU,
    and the sum of those before them, in float64.

    Cha et al., "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021, Algorithm 1.

    Args:
        n_converge: N_s, at least 1.
        n_tolerance: N_e, at least N_s.
        tolerance_ratio: r, at least 0.

    Attributes:
        segments: how many were added before the valley closed.
        threshold: None until it has converged.
        first: number of the segment in which the valley starts; None until it has converged.
        last: number of the segment in which it ended; None until then.
    """

    def __init__(self, n_converge: int = 3, n_tolerance: int = 6, tolerance_ratio: float = 0.3) -> None:
        self.n_converge, self.n_tolerance, self.tolerance_ratio = n_converge, n_tolerance, tolerance_ratio
        self.segments = 0
        self.threshold: float | None = None
        self.first: int | None = None
        self.last: int | None = None
        self._window: deque[Segment] = deque()
        self._steps = 0  # of the segments that left the window for the sum
        self._sum: Weights = {}
        self._buffers: Weights = {}

    @property
    def converged(self) -> bool:
        """Whether the valley has started."""
        return self.first is not None

    @property
    def closed(self) -> bool:
        """Whether the valley has ended."""
        return self.last is not None

    @property
    def steps(self) -> int:
        """Over how many steps :meth:`average` averages."""
        return self._steps + sum(segment.steps for segment in self._inside())

    def add(self, loss: float, steps: int, weights: Weights, buffers: Weights | None = None) -> None:
        """Take in the next segment; copies are made. Nothing happens once the valley has closed.

        Args:
            loss: validation loss.
            steps: how many weights ``weights`` is the mean of.
            weights: tensors by name, the same names each time.
            buffers: taken over from the last segment inside the valley.
        """
        if self.closed:
            return
        self.segments += 1
        self._window.append(Segment(self.segments, loss, steps, _copied(weights), _copied(buffers or {})))
        if self.converged:
            self._follow()
        else:
            self._look_for_convergence()

    def average(self) -> tuple[Weights, Weights] | None:
        """The weights (float64) as if training ended now, and the buffers that go with them.

        The mean over the valley so far; over the last segment alone while nothing has converged; None
        before the first segment.
        """
        inside = self._inside()
        if not self.steps:
            return None
        total = dict(self._sum)
        for segment in inside:
            total = _plus(total, segment)
        mean = {name: value / self.steps for name, value in total.items()}
        return mean, inside[-1].buffers if inside else self._buffers

    def state_dict(self) -> dict[str, Any]:
        """Everything, for an exact resume."""
        return {
            "segments": self.segments,
            "threshold": self.threshold,
            "first": self.first,
            "last": self.last,
            "window": [dict(vars(segment)) for segment in self._window],
            "steps": self._steps,
            "sum": self._sum,
            "buffers": self._buffers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            KeyError, TypeError: it is not such a state.
        """
        self.segments, self.threshold = state["segments"], state["threshold"]
        self.first, self.last = state["first"], state["last"]
        copied = [
            {**s, "weights": _copied(s["weights"]), "buffers": _copied(s["buffers"])} for s in state["window"]
        ]
        self._window = deque(Segment(**segment) for segment in copied)
        self._steps, self._sum, self._buffers = (
            state["steps"],
            _copied(state["sum"]),
            _copied(state["buffers"]),
        )

    def _look_for_convergence(self) -> None:
        while len(self._window) > self.n_tolerance:
            self._window.popleft()
        before = len(self._window) - self.n_converge
        recent = [segment.loss for segment in self._window][before:] if before >= 0 else []
        if not recent or not all(recent[0] <= loss for loss in recent):
            return
        mean = sum(recent) / len(recent)
        # Rounding may put a mean of equal numbers below them.
        self.threshold = max(mean + self.tolerance_ratio * abs(mean), recent[0])
        candidates = list(self._window)[: before + 1]
        above = [segment.number for segment in candidates if self._above(segment)]
        self.first = above[-1] + 1 if above else candidates[0].number
        while self._window[0].number < self.first:
            self._window.popleft()

    def _follow(self) -> None:
        if len(self._window) > self.n_tolerance:
            oldest = self._window.popleft()
            self._sum, self._buffers = _plus(self._sum, oldest), oldest.buffers
            self._steps += oldest.steps
        # A shorter window still holds the segment of the convergence, which is not above.
        if all(map(self._above, self._window)):
            self.last = self.segments - self.n_tolerance
            self._window.clear()

    def _above(self, segment: Segment) -> bool:
        assert self.threshold is not None
        return not segment.loss <= self.threshold

    def _inside(self) -> list[Segment]:
        """The segments in the window that :meth:`average` counts."""
        return list(self._window) if self.converged else list(self._window)[-1:]


def _plus(total: Weights, segment: Segment) -> Weights:
    added = {name: segment.steps * value.double() for name, value in segment.weights.items()}
    return {name: total[name] + value if total else value for name, value in added.items()}


def _copied(tensors: Weights) -> Weights:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
