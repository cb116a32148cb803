"""Fixtures that the tests share."""

from __future__ import annotations

import pytest
import torch
from problems import NESTINGS, TYPICAL, Passes

torch.set_num_threads(1)  # tiny problems: threads only cost


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Counts from now on; both ways into autograd are counted."""
    counter = Passes()
    for name in ("grad", "backward"):
        original = getattr(torch.autograd, name)

        def counted(*args, _original=original, **kwargs):
            counter.backwards += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, name, counted)
    return counter


@pytest.fixture(params=NESTINGS.values(), ids=NESTINGS.keys())
def nesting(request: pytest.FixtureRequest) -> dict:
    """The spec of every base solver, and of it inside every one or two wrappers."""
    return request.param


@pytest.fixture(params=TYPICAL.values(), ids=TYPICAL.keys())
def typical(request: pytest.FixtureRequest) -> dict:
    """A few of the nestings, for properties that take longer."""
    return request.param
