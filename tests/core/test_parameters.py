"""ParameterSpace: order, views, moving and restoring."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mtlsuite as mtl
from mtlsuite.core.pool import Pool


def parameter(*shape: int, **kwargs) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, **kwargs))


def test_shared_come_first_and_doubles_among_specific_once() -> None:
    a, b, head = parameter(2, 3), parameter(4), parameter(5)
    space = mtl.ParameterSpace([a, b], [[head], [], [head]])
    assert [id(p) for p in space.parameters] == [id(a), id(b), id(head)]
    assert (space.n_shared, space.n_entries) == (10, 15)


def test_frozen_parameters_are_left_out() -> None:
    a, frozen = parameter(2), parameter(3)
    frozen.requires_grad_(False)
    space = mtl.ParameterSpace([a, frozen], [[frozen]])
    assert (space.n_shared, space.n_entries) == (2, 2)


def test_generators_are_accepted() -> None:
    model = nn.Linear(2, 3)
    assert mtl.ParameterSpace(model.parameters(), [iter([])]).n_entries == 9


def test_views_have_the_shapes_and_write_through() -> None:
    a, b, s = parameter(2, 3), parameter(4), parameter()
    space = mtl.ParameterSpace([a, b, s])
    flat = torch.arange(11.0)
    views = space.views(flat)
    assert [v.shape for v in views] == [a.shape, b.shape, s.shape]
    views[1].fill_(-1)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1, -1, 10]


def test_write_add_and_missing_gradients() -> None:
    a, b = parameter(2), parameter(2)
    space, flat = mtl.ParameterSpace([a, b]), torch.full((4,), 9.0)
    space.write(flat, [torch.tensor([1.0, 2.0]), None])
    assert flat.tolist() == [1, 2, 0, 0]
    space.add(flat, [None, torch.tensor([5.0, 6.0])])
    assert flat.tolist() == [1, 2, 5, 6]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moved_and_back_bit_for_bit(dtype: torch.dtype, layout: torch.memory_format) -> None:
    conv = nn.Conv2d(3, 4, 3).to(dtype).to(memory_format=layout)
    space = mtl.ParameterSpace(conv.parameters())
    start = [p.detach().clone() for p in conv.parameters()]
    step = torch.randn(space.n_entries, dtype=space.dtype)

    def fail_where_moved() -> None:
        with space.restored(Pool()):
            space.move(step)
            for p, s, e in zip(conv.parameters(), start, space.views(step), strict=True):
                assert torch.equal(p.detach(), s + e)
            raise KeyError

    with pytest.raises(KeyError):
        fail_where_moved()
    for p, s in zip(conv.parameters(), start, strict=True):
        assert torch.equal(p.detach(), s)


def test_mixed_dtypes_restore_exactly() -> None:
    a, b = parameter(3, dtype=torch.bfloat16), parameter(3, dtype=torch.float64)
    space = mtl.ParameterSpace([a, b])
    assert space.dtype == torch.float64
    start = a.detach().clone(), b.detach().clone()
    with space.restored(Pool()):
        space.move(torch.ones(6, dtype=torch.float64))
        assert not torch.equal(a, start[0])
    assert torch.equal(a, start[0])
    assert torch.equal(b, start[1])
    space.set_gradients(torch.ones(6, dtype=torch.float64))
    assert (a.grad.dtype, b.grad.dtype) == (torch.bfloat16, torch.float64)


def test_channels_last_views_keep_the_logical_values() -> None:
    p = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    space = mtl.ParameterSpace([p])
    flat = space.copy(Pool())
    (view,) = space.views(flat)
    assert torch.equal(view, p)
    assert view.stride() == p.stride()


def test_a_transposed_leaf_works() -> None:
    p = torch.randn(3, 4).T.detach().requires_grad_()
    space = mtl.ParameterSpace([p])
    start = p.detach().clone()
    assert torch.equal(space.views(space.copy(Pool()))[0], p)
    with space.restored(Pool()):
        space.move(torch.ones(12))
        assert torch.equal(p.detach(), start + 1)
    assert torch.equal(p.detach(), start)


def test_errors() -> None:
    a, b, frozen = parameter(2), parameter(3), parameter(2).requires_grad_(False)
    cases = [
        (([a], [[b], [a]]), r"shared and in specific\[1\]"),
        (([a, b, a],), "shared lists a parameter twice"),
        (([a], [[b, b]]), r"specific\[0\] lists a parameter twice"),
        (([frozen],), "all are frozen"),
        (([],), "none was given"),
        ((a,), r"list of parameters, found one \w+ of shape \(2,\)"),
        (([a, "b"],), r"shared\[1\] is not a tensor but str"),
        (([a * 2],), "leaf"),
        (([a], [b]), r"specific\[0\] is a list"),
    ]
    for arguments, message in cases:
        with pytest.raises(mtl.UsageError, match=message):
            mtl.ParameterSpace(*arguments)
