"""Model selection on small sweeps whose answers are worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mtlsuite.experiments.selection import (
    Selected,
    best_oracle,
    last_step,
    leave_one_domain_out,
    oracle,
    selected,
    single_source,
    trained_on,
    training_domain,
)
from mtlsuite.experiments.selection_tables import selection_tables, single_source_tables


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
    iid, last, best = selection_tables(SWEEP, {"PACS": ["art", "cartoon"]})
    assert iid.title == "PACS, training-domain validation: accuracy by held-out domain (%, higher is better)"
    assert "(oracle), last checkpoint" in last.title
    assert "(oracle), best checkpoint" in best.title
    assert [column.name for column in iid.columns] == ["art", "cartoon", "mean", "worst"]
    erm, sage = iid.rows
    assert [row.label for row in iid.rows] == ["ERM", "SAGE"]
    art, cartoon, mean, worst = erm.cells
    assert art is not None
    assert cartoon is not None
    assert mean is not None
    assert worst is not None
    # (70 + 60) / 2, their sample deviation 10 / sqrt(2), over sqrt(2)
    assert (art.mean, art.stderr, art.n) == (pytest.approx(65), pytest.approx(5), 2)
    assert (cartoon.mean, cartoon.stderr) == (pytest.approx(25), pytest.approx(5))
    assert (mean.mean, mean.stderr) == (pytest.approx(45), None)
    assert (worst.mean, worst.stderr, worst.n) == (pytest.approx(25), pytest.approx(5), 2)
    assert sage.cells[0] is None
    assert sage.cells[2:] == (None, None), "no mean and no worst over some of the domains"
    assert "1 to 2 trials" in iid.notes[0]


def test_environments_without_names_are_numbered() -> None:
    table, *_ = selection_tables(SWEEP, {})
    assert [column.name for column in table.columns] == ["env 0", "env 1", "mean", "worst"]


def test_the_worst_domain_is_that_of_each_trial() -> None:
    # trial 0: 50 and 80, trial 1: 70 and 40, trial 2 lacks a domain; the worst of the means would be 50
    accuracies = {(0, 0): 0.5, (0, 1): 0.7, (0, 2): 0.3, (1, 0): 0.8, (1, 1): 0.4}
    runs = [flat(test, 0.5, env=env, trial=trial) for (env, trial), test in accuracies.items()]
    table, *_ = selection_tables(runs, {})
    worst = table.rows[0].cells[-1]
    assert worst is not None
    # min(50, 80) and min(70, 40): mean 45, sample deviation 10 / sqrt(2), over sqrt(2)
    assert (worst.mean, worst.stderr, worst.n) == (pytest.approx(45), pytest.approx(5), 2)
    assert "within each trial" in table.notes[0]


def test_columns_are_domains_held_out_alone() -> None:
    pair = job(([0.5] * 3, [0.5] * 3), test_envs=(0, 1))
    table, *_ = selection_tables([RUN, pair], {})
    assert [column.name for column in table.columns] == ["env 0", "mean", "worst"]


def test_best_oracle_looks_at_all_checkpoints() -> None:
    assert best_oracle([RUN], 0) == Selected(0.90, 0.30)


def swad(run: list[dict[str, Any]]) -> list[dict[str, Any]]:
    args = {**run[0]["args"], "algorithm": "ERM + SWAD", "averaging": "swad", "average_of": "ERM"}
    return [{**record, "args": args} for record in run]


def test_of_swad_no_checkpoint_is_chosen_but_by_its_oracle() -> None:
    run = swad(RUN)
    assert training_domain([run[::-1]], 0) == Selected(pytest.approx(0.7), 0.40), "the last, not the best"
    assert oracle([run], 0) == Selected(0.25, 0.40)
    assert best_oracle([run], 0) == Selected(0.90, 0.30)
    assert last_step([RUN], 0) == training_domain([run], 0)
    with_1 = job(([0, 0.2, 0], [0] * 3), ([0, 0.9, 0], [0] * 3), ([0, 0.6, 0], [0] * 3), test_envs=(0, 1))
    with_2 = job(([0, 0, 0.4], [0] * 3), ([0, 0, 0.9], [0] * 3), ([0, 0, 0.8], [0] * 3), test_envs=(0, 2))
    pairs = [swad(with_1), swad(with_2)]
    assert leave_one_domain_out([run, *pairs], 0) == Selected(pytest.approx(0.7), 0.40)
    assert leave_one_domain_out([RUN, with_1, with_2], 0) == Selected(pytest.approx(0.9), 0.20)


def test_rows_of_swads_code() -> None:
    *_, table = selection_tables([RUN, swad(RUN)], {})
    assert table.title.startswith("PACS, as SWAD's code prints it")
    assert {row.label: row.cells[0] and row.cells[0].mean for row in table.rows} == {
        "ERM: oracle": pytest.approx(30),
        "ERM: iid": pytest.approx(20),
        "ERM: last": pytest.approx(40),
        "ERM + SWAD": pytest.approx(40),
    }
    assert [row.label for row in table.rows if row.reference] == ["ERM: oracle"]


def test_one_training_domain() -> None:
    # trained on 1; its out-accuracy is best at step 100, where 0 and 2 have 0.2 and 0.6
    run = job(
        ([0.9, 1.0, 0.9], [0.0, 0.5, 0.0]),
        ([0.2, 1.0, 0.6], [0.0, 0.8, 0.0]),
        ([0.7, 1.0, 0.7], [1.0, 0.7, 1.0]),
        test_envs=(2, 0),
    )
    assert single_source([run], 1) == Selected(0.8, pytest.approx(0.4))
    assert single_source([run], 0) is None
    assert single_source([RUN], 1) is None
    assert selected([run], single_source, trained_on) == {("PACS", "ERM", 1): {0: pytest.approx(0.4)}}
    [table] = single_source_tables([run], {"PACS": ["a", "b", "c"]})
    assert [column.name for column in table.columns] == ["b", "mean", "worst"]
    assert "by training domain" in table.title
    assert "the mean over all other domains" in table.notes[0]


def test_all_data_sets_together() -> None:
    other = [
        [{**r, "args": {**r["args"], "dataset": "VLCS"}} for r in flat(0.1 * (env + 1), 0.5, env=env)]
        for env in (0, 1)
    ]
    both = [run for run in SWEEP if run[0]["args"]["algorithm"] == "ERM"] + other
    table = selection_tables(both, {})[-3]
    assert table.title == "training-domain validation: mean accuracy by data set (%, higher is better)"
    assert [column.name for column in table.columns] == ["PACS", "VLCS", "average"]
    [row] = table.rows
    # PACS: 65 and 25; VLCS: 10 and 20
    assert [cell and cell.mean for cell in row.cells] == [pytest.approx(v) for v in (45, 15, 30)]
