"""Model selection in domain generalisation, on plain records: which checkpoint and which hyperparameters.

The three ways of DomainBed (Gulrajani and Lopez-Paz, *In Search of Lost Domain Generalization*, ICLR 2021,
section 3), the oracle of SWAD's code, and the one of a single training domain. A run is the list of its
records, one a checkpoint, in DomainBed's form: ``step``; accuracies in [0, 1] as ``env{i}_in_acc`` and
``env{i}_out_acc``, in-split and out-split (20 %) of environment i; and in ``args`` ``dataset``,
``algorithm``, ``test_envs`` (held out), ``hparams_seed`` and ``trial_seed``. What is reported of an
environment that is held out is its ``in_acc``.

Of a run of SWAD (``args`` has ``averaging: swad``), whose average stands for the whole training, the last
checkpoint is the only one that can be chosen, except by the oracle that looks at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    for record in _choices(runs, test_env):
        outs = [_accuracy(record, env, "out") for env in environments(record) if env != test_env]
        found.append(_selected(outs, [_accuracy(record, test_env, "in")]))
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
    for record in _choices(runs, test_env):
        others = [env for env in environments(record) if env != test_env]
        validations = [_accuracy(pairs.get((env, record["step"]), {}), env, "in") for env in others]
        found.append(_selected(validations, [_accuracy(record, test_env, "in")]))
    return _best(found)


def oracle(runs: Sequence[Records], test_env: int) -> Selected | None:
    """The last checkpoint, for its out-split accuracy on the held-out environment itself.

    There is no early stopping, but hyperparameters are chosen on the test distribution. Arguments and result:
    as above.
    """
    return _on_test_env(_by_step(_alone(runs, test_env))[-1:], test_env)


def best_oracle(runs: Sequence[Records], test_env: int) -> Selected | None:
    """The checkpoint with the highest out-split accuracy on the held-out environment itself.

    The oracle of SWAD's code (Cha et al., NeurIPS 2021); of SWAD's runs, too, all checkpoints count.
    Arguments and result: as above.
    """
    return _on_test_env(_by_step(_alone(runs, test_env)), test_env)


def last_step(runs: Sequence[Records], test_env: int) -> Selected | None:
    """The last checkpoint, for the mean out-split accuracy of the training environments.

    Arguments and result: as above.
    """
    last = _by_step(_alone(runs, test_env))[-1:]
    return training_domain([last], test_env)


def single_source(runs: Sequence[Records], train_env: int) -> Selected | None:
    """One training environment: the checkpoint with the highest accuracy on its out-split.

    Args:
        runs: those with one setting of the hyperparameters; only runs that train on ``train_env`` alone
            count.
        train_env: that environment.

    Returns:
        the test accuracy is the mean over all other environments; None as above.
    """
    found = []
    for record in _choices(runs, *_others(runs, train_env)):
        tests = [_accuracy(record, env, "in") for env in record["args"]["test_envs"]]
        found.append(_selected([_accuracy(record, train_env, "out")], tests))
    return _best(found)


TRAINING_DOMAIN = "training-domain validation"
LEAVE_ONE_DOMAIN_OUT = "leave-one-domain-out validation"
ORACLE = "test-domain validation (oracle), last checkpoint"
BEST_ORACLE = "test-domain validation (oracle), best checkpoint"
SINGLE_SOURCE = "one training domain, validated on it"

SELECTIONS: dict[str, Selection] = {
    TRAINING_DOMAIN: training_domain,
    LEAVE_ONE_DOMAIN_OUT: leave_one_domain_out,
    ORACLE: oracle,
    BEST_ORACLE: best_oracle,
}


def held_out(records: Records) -> list[int]:
    """The environments that a run is reported on where several are trained on: those held out."""
    return list(records[0]["args"]["test_envs"])


def trained_on(records: Records) -> list[int]:
    """The environments that a run is trained on."""
    everywhere = sorted({env for record in records for env in environments(record)})
    return [env for env in everywhere if env not in held_out(records)]


def selected(
    runs: Sequence[Records],
    selection: Selection,
    columns: Callable[[Records], Iterable[int]] = held_out,
) -> dict[tuple[str, str, int], dict[int, float]]:
    """Test accuracy under the hyperparameters that a selection chooses, for each trial on its own.

    Args:
        runs: of any data sets, algorithms, held-out environments, hyperparameter seeds and trials.
        selection: one of ``SELECTIONS``, or ``single_source``.
        columns: the environments that a run counts for: ``held_out``, or ``trained_on``.

    Returns:
        (data set, algorithm, environment) -> trial -> accuracy in [0, 1]; without what the runs allow no
        selection for. Of equals, the lowest hyperparameter seed.
    """
    groups: dict[tuple[str, str, int], dict[int, dict[int, list[Records]]]] = {}
    for records in filter(None, runs):
        args: Mapping[str, Any] = records[0]["args"]
        for env in columns(records):
            trials = groups.setdefault((args["dataset"], args["algorithm"], env), {})
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


def _alone(runs: Sequence[Records], *test_envs: int) -> list[Record]:
    """The records of runs that hold out exactly these environments."""
    wanted = set(test_envs)
    return [record for records in runs for record in records if set(record["args"]["test_envs"]) == wanted]


def _choices(runs: Sequence[Records], *test_envs: int) -> list[Record]:
    """Of these, what can be chosen without a look at the test environments, by step."""
    found: list[Record] = []
    for records in runs:
        own = _by_step(_alone([records], *test_envs))
        found += own[-1:] if own and own[-1]["args"].get("averaging") == "swad" else own
    return _by_step(found)


def _others(runs: Sequence[Records], train_env: int) -> list[int]:
    return sorted(
        {env for records in runs for record in records for env in environments(record)} - {train_env}
    )


def _on_test_env(records: Sequence[Record], test_env: int) -> Selected | None:
    return _best(
        [_selected([_accuracy(r, test_env, "out")], [_accuracy(r, test_env, "in")]) for r in records]
    )


def _by_step(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record["step"])


def _accuracy(record: Record, env: int, part: str) -> float | None:
    value = record.get(f"env{env}_{part}_acc")
    return None if value is None else float(value)


def _selected(validations: Sequence[float | None], tests: Sequence[float | None]) -> Selected | None:
    validation, test = _mean(validations), _mean(tests)
    return None if validation is None or test is None else Selected(validation, test)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where there is nothing, or something is lacking."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _best(found: Sequence[Selected | None]) -> Selected | None:
    known = [item for item in found if item is not None]
    return max(known, key=lambda item: item.validation, default=None)
