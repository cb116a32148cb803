"""Which samples a step sees: whole epochs, each sample once, and a function of (seed, name, step) alone."""

from __future__ import annotations

import hashlib
import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset

from mtlsuite.core.errors import UsageError
from mtlsuite.core.ranks import Ranks
from mtlsuite.data.base import Sample, TensorSplit
from mtlsuite.data.sampling import BatchStream, derived_seed, gather, pooled, to_device


def numbers(size: int, start: int = 0) -> TensorSplit:
    """Sample i is the number start + i, its target the negative."""
    values = torch.arange(start, start + size).float()[:, None]
    return TensorSplit(values, {"y": -values[:, 0]})


class OneByOne(Dataset[Sample]):
    """Without the method ``batch``."""

    def __init__(self, inner: TensorSplit) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        return self.inner[index]


sizes = st.integers(1, 40)


@settings(deadline=None)
@given(size=sizes, batch_size=st.integers(1, 50), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_is_every_sample_once(size: int, batch_size: int, seed: int, epoch: int) -> None:
    stream = BatchStream(numbers(size), batch_size, seed, "a")
    n = stream.steps_per_epoch
    assert n == math.ceil(size / batch_size)
    batches = [stream.indices(step) for step in range(epoch * n, (epoch + 1) * n)]
    assert sorted(itertools.chain(*batches)) == list(range(size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (n - 1)
    assert len(batches[-1]) == size - (n - 1) * batch_size


@settings(deadline=None)
@given(size=sizes, seed=st.integers(0, 2**40), replacement=st.booleans(), order=st.randoms())
def test_a_step_is_the_same_whatever_was_asked_before(
    size: int, seed: int, replacement: bool, order: random.Random
) -> None:
    steps = list(range(12))
    stream = BatchStream(numbers(size), 4, seed, "a", replacement)
    before = torch.get_rng_state()
    found = {step: stream.indices(step) for step in order.sample(steps, len(steps))}
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert found == {
        step: BatchStream(numbers(size), 4, seed, "a", replacement).indices(step) for step in steps
    }


def test_epochs_seeds_and_names_shuffle_differently() -> None:
    orders = [
        tuple(BatchStream(numbers(100), 100, seed, name).indices(epoch))
        for seed in (0, 1)
        for name in ("train/0", "train/15", "cosine/0")
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == len(orders)


def test_replacement_draws_each_batch_anew() -> None:
    stream = BatchStream(numbers(10), 64, 0, "a", replacement=True)
    batches = [stream.indices(step) for step in range(300)]
    assert all(len(batch) == 64 for batch in batches), "also where the data set is smaller"
    assert len(set(map(tuple, batches))) == 300
    counts = torch.bincount(torch.tensor(batches).flatten(), minlength=10)
    expected = 300 * 64 / 10
    assert float(((counts - expected).square() / expected).sum()) < 33  # chi2 of 9, exceeded once in 10^4


def test_batches_hold_the_samples_of_their_indices() -> None:
    stream = BatchStream(numbers(10), 4, 3, "a")
    for step in range(7):
        inputs, targets = stream.batch(step)
        assert inputs[:, 0].tolist() == stream.indices(step)
        assert torch.equal(targets["y"], -inputs[:, 0])


def test_gathering_does_not_depend_on_how_the_data_is_held() -> None:
    whole = numbers(10)
    for other in (OneByOne(whole), pooled([numbers(4), numbers(6, start=4)]), pooled([whole])):
        inputs, targets = gather(other, [7, 0, 3])
        expected = gather(whole, [7, 0, 3])
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets["y"], expected[1]["y"])
    assert isinstance(pooled([whole, whole]), ConcatDataset)


def test_nothing_to_draw_from() -> None:
    with pytest.raises(UsageError, match="training data of 'train/fog' is empty"):
        BatchStream(numbers(0), 4, 0, "train/fog")


def test_moving_a_batch_keeps_its_form() -> None:
    device = torch.device("meta")
    inputs, (targets,) = to_device((torch.ones(2, 3), [{"y": torch.ones(2)}]), device)
    assert (inputs.device, inputs.shape) == (device, (2, 3))
    assert (targets["y"].device, targets["y"].shape) == (device, (2,))


def test_a_derived_seed_depends_on_every_part_and_not_on_the_process() -> None:
    parts = [
        (0,),
        (1,),
        ("0",),
        (0, 0),
        ("a", 1),
        ("a1",),
        (("a", 1),),
        (0, "train/0", 1),
        (0, "train/0", 11),
    ]
    assert len({derived_seed(*part) for part in parts}) == len(parts)
    assert all(0 <= derived_seed(*part) < 2**63 for part in parts)
    # Python's own hash of text differs between processes; this one is fixed for ever, by SHA-256 and repr.
    digest = hashlib.sha256(b"(0, 'train/0', 1)").hexdigest()
    assert derived_seed(0, "train/0", 1) == int(digest[:16], 16) // 2


class Ranked(Ranks):
    """One rank of several, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self._place = rank, size

    @property
    def rank(self) -> int:
        return self._place[0]

    @property
    def size(self) -> int:
        return self._place[1]


class Noisy(TensorSplit):
    """Augmentation adds a draw."""

    def augmented(self, index: int, generator: torch.Generator) -> Sample:
        inputs, targets = self[index]
        return inputs + torch.rand(1, generator=generator), targets


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("replacement", [False, True])
def test_ranks_hold_together_the_batch_of_one_process(size: int, replacement: bool) -> None:
    plain = numbers(11)
    split = Noisy(plain.inputs, plain.targets)
    options = {"replacement": replacement, "augment": True}
    whole = BatchStream(split, 4, 3, "a", **options)
    parts = [BatchStream(split, 4, 3, "a", **options, ranks=Ranked(rank, size)) for rank in range(size)]
    assert whole.smallest == (4 if replacement else 3)
    for step in range(7):
        inputs, targets = whole.batch(step)
        for rank, part in enumerate(parts):
            assert part.steps_per_epoch == whole.steps_per_epoch
            share = part.batch(step)
            if rank >= len(inputs):
                assert share is None
                continue
            assert torch.equal(share[0], inputs[rank::size])
            assert torch.equal(share[1]["y"], targets["y"][rank::size])
