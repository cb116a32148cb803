"""Model selection against plain loops over random sweeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtlsuite.experiments.selection import (
    BEST_ORACLE,
    LEAVE_ONE_DOMAIN_OUT,
    ORACLE,
    SELECTIONS,
    TRAINING_DOMAIN,
    selected,
    single_source,
    trained_on,
)

ENVS, TRIALS, HPARAMS, STEPS = 4, 3, 4, (100, 200, 300, 350)
Sweep = dict[tuple[str, int, int, tuple[int, ...]], dict[int, tuple[Any, Any]]]


def random_sweep(seed: int, held_out: list[tuple[int, ...]]) -> Sweep:
    """(algorithm, trial, hyperparameters, held out) -> step -> in- and out-accuracies; some are missing."""
    rng = np.random.default_rng(seed)
    jobs = itertools.product(("ERM", "SAGE", "ERM + SWAD"), range(TRIALS), range(HPARAMS), held_out)
    return {
        job: {step: (rng.random(ENVS), rng.random(ENVS)) for step in STEPS}
        for job in jobs
        if len(job[3]) == 2 or rng.random() < 2 / 3
    }


def as_records(sweep: Sweep, seed: int) -> list[list[dict[str, Any]]]:
    runs = []
    for (algorithm, trial, hparams, held_out), checkpoints in sweep.items():
        args: dict[str, Any] = {"dataset": "D", "algorithm": algorithm, "test_envs": list(held_out)}
        args |= {"hparams_seed": hparams, "trial_seed": trial}
        if algorithm.endswith("SWAD"):
            args |= {"averaging": "swad", "average_of": "ERM"}
        runs.append(
            [
                {"step": step, "args": args}
                | {f"env{i}_in_acc": ins[i] for i in range(ENVS)}
                | {f"env{i}_out_acc": outs[i] for i in range(ENVS)}
                for step, (ins, outs) in checkpoints.items()
            ]
        )
    np.random.default_rng(seed).shuffle(runs)  # type: ignore[arg-type]
    return runs


def by_loops(sweep: Sweep, way: str) -> dict[tuple[str, str, int], dict[int, float]]:
    """Every checkpoint of every hyperparameter seed is looked at; the best by the protocol's words wins."""
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for algorithm, env, trial in itertools.product(("ERM", "SAGE", "ERM + SWAD"), range(ENVS), range(TRIALS)):
        best, test = -1.0, None
        for hparams in range(HPARAMS):
            run = sweep.get((algorithm, trial, hparams, (env,)))
            for step in STEPS if run is not None else ():
                assert run is not None
                ins, outs = run[step]
                train = [i for i in range(ENVS) if i != env]
                if way in (TRAINING_DOMAIN, LEAVE_ONE_DOMAIN_OUT) and "SWAD" in algorithm and step != 350:
                    continue
                if way == TRAINING_DOMAIN:
                    value = (outs[train[0]] + outs[train[1]] + outs[train[2]]) / 3
                elif way == LEAVE_ONE_DOMAIN_OUT:
                    total = 0.0
                    for other in train:
                        pair = sweep[algorithm, trial, hparams, (min(env, other), max(env, other))]
                        total += pair[step][0][other]
                    value = total / 3
                elif way == ORACLE:
                    if step != 350:
                        continue
                    value = outs[env]
                else:
                    assert way == BEST_ORACLE
                    value = outs[env]
                if value > best:
                    best, test = value, ins[env]
        if test is not None:
            found.setdefault(("D", algorithm, env), {})[trial] = test
    return found


@pytest.mark.parametrize("way", list(SELECTIONS))
@pytest.mark.parametrize("seed", range(5))
def test_selections_are_what_loops_find(way: str, seed: int) -> None:
    pairs = list(itertools.combinations(range(ENVS), 2))
    sweep = random_sweep(seed, [(env,) for env in range(ENVS)] + pairs)
    assert selected(as_records(sweep, seed), SELECTIONS[way]) == by_loops(sweep, way)


@pytest.mark.parametrize("seed", range(5))
def test_single_training_domains_are_what_loops_find(seed: int) -> None:
    everything = set(range(ENVS))
    sweep = random_sweep(seed, [tuple(sorted(everything - {env})) for env in range(ENVS)])
    expected: dict[tuple[str, str, int], dict[int, float]] = {}
    best: dict[tuple[str, int, int], float] = {}
    for (algorithm, trial, _, held_out), checkpoints in sorted(sweep.items()):
        [source] = everything - set(held_out)
        for step, (ins, outs) in checkpoints.items():
            if "SWAD" in algorithm and step != max(STEPS):
                continue
            if outs[source] > best.get((algorithm, source, trial), -1.0):
                best[algorithm, source, trial] = outs[source]
                tested = sum(ins[env] for env in held_out) / (ENVS - 1)
                expected.setdefault(("D", algorithm, source), {})[trial] = tested
    found = selected(as_records(sweep, seed), single_source, trained_on)
    assert found.keys() == expected.keys()
    for key, trials in found.items():
        assert trials == pytest.approx(expected[key])


@pytest.mark.parametrize("change", [lambda x: x[::-1], lambda x: x[1:] + x[:1]], ids=["reversed", "rotated"])
def test_the_order_of_runs_and_records_does_not_matter(change: Callable[[Any], Any]) -> None:
    pairs = list(itertools.combinations(range(ENVS), 2))
    runs = as_records(random_sweep(7, [(env,) for env in range(ENVS)] + pairs), 7)
    for selection in SELECTIONS.values():
        assert selected(change([change(run) for run in runs]), selection) == selected(runs, selection)
