"""DomainBed's split, from its formula alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlsuite.data.domainbed_split import seed_hash, split_keys


def seed_by_hand(text: str) -> int:
    """The last 31 bits of the MD5 of a text."""
    return int.from_bytes(hashlib.md5(text.encode()).digest()[-4:], "big") & 0x7FFFFFFF


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((0, 0), "(0, 0)"), ((2, 5), "(2, 5)"), ((7,), "(7,)"), ((123, "lr"), "(123, 'lr')"), ((), "()")],
)
def test_the_seed_is_hashed_from_the_text_of_the_tuple(arguments, text):
    assert seed_hash(*arguments) == seed_by_hand(text)


def shuffled_by_hand(count: int, seed: int) -> list[int]:
    """Fisher and Yates from the last place down; each place by rejection of masked words of MT19937."""
    words = np.random.RandomState(seed)
    keys = list(range(count))
    for last in range(count - 1, 0, -1):
        mask = (1 << last.bit_length()) - 1
        while (place := int(words.randint(0, 2**32, dtype=np.uint32)) & mask) > last:
            pass
        keys[last], keys[place] = keys[place], keys[last]
    return keys


@pytest.mark.parametrize(
    ("count", "environment", "trial"), [(2048, 0, 0), (1670, 2, 0), (10, 3, 1), (11, 0, 2)]
)
def test_the_first_fifth_of_the_shuffled_keys_is_held_out(count, environment, trial):
    keys = shuffled_by_hand(count, seed_by_hand(f"({trial}, {environment})"))
    n_out = count // 5
    assert split_keys(count, environment, trial) == (keys[n_out:], keys[:n_out])
    other = np.random.RandomState(seed_by_hand(f"({trial}, {environment})")).permutation(count)
    assert other.tolist() == keys


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 300), trial=st.integers(0, 9), share=st.floats(0.01, 0.99))
def test_every_image_is_in_one_part(count, trial, share):
    train, val = split_keys(count, 1, trial, share)
    assert sorted(train + val) == list(range(count))
    assert len(val) == int(count * share)


def test_environments_and_trials_are_split_differently():
    splits = {tuple(split_keys(100, i, trial)[1]) for i in range(4) for trial in range(3)}
    assert len(splits) == 12
