"""Importing the plugin makes LibMTL 1.1.5 run on current packages, and says so once."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

import libmtl_problems
import pytest
import torchvision

import mtlsuite as mtl
from mtlsuite.plugins import _libmtl_compat

PROGRAM = """
import mtlsuite.plugins.libmtl
import importlib, torch
importlib.reload(mtlsuite.plugins.libmtl)
from LibMTL.model import resnet18, resnet_dilated
from LibMTL import Trainer
assert issubclass(mtlsuite.plugins.libmtl.Trainer, Trainer)
assert resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 1, 1)
print("fine")
"""


def installed() -> Path:
    spec = importlib.util.find_spec("LibMTL")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def digest() -> str:
    files = sorted(installed().rglob("*.py"))
    assert len(files) > 20
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_import_says_once_what_it_repaired_and_touches_no_file() -> None:
    before = digest()
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"
    assert done.stderr.count("LibMTL repaired in memory") == 1
    assert "<string>:2: UserWarning" in done.stderr, "the line of the user's program"
    assert digest() == before
    there = PathFinder.find_spec("torchvision.models.utils", torchvision.models.__path__)
    assert ("torchvision.models.utils supplied" in done.stderr) is (there is None)


def test_a_second_load_finds_nothing_to_repair() -> None:
    trainer, select = libmtl_problems.libmtl.Trainer.__mro__[1], _libmtl_compat.load_libmtl().architecture
    before = trainer._process_data, select.DSelect_k.__init__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _libmtl_compat.load_libmtl()
    assert (trainer._process_data, select.DSelect_k.__init__) == before


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("LibMTL", r"LibMTL is needed: pip install 'mtlsuite\[libmtl\]'"),
        ("torch_geometric", "LibMTL is installed, but not the package torch_geometric that it needs"),
    ],
)
def test_without_libmtl_or_what_it_needs(missing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(_libmtl_compat.importlib, "import_module", absent)
    with pytest.raises(mtl.UsageError, match=message):
        _libmtl_compat.load_libmtl()
