"""Times, ratios and peaks where they are known."""

import gc
import time

import measure
import pytest
import torch
from measure import Ratio, interleaved, median_ratio, peak_bytes


def test_every_way_is_called_once_a_round_and_the_first_rotates():
    called = []
    ways = {name: lambda name=name: called.append(name) for name in "abc"}
    rounds = []
    times = interleaved(ways, repeats=2, warmup=2, after_round=lambda: rounds.append(len(called)))
    assert "".join(called) == "abc" + "bca" + "cab" + "abc"
    assert rounds == [3, 6, 9, 12]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_times_are_seconds_and_warm_up_does_not_count():
    naps = iter([0.2, 0.02, 0.02])
    times = interleaved({"nap": lambda: time.sleep(next(naps)), "nothing": lambda: None}, 2, warmup=1)
    assert all(0.02 <= seconds < 0.2 for seconds in times["nap"])
    assert all(0 <= seconds < 0.02 for seconds in times["nothing"])


def test_entries_of_one_round_stand_together():
    naps = iter([0.0, 0.05, 0.0])
    nap = 0.0

    def begin():
        nonlocal nap
        nap = next(naps)

    times = interleaved({"first": lambda: time.sleep(nap)}, 2, warmup=1, after_round=begin)
    assert len(times["first"]) == 2
    assert times["first"][1] >= 0.05 > times["first"][0]


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_waits_and_is_as_before_also_after_an_error(collecting):
    seen = []

    def failing():
        seen.append(gc.isenabled())
        raise RuntimeError("stop")

    try:
        (gc.enable if collecting else gc.disable)()
        with pytest.raises(RuntimeError, match="stop"):
            interleaved({"failing": failing})
        assert gc.isenabled() is collecting
    finally:
        gc.enable()
    assert seen == [False]


def test_ratio_is_taken_within_the_rounds():
    # The machine was ten times slower in the second round; the ratio is 2 or 3 in every round.
    times = {"way": [2.0, 30.0, 2.0, 3.0, 20.0], "plain": [1.0, 10.0, 1.0, 1.0, 10.0]}
    assert median_ratio(times, "way", "plain") == Ratio(2.0, 2.0, 3.0)
    assert median_ratio(times, "plain", "plain") == Ratio(1.0, 1.0, 1.0)
    assert str(Ratio(2.0, 1.5, 3.0)) == "2.00 (1.50-3.00)"


def zeros(kilobytes):
    return torch.zeros(256 * kilobytes, dtype=torch.float32)


def test_peak_of_blocks_that_come_and_go():
    def step():
        a = zeros(4)
        b = zeros(8)
        del a
        c = zeros(2)  # 8 + 2 < 4 + 8
        return b, c

    assert peak_bytes(step) == 12 * 1024
    assert peak_bytes(lambda: None) == 0


def test_peak_is_above_what_was_there_before():
    kept = [zeros(100)]

    def step():
        kept.append(zeros(4))  # stays
        kept.append(zeros(3))

    assert peak_bytes(step) == 7 * 1024
    assert peak_bytes(step) == 7 * 1024


def test_blocks_of_an_earlier_call_make_no_room():
    kept = []
    peak_bytes(lambda: kept.append(zeros(100)))

    def step():
        kept.clear()
        return zeros(4), zeros(4)

    assert peak_bytes(step) == 8 * 1024


def test_peak_of_a_backward_is_counted_by_hand():
    weight = torch.zeros(1024, requires_grad=True)  # 4 KiB

    def step():
        square = weight**2  # 4 KiB, and 4 more for its gradient and 4 for what comes of it
        square.backward(torch.ones(1024))
        weight.grad = None

    forward_alone = peak_bytes(lambda: weight**2)
    assert forward_alone == 4 * 1024
    assert 3 * 4 * 1024 <= peak_bytes(step) <= 5 * 4 * 1024


def test_machine_names_threads_and_torch():
    described = measure.machine()
    assert f"{torch.get_num_threads()} threads" in described
    assert torch.__version__ in described
    assert not described.startswith(",")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    device = torch.device("cuda")

    def step():
        return torch.zeros(2**20, device=device), torch.zeros(2**20, device=device)

    step()
    assert peak_bytes(step, device) == 2 * 4 * 2**20
    assert all(seconds > 0 for seconds in interleaved({"step": step}, 3, device=device)["step"])
    assert torch.cuda.get_device_name() in measure.machine(device)
