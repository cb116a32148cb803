"""Averages of weights: against closed forms, by hand, by brute force, and through whole runs."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import DIGITS, VIEWS, error_message, run, scenes, without_report, write
from torch import Tensor, nn
from torch.nn import functional as F

from mtlsuite.core.errors import UsageError
from mtlsuite.experiments.averaging import RunningAverage, Swad, make_averaging
from mtlsuite.experiments.config import validate
from mtlsuite.experiments.loss_valley import LossValley
from mtlsuite.experiments.parts import EmaConfig, SwaConfig
from mtlsuite.experiments.problem import Problem
from mtlsuite.experiments.results import load_records
from mtlsuite.experiments.trainer import Trainer

CPU = torch.device("cpu")
NORMED: dict[str, Any] = {
    **DIGITS,
    "domains": ["0", "15"],
    "held_out": [],
    "model": {"name": "convnet", "widths": [4, 4], "norm": "batch"},
    "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.9},
    "train": {"steps": 12, "batch_size": 8},
    "evaluation": {"every": 1, "cosine": False},
}
NARROW = {"name": "swad", "n_converge": 2, "n_tolerance": 2, "tolerance_ratio": 0.0, "batch_norm_steps": 2}


class Scripted(nn.Module):
    """One parameter, a statistic and a counter, all set by hand."""

    statistic: Tensor
    counter: Tensor

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=dtype))
        self.register_buffer("statistic", torch.tensor(-math.inf))
        self.register_buffer("counter", torch.tensor(0))

    def set(self, *values: float) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.tensor(values))
        self.counter += 1


def nothing(model: nn.Module) -> float:
    raise AssertionError(f"nobody asked for the loss of {model}")


# --- EMA and SWA ------------------------------------------------------------------------------------------


def test_ema_by_hand() -> None:
    model = Scripted()
    average = RunningAverage(model, decay=0.5)
    assert average.model() is None
    assert average.evaluate(nothing) is None
    #                8       (8+4)/2  (6+2)/2  (4+10)/2
    for step, (weight, mean) in enumerate([(8, 8), (4, 6), (2, 4), (10, 7)], start=1):
        model.set(weight, -weight)
        average.update(step)
        averaged = average.model()
        assert isinstance(averaged, Scripted)
        assert averaged.weight.tolist() == [mean, -mean]
        assert averaged.counter == step, "integers are copied"
        assert averaged.statistic == -math.inf, "and so are other buffers"
        assert average.evaluate(nothing) == {"weights": step}
    assert model.weight.tolist() == [10, -10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ema_in_closed_form(dtype: torch.dtype) -> None:
    model, decay, draw = Scripted(dtype), 0.9, random.Random(0)
    weights = [draw.uniform(-1, 1) for _ in range(30)]
    average = RunningAverage(model, after=5, every=2, decay=decay)
    for step, weight in enumerate(weights, start=1):
        model.set(weight, 0)
        average.update(step)
    used = weights[6::2]  # after the steps 7, 9, ...
    n = len(used)
    closed = decay ** (n - 1) * used[0]
    closed += (1 - decay) * sum(decay ** (n - i) * used[i - 1] for i in range(2, n + 1))
    averaged = average.model()
    assert isinstance(averaged, Scripted)
    assert averaged.weight.dtype == dtype
    assert averaged.weight[0].item() == pytest.approx(closed, rel=1e-5 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize(("start", "every"), [(0.0, 1), (0.75, 1), (0.3, 3), (0.29, 1)])
def test_swa_is_the_plain_mean_after_the_start(start: float, every: int) -> None:
    model, steps, draw = Scripted(), 100, random.Random(1)
    average = make_averaging(SwaConfig(name="swa", start=start, every=every), model, steps)
    used = []
    for step in range(1, steps + 1):
        model.set(draw.uniform(-1, 1), step)
        average.update(step)
        if 100 * step > round(100 * start) * steps and (step - round(steps * start)) % every == 0:
            used.append(model.weight.tolist())
        assert (average.model() is None) == (not used)
    averaged = average.model()
    assert isinstance(averaged, Scripted)
    assert averaged.weight.tolist() == pytest.approx(
        [sum(w) / len(w) for w in zip(*used, strict=True)], rel=1e-5
    )
    assert average.evaluate(nothing) == {"weights": len(used)}


def test_an_average_of_no_weights_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"found 6; allowed: at most 5, the steps that start: 0\.5 leaves of 10"
    ):
        make_averaging(EmaConfig(name="ema", start=0.5, every=6), Scripted(), 10)


def test_a_low_precision_is_refused() -> None:
    with pytest.raises(UsageError, match=r"in float32 or float64; the parameter 'weight' is torch.bfloat16"):
        RunningAverage(Scripted(torch.bfloat16))


# --- LossValley -------------------------------------------------------------------------------------------

Curve = list[float]


def fed(losses: Curve, steps: list[int] | None = None, **options: Any) -> LossValley:
    """A valley fed with segments of the weights 2^0, 2^1, ..., whose mean tells who is in it."""
    valley = LossValley(**options)
    for i, loss in enumerate(losses):
        valley.add(loss, steps[i] if steps else 1, {"w": torch.tensor([2.0**i])}, {"n": torch.tensor(i + 1)})
    return valley


def mean_of(valley: LossValley) -> float:
    average = valley.average()
    assert average is not None
    return float(average[0]["w"])


def test_nothing_before_the_first_segment() -> None:
    assert LossValley().average() is None
    assert not LossValley().converged


def test_a_falling_loss_never_converges() -> None:
    valley = fed([9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert not valley.converged
    assert valley.threshold is None
    assert (mean_of(valley), valley.steps) == (2**8, 1), "the last segment alone"


def test_a_valley_opens_and_closes() -> None:
    # Of 1, 2, 2 the oldest is the smallest, so it has converged at segment 6: threshold 1.3 * 5 / 3 = 2.17.
    # Of the 6 - 3 + 1 segments 5, 4, 3, 1 up to there the third is the last above it: start at segment 4.
    valley = fed([5, 4, 3, 1, 2, 2])
    assert valley.threshold == pytest.approx(2.1667, abs=1e-4)
    assert (valley.first, valley.closed) == (4, False)
    assert mean_of(valley) == (8 + 16 + 32) / 3
    # Five high ones: the last six still hold segment 6. While it is open, it reaches to the last.
    valley = fed([5, 4, 3, 1, 2, 2, 9, 9, 9, 9, 9])
    assert not valley.closed
    assert mean_of(valley) == pytest.approx(sum(2**i for i in range(3, 11)) / 8)
    # The sixth closes it before the first of the six.
    valley = fed([5, 4, 3, 1, 2, 2, 9, 9, 9, 9, 9, 9])
    assert (valley.first, valley.last) == (4, 6)
    assert mean_of(valley) == (8 + 16 + 32) / 3
    # What comes later has no say.
    valley = fed([5, 4, 3, 1, 2, 2, 9, 9, 9, 9, 9, 9, 1, 1])
    assert (valley.first, valley.last, valley.segments) == (4, 6, 12)
    assert mean_of(valley) == (8 + 16 + 32) / 3


def test_a_hill_that_is_too_short_lies_in_the_valley() -> None:
    # Five above 2.17, one at 2, five above: never six in a row.
    valley = fed([5, 4, 3, 1, 2, 2, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9, 9])
    assert not valley.closed
    assert mean_of(valley) == pytest.approx(sum(2**i for i in range(3, 17)) / 14)


def test_the_start_reaches_back_to_the_window() -> None:
    # 1, 1.9, 1.9: threshold 1.3 * 1.6 = 2.08, and nobody among the four is above.
    assert fed([2, 1.9, 1.8, 1, 1.9, 1.9]).first == 1
    assert fed([2, 2, 1.9, 1.8, 1, 1.9, 1.9]).first == 2, "the segments 2 to 5 are looked at"
    # With N_e = N_s only the oldest of the three itself.
    assert fed([2, 1.9, 1.8, 1, 1.9, 1.9], n_tolerance=3).first == 4


def test_a_high_segment_pushes_the_start() -> None:
    # 1.3, 1.6, 1.6: threshold 1.3 * 1.5 = 1.95; of 1.5, 9, 1.4, 1.3 the second is above.
    valley = fed([1.5, 9, 1.4, 1.3, 1.6, 1.6])
    assert valley.first == 3
    assert mean_of(valley) == (4 + 8 + 16 + 32) / 4


def test_the_first_three_can_converge() -> None:
    # 1, 2, 2 at once; six high ones close it right after them.
    valley = fed([1, 2, 2, 9, 9, 9, 9, 9, 9])
    assert (valley.first, valley.last) == (1, 3)
    assert mean_of(valley) == (1 + 2 + 4) / 3


@pytest.mark.parametrize(("ratio", "last"), [(0.3, 3), (0.49, 3), (0.51, None)])
def test_the_tolerance_decides(ratio: float, last: int | None) -> None:
    # The mean is 5 / 3, so 2.5 is above the threshold up to a ratio of 0.5.
    assert fed([1, 2, 2, *[2.5] * 6], tolerance_ratio=ratio).last == last


def test_equal_losses_converge_and_stay() -> None:
    # As the smallest, the oldest may share; (0.1 + 0.1 + 0.1) / 3 is not 0.1, which must not close it.
    for loss in (0.1, 0.7, 1 / 3, -0.1):
        valley = fed([loss] * 12, tolerance_ratio=0.0)
        assert (valley.first, valley.last, valley.steps) == (1, None, 12)


def test_losses_below_zero_have_a_threshold_above_their_mean() -> None:
    # -4, -2, -3: mean -3, threshold -3 + 0.5 * 3 = -1.5
    valley = fed([-4, -2, -3, *[-1.4] * 6], tolerance_ratio=0.5)
    assert (valley.threshold, valley.last) == (-1.5, 3)


def test_nan_is_above_and_never_the_smallest() -> None:
    assert not fed([math.nan, 1, 1]).converged
    assert not fed([1, math.nan, 1]).converged
    assert fed([1, 2, 2, *[math.nan] * 6]).last == 3


def test_segments_count_by_their_steps() -> None:
    # (4 * 1 + 4 * 2 + 4 * 4 + 2 * 8) / 14
    valley = fed([1, 2, 2, 2], steps=[4, 4, 4, 2])
    assert mean_of(valley) == 44 / 14
    assert valley.steps == 14
    average = valley.average()
    assert average is not None
    assert average[1]["n"] == 4, "of the last segment inside"
    closed = fed([1, 2, 2, *[9] * 6]).average()
    assert closed is not None
    assert closed[1]["n"] == 3


def searched(losses: Curve, n_s: int, n_e: int, ratio: float) -> tuple[int | None, int | None]:
    """First and last segment of the valley, found by looking at the whole curve: ``losses[k - 1]`` is l_k."""

    def loss(k: int) -> float:
        return losses[k - 1]

    total = len(losses)
    ends = [t for t in range(n_s, total + 1) if loss(t - n_s + 1) == min(losses[t - n_s : t])]
    if not ends:
        return None, None
    t = ends[0]
    threshold = (1 + ratio) * sum(losses[t - n_s : t]) / n_s
    looked_at = [k for k in range(t - n_e + 1, t - n_s + 2) if k >= 1]
    first = looked_at[0]
    while any(loss(k) > threshold for k in looked_at if k >= first):
        first += 1
    closing = [u for u in range(t + 1, total + 1) if u >= n_e and min(losses[u - n_e : u]) > threshold]
    return first, closing[0] - n_e if closing else None


# eighths: sums and means of them are exact enough to compare with the threshold
CURVES = st.lists(st.integers(1, 60).map(lambda n: n / 8), max_size=40)


@given(CURVES, st.integers(1, 4), st.integers(0, 4), st.sampled_from([0.0, 0.25, 0.5]), st.randoms())
def test_valleys_as_found_by_brute_force(
    losses: Curve, n_s: int, more: int, ratio: float, draw: random.Random
) -> None:
    n_e = n_s + more
    steps = [draw.randint(1, 9) for _ in losses]
    weights = [draw.randint(-1000, 1000) for _ in losses]
    valley = LossValley(n_s, n_e, ratio)
    for k in range(1, len(losses) + 1):
        valley.add(losses[k - 1], steps[k - 1], {"w": torch.tensor(float(weights[k - 1]))})
        first, last = searched(losses[:k], n_s, n_e, ratio)
        assert (valley.first, valley.last) == (first, last)
        inside = range((first or k) - 1, last or k)
        mean = Fraction(sum(steps[i] * weights[i] for i in inside), sum(steps[i] for i in inside))
        assert mean_of(valley) == pytest.approx(float(mean), rel=1e-12)
        state = valley.state_dict()
        assert len(state["window"]) <= n_e, "memory is bounded"
        valley = LossValley(n_s, n_e, ratio)
        valley.load_state_dict(state)


def test_swad_makes_segments_of_the_steps_between_evaluations() -> None:
    model = Scripted()
    valley = LossValley(n_converge=2, n_tolerance=2, tolerance_ratio=0.0)
    average = Swad(model, valley)
    assert average.evaluate(nothing) is None
    assert average.model() is None
    losses = iter([5.0, 7.0, 6.0])
    seen: list[list[float]] = []

    def loss(mean: nn.Module) -> float:
        assert isinstance(mean, Scripted)
        seen.append(mean.weight.tolist())
        mean.set(99, 99)  # it is a copy
        return next(losses)

    reports = []
    for step in range(1, 9):
        model.set(step, 2 * step)
        average.update(step)
        if step in (3, 6, 8):
            reports.append(average.evaluate(loss))
    assert seen == [[2, 4], [5, 10], [7.5, 15]]
    # 5 <= 7: converged, threshold 6, which the third does not exceed; 3 + 3 + 2 steps
    averaged = average.model()
    assert isinstance(averaged, Scripted)
    assert averaged.weight.tolist() == pytest.approx(
        [(3 * 2 + 3 * 5 + 2 * 7.5) / 8, (3 * 4 + 3 * 10 + 2 * 15) / 8]
    )
    assert averaged.counter == 8
    assert averaged.weight.dtype == torch.float32
    assert reports[0] == {
        "validation_loss": 5.0,
        "threshold": None,
        "converged": False,
        "closed": False,
        "first_segment": 1,
        "last_segment": 1,
        "weights": 3,
    }
    assert reports[2] == {
        "validation_loss": 6.0,
        "threshold": 6.0,
        "converged": True,
        "closed": False,
        "first_segment": 1,
        "last_segment": 3,
        "weights": 8,
    }


# --- what the averaged model needs of the problem ---------------------------------------------------------


def by_hand(problem: Problem, model: nn.Module, steps: int, separate: bool) -> list[tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of every BatchNorm layer, averaged over the forwards of some steps."""
    seen: dict[int, list[Tensor]] = {}
    model = copy.deepcopy(model).train()
    for i, layer in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        layer.register_forward_pre_hook(lambda _, args, i=i: seen.setdefault(i, []).append(args[0]))
    for step in range(steps):
        inputs = [x for x, _ in problem.objective(model, step).minibatches]  # type: ignore[attr-defined]
        for batch in inputs if separate else [torch.cat(inputs)]:
            model(batch)
    found = []
    for values in seen.values():
        channels = [v.transpose(0, 1).flatten(1).double() for v in values]
        means = torch.stack([c.mean(1) for c in channels])
        variances = torch.stack([((c - c.mean(1, True)) ** 2).sum(1) / (c.shape[1] - 1) for c in channels])
        found.append((means.mean(0), variances.mean(0)))
    return found


@pytest.mark.parametrize("graph", ["joint", "separate"])
@pytest.mark.parametrize("steps", [None, 3])
def test_batch_norm_statistics_by_hand(graph: str, steps: int | None) -> None:
    data = {"name": "rotated_digits"}
    problem = Problem(
        validate({**NORMED, "data": data, "graph": graph, "train": {"steps": 1, "batch_size": 64}}), CPU
    )
    model = problem.model()
    before = copy.deepcopy(model.state_dict())
    expected = by_hand(problem, model, steps or problem.steps_per_epoch, separate=graph == "separate")
    state = torch.get_rng_state()
    problem.recompute_batch_norm(model, steps)
    assert torch.equal(torch.get_rng_state(), state)
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == len(expected) == 2
    for layer, (mean, variance) in zip(layers, expected, strict=True):
        assert layer.momentum == 0.1
        torch.testing.assert_close(layer.running_mean, mean.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, variance.float(), rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


class Frozen(nn.Module):
    """A layer of BatchNorm that is never trained, one that is, and dropout before it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(1)
        self.moving = nn.BatchNorm2d(1)
        self.head = nn.Linear(256, 10)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        normed = self.moving(F.dropout(self.frozen(inputs), training=self.training))
        return {"class": self.head(normed.flatten(1))}


def test_frozen_batch_norm_stays_and_dropout_draws_apart() -> None:
    problem = Problem(validate(NORMED), CPU)
    model = Frozen()
    model.frozen.running_mean.fill_(0.25)
    state = torch.get_rng_state()
    problem.recompute_batch_norm(model, 2)
    assert model.frozen.running_mean.item() == 0.25
    assert model.moving.num_batches_tracked == 2
    assert torch.equal(torch.get_rng_state(), state)
    again = copy.deepcopy(model)
    problem.recompute_batch_norm(again, 2)
    assert torch.equal(again.moving.running_var, model.moving.running_var), (
        "the same draws from the same state"
    )


def test_views_are_what_the_statistics_are_of() -> None:
    model = {"name": "convnet", "widths": [4], "norm": "batch"}
    problem = Problem(validate({**VIEWS, "model": model}), CPU)
    model = problem.model()
    [(mean, _)] = by_hand(problem, model, 2, separate=False)
    problem.recompute_batch_norm(model, 2)
    [layer] = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(layer.running_mean, mean.float(), rtol=1e-4, atol=1e-5)


def test_validation_loss_by_hand() -> None:
    evaluation = {"every": 1, "batch_size": 7}
    problem = Problem(validate({**NORMED, "evaluation": evaluation, "sources": "tasks"}), CPU)
    model = problem.model().train()
    means = []
    for domain in ("0", "15"):
        split = problem.dataset.split(domain, "val")
        inputs, labels = (
            torch.stack([split[i][0] for i in range(len(split))]),
            [split[i][1] for i in range(len(split))],
        )
        prediction = copy.deepcopy(model).eval()(inputs)["class"]
        means.append(F.cross_entropy(prediction, torch.stack([label["class"] for label in labels])).item())
    assert problem.validation_loss(model) == pytest.approx(sum(means) / 2, rel=1e-5)
    assert model.training


def test_validation_loss_sums_the_tasks(tmp_path: Path) -> None:
    problem = Problem(validate({**scenes(tmp_path), "evaluation": {"batch_size": 4}}), CPU)
    model = problem.model()
    alone = [Problem(validate({**problem.config.resolved(), "tasks": [task]}), CPU) for task in problem.tasks]
    losses = [each.validation_loss(model) for each in alone]
    assert problem.validation_loss(model) == pytest.approx(sum(losses), rel=1e-6)


# --- whole runs -------------------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818
    """No mistake."""


def trained(
    values: dict[str, Any], folder: Path, at: Callable[[int], None] = lambda _: None, resume: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records and checkpoint of a run; ``at`` is called with every number of steps done."""
    folder.mkdir(exist_ok=True)
    Trainer(validate(values)).run(folder, resume, at)
    return load_records(folder / "results.jsonl"), torch.load(folder / "checkpoint.pt", weights_only=True)


AVERAGINGS: dict[str, Any] = {
    "ema": {"name": "ema", "decay": 0.7, "start": 0.2, "every": 3, "batch_norm_steps": 2},
    "ema, copied": {"name": "ema", "decay": 0.7, "batch_norm": "copy"},
    "swa": {"name": "swa", "start": 0.3, "batch_norm_steps": 2},
    "swad": NARROW,
    "swad, wide": {
        "name": "swad",
        "n_converge": 1,
        "n_tolerance": 2,
        "tolerance_ratio": 1e6,
        "batch_norm": "copy",
    },
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[dict[str, Tensor]]]:
    """A run that averages nothing: its records, and the state of its model after every step from 0 on."""
    folder, states = tmp_path_factory.mktemp("plain"), []

    def keep(_: int) -> None:
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True)["model"])

    records, state = trained(NORMED, folder, keep)
    assert state["averaging"] is None
    assert state["averaged"] is None
    assert all(set(record) & {"raw_metrics", "averaging"} == set() for record in records)
    return records, states


@pytest.mark.parametrize("averaging", AVERAGINGS.values(), ids=AVERAGINGS.keys())
def test_a_run_and_its_checkpoint(tmp_path: Path, plain: Any, averaging: dict[str, Any]) -> None:
    values = {**NORMED, "averaging": averaging}
    records, state = trained(values, tmp_path / "run")
    for record, without in zip(records, plain[0], strict=True):
        assert record["raw_metrics"] == without["metrics"]
        assert {**record, "metrics": 0} == {
            **without, "metrics": 0, "raw_metrics": record["raw_metrics"], "averaging": record["averaging"],
        }  # fmt: skip
        if record["averaging"] is None:
            assert record["metrics"] == record["raw_metrics"]
    for name, tensor in plain[1][-1].items():
        assert torch.equal(state["model"][name], tensor)
    assert records[0]["averaging"] is None
    assert records[-1]["averaging"] is not None
    assert any(r["metrics"] != r["raw_metrics"] for r in records)

    problem = Trainer(validate(values)).problem
    model = problem.model()
    model.load_state_dict(state["averaged"])
    assert problem.evaluate(model) == records[-1]["metrics"]
    model.load_state_dict(state["model"])
    assert problem.evaluate(model) == records[-1]["raw_metrics"]


def averaged_parameters(states: list[dict[str, Tensor]], model: nn.Module) -> dict[str, Tensor]:
    names = [name for name, _ in model.named_parameters()]
    return {name: torch.stack([state[name].double() for state in states]).mean(0) for name in names}


def test_swa_of_a_run_is_the_mean_of_its_weights(tmp_path: Path, plain: Any) -> None:
    values = {**NORMED, "averaging": {"name": "swa", "start": 0.5, "batch_norm": "copy"}}
    records, state = trained(values, tmp_path / "run")
    expected = averaged_parameters(plain[1][7:], Trainer(validate(values)).problem.model())
    for name, tensor in expected.items():
        torch.testing.assert_close(state["averaged"][name], tensor.float(), rtol=1e-5, atol=1e-6)
    assert [r["averaging"] for r in records] == [None] * 7 + [{"weights": n} for n in range(1, 7)]
    for name, tensor in state["averaged"].items():
        if name not in expected:
            assert torch.equal(tensor, state["model"][name]), "statistics are copied"


@pytest.mark.parametrize("every", [2, 5])
def test_swad_of_a_run_computed_a_second_way(tmp_path: Path, plain: Any, every: int) -> None:
    values = {**NORMED, "averaging": {**NARROW, "n_tolerance": 3}, "evaluation": {"every": every}}
    records, state = trained(values, tmp_path / "run")
    problem = Trainer(validate(values)).problem
    ends = [*range(every, 12, every), 12]
    segments = [plain[1][a + 1 : b + 1] for a, b in zip([0, *ends], ends, strict=False)]
    losses = []
    for segment in segments:
        model = problem.model()
        model.load_state_dict(averaged_parameters(segment, model), strict=False)
        problem.recompute_batch_norm(model, 2)
        losses.append(problem.validation_loss(model))
    measured = [record["averaging"]["validation_loss"] for record in records[1:]]
    known = [loss for loss in measured if loss is not None]  # nothing is measured once the valley is closed
    assert known == pytest.approx(losses[: len(known)], rel=1e-4)
    first, last = searched(losses, 2, 3, 0.0)
    report = records[-1]["averaging"]
    assert (report["converged"], report["closed"]) == (first is not None, last is not None)
    inside = segments[(first or len(losses)) - 1 : last]
    assert report["weights"] == sum(map(len, inside))
    model = problem.model()
    for name, tensor in averaged_parameters([s for segment in inside for s in segment], model).items():
        torch.testing.assert_close(state["averaged"][name], tensor.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("averaging", AVERAGINGS.values(), ids=AVERAGINGS.keys())
def test_a_resumed_run_is_bit_exact(tmp_path: Path, averaging: dict[str, Any]) -> None:
    values = {**NORMED, "averaging": averaging, "evaluation": {"every": 2, "cosine": False}}
    values |= {"train": {"steps": 17, "batch_size": 8}}

    def kill(step: int) -> Callable[[int], None]:
        def at(done: int) -> None:
            if done == step:
                raise Killed

        return at

    _, whole = trained(values, tmp_path / "whole")
    for step in (3, 8, 13):  # one run that is killed again and again
        with pytest.raises(Killed):
            trained(values, tmp_path / "killed", kill(step), resume=True)
    _, state = trained(values, tmp_path / "killed", resume=True)
    files = [(tmp_path / name / "results.jsonl").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    last = json.loads(files[0].splitlines()[-1])["averaging"]
    if averaging["name"] == "swad":
        wide = (averaging["tolerance_ratio"] > 1, last["closed"], last["weights"])
        assert not wide[0] or wide[1:] == (False, 17), "six segments of it are in the sum"
    assert whole["averaged"].keys() == state["averaged"].keys()
    for name, tensor in whole["averaged"].items():
        assert torch.equal(tensor, state["averaged"][name])


# --- the door ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("averaging", "message"),
    [
        ("emo", "averaging.name: unknown averaging 'emo'; did you mean 'ema'? (allowed: ema, swa, swad)"),
        (3, "averaging: found 3; allowed: a name, or a mapping with the key 'name'"),
        (
            {"decay": 0.9},
            "averaging: found {'decay': 0.9}; allowed: a name, or a mapping with the key 'name'",
        ),
        ({"name": "ema", "decay": 1}, "averaging.decay: found 1; allowed: less than 1"),
        ({"name": "ema", "decay": 0}, "averaging.decay: found 0; allowed: greater than 0"),
        ({"name": "ema", "every": 0}, "averaging.every: found 0; allowed: greater than or equal to 1"),
        ({"name": "swa", "start": 1.0}, "averaging.start: found 1.0; allowed: less than 1"),
        (
            {"name": "swa", "decay": 0.5},
            "averaging.decay: unknown key 'decay' "
            "(allowed: batch_norm, batch_norm_steps, every, name, start)",
        ),
        (
            {"name": "swad", "n_tolerance": 2},
            "averaging.n_tolerance: found 2; allowed: at least n_converge, which is 3",
        ),
        (
            {"name": "swad", "tolerance_ratio": -1},
            "averaging.tolerance_ratio: found -1; allowed: greater than or equal to 0",
        ),
        (
            {"name": "swad", "batch_norm": "freeze"},
            "averaging.batch_norm: found 'freeze'; allowed: 'recompute' or 'copy'",
        ),
        (
            {"name": "ema", "batch_norm": "copy", "batch_norm_steps": 2},
            "averaging.batch_norm_steps: allowed only with 'batch_norm: recompute', found 'copy'",
        ),
    ],
)
def test_mistakes(averaging: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate({**NORMED, "averaging": averaging})
    assert caught.value.message == message


def test_swad_needs_evaluations() -> None:
    with pytest.raises(
        UsageError, match=r"averaging\.n_converge: found 3, but the run has 2 evaluations after its"
    ):
        validate({**NORMED, "averaging": "swad", "evaluation": {"every": 6}})
    assert validate({**NORMED, "averaging": "swad", "evaluation": {"every": 5}}).averaging is not None


def test_short_form_and_round_trip() -> None:
    config = validate({**NORMED, "averaging": "ema"})
    assert config.averaging == EmaConfig(name="ema", decay=0.999, start=0.0, every=1)
    assert validate(config.resolved()) == config
    assert validate({**NORMED, "averaging": None}).averaging is None


def test_a_mistake_that_the_length_tells_names_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.yaml", {**NORMED, "averaging": {"name": "swa", "every": 4}})
    line = config.read_text().splitlines().index("  every: 4") + 1
    assert run(config, tmp_path / "out") == 2
    assert f"a.yaml:{line}: averaging.every: found 4; allowed: at most 3" in error_message(capsys)
    assert not (tmp_path / "out" / "runs").exists()


def test_averaging_can_be_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_report(monkeypatch)
    sweep = {"averaging": [None, "ema", {"name": "ema", "decay": 0.5}]}
    config = write(tmp_path / "a.yaml", {**NORMED, "train": {"steps": 2, "batch_size": 4}, "sweep": sweep})
    assert run(config, tmp_path / "out") == 0
    folders = sorted((tmp_path / "out" / "runs").iterdir())
    assert len(folders) == 3
    kinds = [
        torch.load(folder / "checkpoint.pt", weights_only=True)["averaged"] is None for folder in folders
    ]
    assert sorted(kinds) == [False, False, True]
