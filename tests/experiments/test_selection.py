"""Model selection on small sweeps whose answers are worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mtlsuite.experiments.selection import (
    Selected,
    leave_one_domain_out,
    oracle,
    selected,
    training_domain,
)
from mtlsuite.experiments.selection_tables import selection_tables


def job(
    *checkpoints: tuple[list[float], list[float]],
    test_envs: tuple[int, ...] = (0,),
    hparams_seed: int = 0,
    trial: int = 0,
    algorithm: str = "ERM",
) -> list[dict[str, Any]]:
    """A run whose checkpoint number i (step 100 i) has in-split and out-split accuracies by environment."""
    args = {
        "dataset": "PACS",
        "algorithm": algorithm,
        "test_envs": list(test_envs),
        "hparams_seed": hparams_seed,
        "trial_seed": trial,
    }
    return [
        {
            "step": 100 * step,
            **{f"env{i}_in_acc": value for i, value in enumerate(ins)},
            **{f"env{i}_out_acc": value for i, value in enumerate(outs)},
            "args": args,
        }
        for step, (ins, outs) in enumerate(checkpoints)
    ]


# environment 0 is held out; mean out-accuracy of 1 and 2: 0.5, 0.75, 0.7; out-accuracy of 0 itself: 0.9 first
RUN = job(
    ([0.30, 0.9, 0.9], [0.90, 0.4, 0.6]),
    ([0.20, 0.9, 0.9], [0.10, 0.8, 0.7]),
    ([0.40, 0.9, 0.9], [0.25, 0.7, 0.7]),
)


def test_training_domain_validation_stops_where_training_domains_are_best() -> None:
    found = training_domain([RUN], 0)
    assert found == Selected(pytest.approx(0.75), 0.20)


def test_oracle_takes_the_last_checkpoint() -> None:
    assert oracle([RUN], 0) == Selected(0.25, 0.40)
    assert oracle([RUN[::-1]], 0) == Selected(0.25, 0.40), "by step, not by place"


def test_only_runs_of_that_environment_alone() -> None:
    pair = job(([0.5] * 3, [0.5] * 3), test_envs=(0, 1))
    for method in (training_domain, oracle):
        assert method([RUN], 1) is None
        assert method([pair], 0) is None
        assert method([pair, RUN], 0) == method([RUN], 0)


def test_a_missing_accuracy_is_no_selection() -> None:
    lame = [{k: v for k, v in record.items() if k != "env0_out_acc"} for record in RUN]
    assert oracle([lame], 0) is None
    assert training_domain([lame], 0) == training_domain([RUN], 0), "it needs none of the test environment"
    assert training_domain([[{k: v for k, v in r.items() if k != "env0_in_acc"} for r in RUN]], 0) is None


def test_leave_one_domain_out() -> None:
    # validation at step 0: (0.2 + 0.4) / 2 = 0.3, at step 100: (0.6 + 0.5) / 2, at step 200 one is lacking
    with_1 = job(([0, 0.2, 0], [0] * 3), ([0, 0.6, 0], [0] * 3), ([0, 1.0, 0], [0] * 3), test_envs=(0, 1))
    with_2 = job(([0, 0, 0.4], [0] * 3), ([0, 0, 0.5], [0] * 3), test_envs=(2, 0))
    assert leave_one_domain_out([RUN, with_1, with_2], 0) == Selected(pytest.approx(0.55), 0.20)
    assert leave_one_domain_out([RUN, with_1], 0) is None
    assert leave_one_domain_out([with_1, with_2], 0) is None
    assert leave_one_domain_out([RUN, with_1, with_2], 1) is None


def flat(test: float, validation: float, env: int = 0, **options: Any) -> list[dict[str, Any]]:
    """One checkpoint of two environments: what it is reported for and what it is selected by."""
    ins, outs = [0.0, 0.0], [0.0, 0.0]
    ins[env], outs[1 - env] = test, validation
    return job((ins, outs), test_envs=(env,), **options)


SWEEP = [
    flat(0.50, 0.6, hparams_seed=0, trial=0),
    flat(0.70, 0.9, hparams_seed=1, trial=0),
    flat(0.99, 0.8, hparams_seed=2, trial=0),
    flat(0.60, 0.7, hparams_seed=0, trial=1),
    flat(0.10, 0.1, hparams_seed=1, trial=1),
    flat(0.20, 0.5, env=1, trial=0),
    flat(0.30, 0.5, env=1, trial=1),
    flat(0.40, 0.5, env=1, trial=0, algorithm="SAGE"),
]


def test_hyperparameters_are_chosen_for_each_trial() -> None:
    assert selected(SWEEP, training_domain) == {
        ("PACS", "ERM", 0): {0: 0.70, 1: 0.60},
        ("PACS", "ERM", 1): {0: 0.20, 1: 0.30},
        ("PACS", "SAGE", 1): {0: 0.40},
    }
    assert selected(SWEEP, leave_one_domain_out) == {}


def test_of_equals_the_first() -> None:
    equal = [flat(0.1 * seed, 0.5, hparams_seed=seed) for seed in (3, 1, 2)]
    assert selected(equal, training_domain) == {("PACS", "ERM", 0): {0: pytest.approx(0.1)}}


def test_tables() -> None:
    iid, last = selection_tables(SWEEP, {"PACS": ["art", "cartoon"]})
    assert iid.title == "PACS, training-domain validation: accuracy by held-out domain (%, higher is better)"
    assert "oracle" in last.title
    assert [column.name for column in iid.columns] == ["art", "cartoon", "mean"]
    erm, sage = iid.rows
    assert [row.label for row in iid.rows] == ["ERM", "SAGE"]
    art, cartoon, mean = erm.cells
    assert art is not None
    assert cartoon is not None
    assert mean is not None
    # (70 + 60) / 2, their sample deviation 10 / sqrt(2), over sqrt(2)
    assert (art.mean, art.stderr, art.n) == (pytest.approx(65), pytest.approx(5), 2)
    assert (cartoon.mean, cartoon.stderr) == (pytest.approx(25), pytest.approx(5))
    assert (mean.mean, mean.stderr) == (pytest.approx(45), None)
    assert sage.cells[0] is None
    assert sage.cells[2] is None, "no mean over some of the domains"
    assert "1 to 2 trials" in iid.notes[0]


def test_environments_without_names_are_numbered() -> None:
    [table, _] = selection_tables(SWEEP, {})
    assert [column.name for column in table.columns] == ["env 0", "env 1", "mean"]
