"""The contact sheet: a readable picture of any data set."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import torch

from mtlsuite.core.errors import UsageError
from mtlsuite.data import RotatedDigits, Scenes, TensorSplit, contact_sheet
from mtlsuite.data.sheet import _picture


@pytest.mark.parametrize("kind", ["scenes", "digits"])
def test_it_draws_every_domain(tmp_path, kind):
    if kind == "scenes":
        data = Scenes(height=12, width=16, n_train=1, n_val=2, domains=["day", "fog"], cache=str(tmp_path))
    else:
        data = RotatedDigits()
    path = contact_sheet(data, tmp_path / "sheet.png", samples=3)
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 100 * len(data.domains)
    assert picture[..., :3].std() > 0.05


def test_targets_become_colours():
    ids = torch.tensor([[0, 1], [1, -1]])
    colours = _picture(ids, 7)
    assert (colours[0, 1] == colours[1, 0]).all()
    assert (colours[0, 0] != colours[0, 1]).any()
    assert (colours[1, 1] == 0).all()
    np.testing.assert_allclose(_picture(torch.tensor([[[2.0, 4.0, 0.0]]]), 1), [[1.0, 0.5, 0.0]])
    np.testing.assert_allclose(
        _picture(torch.tensor([0.0, -1.0, 1.0])[:, None, None], 3), [[[0.5, 0.0, 1.0]]]
    )


def test_an_unknown_part_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError, match="unknown part"):
        contact_sheet(RotatedDigits(), tmp_path / "sheet.png", part="test")


def test_a_split_refuses_targets_that_do_not_fit():
    with pytest.raises(UsageError, match="4 inputs, but 3 targets of 'class'"):
        TensorSplit(torch.zeros(4, 1, 2, 2), {"class": torch.zeros(3, dtype=torch.long)})
