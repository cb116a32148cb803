"""Model selection in domain generalisation, on plain records: which checkpoint and which hyperparameters.

The three ways of DomainBed (Gulrajani and Lopez-Paz, *In Search of Lost Domain Generalization*, ICLR 2021,
section 3). A run is the list of its records, one a checkpoint, in its form: ``step``; accuracies in [0, 1] as
``env{i}_in_acc`` and ``env{i}_out_acc``, in-split and out-split (20 %) of environment i; and in ``args``
``dataset``, ``algorithm``, ``test_envs`` (held out, one or two), ``hparams_seed`` and ``trial_seed``. What is
reported of the environment that is held out is its ``in_acc``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
Records = Sequence[Record]


@dataclass(frozen=True)
class Selected:
    """What a selection chose, and what that is worth.

    Attributes:
        validation: the accuracy that it was chosen for.
        test: accuracy on the held-out environment.
    """

    validation: float
    test: float


Selection = Callable[[Sequence[Records], int], Selected | None]


def training_domain(runs: Sequence[Records], test_env: int) -> Selected | None:
    """The checkpoint with the highest mean out-split accuracy of the training environments (IID).

    Args:
        runs: those with one setting of the hyperparameters; only runs that hold out ``test_env`` alone count.
        test_env: the environment that is reported.

    Returns:
        None where there is no such run, or its records lack an accuracy. Of equals, the first checkpoint.
    """
    found = []
    for record in _by_step(_alone(runs, test_env)):
        outs = [_accuracy(record, env, "out") for env in environments(record) if env != test_env]
        found.append(_selected(outs, _accuracy(record, test_env, "in")))
    return _best(found)


def leave_one_domain_out(runs: Sequence[Records], test_env: int) -> Selected | None:
    """The step with the highest mean accuracy on training environments when they are held out as well.

    The validation accuracy of environment v at a step is its ``in_acc`` in the run that holds out v beside
    ``test_env``; a step counts where there is such a run for every v. Arguments and result: as above.
    """
    pairs: dict[tuple[int, int], Record] = {}  # other environment, step -> record
    for records in runs:
        for record in records:
            held_out = set(record["args"]["test_envs"])
            if len(held_out) == 2 and test_env in held_out:
                [other] = held_out - {test_env}
                pairs[other, record["step"]] = record
    found = []
    for record in _by_step(_alone(runs, test_env)):
        others = [env for env in environments(record) if env != test_env]
        validations = [_accuracy(pairs.get((env, record["step"]), {}), env, "in") for env in others]
        found.append(_selected(validations, _accuracy(record, test_env, "in")))
    return _best(found)


def oracle(runs: Sequence[Records], test_env: int) -> Selected | None:
    """The last checkpoint, for its out-split accuracy on the held-out environment itself.

    There is no early stopping, but hyperparameters are chosen on the test distribution. Arguments and result:
    as above.
    """
    records = _by_step(_alone(runs, test_env))
    if not records:
        return None
    last = records[-1]
    return _selected([_accuracy(last, test_env, "out")], _accuracy(last, test_env, "in"))


SELECTIONS: dict[str, Selection] = {
    "training-domain validation": training_domain,
    "leave-one-domain-out validation": leave_one_domain_out,
    "test-domain validation (oracle)": oracle,
}


def selected(runs: Sequence[Records], selection: Selection) -> dict[tuple[str, str, int], dict[int, float]]:
    """Test accuracy under the hyperparameters that a selection chooses, for each trial on its own.

    Args:
        runs: of any data sets, algorithms, held-out environments, hyperparameter seeds and trials.
        selection: one of ``SELECTIONS``.

    Returns:
        (data set, algorithm, held-out environment) -> trial -> accuracy in [0, 1]; without what the runs
        allow no selection for. Of equals, the lowest hyperparameter seed.
    """
    groups: dict[tuple[str, str, int], dict[int, dict[int, list[Records]]]] = {}
    for records in runs:
        args: Mapping[str, Any] = records[0]["args"] if records else {"test_envs": ()}
        for test_env in args["test_envs"]:
            trials = groups.setdefault((args["dataset"], args["algorithm"], test_env), {})
            seeds = trials.setdefault(args["trial_seed"], {})
            seeds.setdefault(args["hparams_seed"], []).append(records)
    accuracies = {
        key: {
            trial: best.test
            for trial, seeds in sorted(trials.items())
            if (best := _best([selection(seeds[seed], key[2]) for seed in sorted(seeds)])) is not None
        }
        for key, trials in groups.items()
    }
    return {key: trials for key, trials in accuracies.items() if trials}


def environments(record: Record) -> list[int]:
    """The numbers of the environments that a record has an accuracy of."""
    matches = (re.fullmatch(r"env(\d+)_(in|out)_acc", key) for key in record)
    return sorted({int(match[1]) for match in matches if match})


def _alone(runs: Sequence[Records], test_env: int) -> list[Record]:
    return [record for records in runs for record in records if record["args"]["test_envs"] == [test_env]]


def _by_step(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record["step"])


def _accuracy(record: Record, env: int, part: str) -> float | None:
    value = record.get(f"env{env}_{part}_acc")
    return None if value is None else float(value)


def _selected(validations: Sequence[float | None], test: float | None) -> Selected | None:
    known = [value for value in validations if value is not None]
    if not known or len(known) < len(validations) or test is None:
        return None
    return Selected(sum(known) / len(known), test)


def _best(found: Sequence[Selected | None]) -> Selected | None:
    known = [item for item in found if item is not None]
    return max(known, key=lambda item: item.validation, default=None)
