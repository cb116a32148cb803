"""Which images of an environment are held out: DomainBed's split, key for key.

DomainBed (Gulrajani and Lopez-Paz, *In Search of Lost Domain Generalization*, ICLR 2021) shuffles the
numbers of the images of each environment by a seed hashed from the trial and the number of the environment.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import numpy as np
from pydantic import Field

TrialSeed = Annotated[int, Field(ge=0)]
Holdout = Annotated[float, Field(gt=0, lt=1)]


def seed_hash(*args: object) -> int:
    """A seed below 2^31 from the text of all arguments: their MD5, as DomainBed hashes it."""
    digest = hashlib.md5(str(args).encode(), usedforsecurity=False)
    return int(digest.hexdigest(), 16) % 2**31


def split_keys(
    count: int, environment: int, trial_seed: int = 0, holdout_fraction: float = 0.2
) -> tuple[list[int], list[int]]:
    """The images of an environment that are trained on (in-split) and held out (out-split).

    Args:
        count: images of the environment.
        environment: its number, from 0, among all environments in order.
        trial_seed: another one gives another split.
        holdout_fraction: int(holdout_fraction * count) images are held out.

    Returns:
        the numbers of the in-split and of the out-split, both in shuffled order.
    """
    keys = list(range(count))
    np.random.RandomState(seed_hash(trial_seed, environment)).shuffle(keys)
    n_out = int(count * holdout_fraction)
    return keys[n_out:], keys[:n_out]
