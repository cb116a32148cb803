"""Summaries over metrics and methods: the mean relative change against a baseline, and the mean rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.errors import UsageError


def delta_m(values: Sequence[float], baseline: Sequence[float], higher_is_better: Sequence[bool]) -> float:
    """Mean relative change of the metrics against single-task training, in percent; LOWER is better.

    (100 / K) sum_k (-1)^{s_k} (M_k - B_k) / B_k with s_k = 1 where higher is better (Navon et al., ICML 2022,
    Experiments). The sum runs over all metrics, not over tasks: a task with many metrics weighs more.

    Args:
        values: the K metrics M_k of the method.
        baseline: the K metrics B_k of the single-task models.
        higher_is_better: K flags s_k.

    Raises:
        UsageError: no metrics, unequal lengths, or a baseline of zero.
    """
    if not 0 < len(values) == len(baseline) == len(higher_is_better):
        raise UsageError(
            "delta_m needs as many values as baselines and flags, and one at least, "
            f"found {len(values)}, {len(baseline)} and {len(higher_is_better)}"
        )
    reference = np.asarray(baseline, dtype=np.float64)
    if (reference == 0).any():
        zero = int(np.argmin(np.abs(reference)))
        raise UsageError(f"delta_m divides by the baseline, found 0 at position {zero} of {list(baseline)}")
    change = (np.asarray(values, dtype=np.float64) - reference) / reference
    return float(100 * np.where(higher_is_better, -change, change).mean())


def mean_rank(table: Mapping[str, Sequence[float]], higher_is_better: Sequence[bool]) -> dict[str, float]:
    """Each method's rank (1 = best) among the methods of the table, averaged over the metrics.

    Equal values share the average of their ranks (Navon et al., ICML 2022, Experiments). Ranks depend on the
    set of methods compared.

    Args:
        table: method -> its K metrics.
        higher_is_better: K flags.

    Raises:
        UsageError: no metrics, unequal lengths, or a value that is NaN.
    """
    for method, row in table.items():
        if not 0 < len(row) == len(higher_is_better):
            raise UsageError(
                f"mean_rank needs as many values as flags, and one at least; "
                f"{method!r} has {len(row)} values for {len(higher_is_better)} flags"
            )
        if np.isnan(row).any():
            raise UsageError(f"mean_rank cannot rank NaN, found in the row of {method!r}: {list(row)}")
    if not table:
        return {}
    worse = np.array(list(table.values()), dtype=np.float64) * np.where(higher_is_better, -1, 1)
    above = (worse[None] < worse[:, None]).sum(axis=1)
    level = (worse[None] == worse[:, None]).sum(axis=1)
    ranks = (above + (level + 1) / 2).mean(axis=1)
    return {method: float(rank) for method, rank in zip(table, ranks, strict=True)}
