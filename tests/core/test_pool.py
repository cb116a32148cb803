"""Pool: storages are lent, and lent again only when nobody holds them."""

from __future__ import annotations

import copy

import pytest
import torch

from mtlsuite.core.pool import Pool

CPU = torch.device("cpu")


def take(pool: Pool, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return pool.take(*shape, dtype=dtype, device=CPU)


def test_a_dead_tensor_is_used_again_even_in_another_shape() -> None:
    pool = Pool()
    address = take(pool, 2, 6).data_ptr()
    again = take(pool, 12)
    assert again.data_ptr() == address
    assert again.shape == (12,)
    del again
    assert take(pool, 6, dtype=torch.float64).data_ptr() == address


def test_living_tensors_do_not_overlap() -> None:
    pool = Pool()
    tensors = [take(pool, 10).fill_(i) for i in range(5)]
    assert [t.unique().tolist() for t in tensors] == [[0], [1], [2], [3], [4]]


VIEWS = {
    "itself": lambda t: t,
    "slice": lambda t: t[2:4],
    "view": lambda t: t.view(2, 5),
    "transposed": lambda t: t.view(2, 5).T,
    "detached": lambda t: t.detach(),
    "split": lambda t: t.split(5)[1],
    "unbound": lambda t: t.unbind()[3],
    "strided": lambda t: t.as_strided((2,), (3,)),
    "view of a view": lambda t: t[1:].view(3, 3)[0],
    "numpy": lambda t: t.numpy(),
    "numpy slice": lambda t: t.numpy()[3:],
    "data": lambda t: t.data,
    "parameter": lambda t: torch.nn.Parameter(t),
}


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_keeps_the_storage(view: str, grad_mode) -> None:
    pool = Pool()
    with grad_mode():
        kept = VIEWS[view](take(pool, 10).fill_(1.0))
        for _ in range(3):
            take(pool, 10).fill_(7.0)
        assert (torch.as_tensor(kept) == 1.0).all()


def test_trim_forgets_what_was_not_needed() -> None:
    pool = Pool()
    kept = take(pool, 4).fill_(3.0)
    take(pool, 100)
    pool.trim()  # both were used since the pool began
    assert len(pool._slots) == 2
    pool.trim()
    assert len(pool._slots) == 1
    take(pool, 4).fill_(0.0)
    assert kept.tolist() == [3.0] * 4


def test_a_copy_starts_empty() -> None:
    pool = Pool()
    kept = take(pool, 4).fill_(3.0)
    other = copy.deepcopy(pool)
    take(other, 4).fill_(0.0)
    assert kept.tolist() == [3.0] * 4


def test_memory_formats_and_zero_entries() -> None:
    pool = Pool()
    assert take(pool, 2, 3).stride() == (3, 1)
    assert take(pool, 0).numel() == 0
