"""LibMTL as it is installed, repaired where it does not run on current packages: in memory only."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..core.errors import UsageError

INSTALL = "pip install 'mtlsuite[libmtl]'"
CPU = torch.device("cpu")
_GONE = "torchvision.models.utils"


def load_libmtl() -> Any:
    """The package LibMTL. What had to be repaired is told by one warning; what works is left alone.

    Raises:
        UsageError: LibMTL, or a package that it needs, is not installed.
    """
    library, told = _imported()
    told += [text for repair in (_repair_iteration, _repair_codes) if (text := repair(library))]
    if told:
        warnings.warn(
            f"LibMTL repaired in memory, its files are untouched: {'; '.join(told)}",
            stacklevel=5,  # where the plugin is imported
        )
    return library


def _imported() -> tuple[Any, list[str]]:
    try:
        return importlib.import_module("LibMTL"), []
    except ModuleNotFoundError as error:
        if error.name == "LibMTL":
            raise UsageError(f"LibMTL is needed: {INSTALL}") from None
        if error.name != _GONE:
            raise UsageError(f"LibMTL is installed, but not the package {error.name} that it needs") from None
    for name in [name for name in sys.modules if name.split(".")[0] == "LibMTL"]:
        del sys.modules[name]  # what the failed import left behind
    stand_in = ModuleType(_GONE, "Where torchvision once had what is now torch.hub.load_state_dict_from_url.")
    vars(stand_in)["load_state_dict_from_url"] = torch.hub.load_state_dict_from_url
    sys.modules[_GONE] = stand_in
    return importlib.import_module("LibMTL"), [f"{_GONE} supplied, which torchvision no longer has"]


def _repair_iteration(library: Any) -> str | None:
    """The trainer's ``iterator.next()``, which PyTorch's loaders no longer have."""
    batches: Any = [(torch.zeros(1), torch.zeros(1))]
    loader: DataLoader[Any] = DataLoader(batches, generator=torch.Generator())
    trainer = SimpleNamespace(device=CPU, multi_input=True, task_name=[])
    try:
        library.Trainer._process_data(trainer, [loader, iter(loader)])
    except AttributeError as error:
        if error.name == "next":
            library.Trainer._process_data = _process_data
            return "batches by next(iterator) instead of iterator.next()"
    return None


def _process_data(self: Any, loader: list[Any]) -> tuple[Any, Any]:
    """The next batch of ``loader``, a list of a DataLoader and an iterator of it, on the trainer's device."""
    try:
        inputs, labels = next(loader[1])
    except StopIteration:
        loader[1] = iter(loader[0])
        inputs, labels = next(loader[1])
    inputs = inputs.to(self.device, non_blocking=True)
    if self.multi_input:
        return inputs, labels.to(self.device, non_blocking=True)
    return inputs, {task: labels[task].to(self.device, non_blocking=True) for task in self.task_name}


def _repair_codes(library: Any) -> str | None:
    """DSelect-k's table of expert numbers in binary, which it reads from text; NumPy 2 takes "0" for true."""
    architecture = getattr(library.architecture, "DSelect_k", None)
    if architecture is None or _has_codes(architecture):
        return None
    original = architecture.__init__

    def repaired(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        places = torch.arange(self._num_binary - 1, -1, -1)
        codes = torch.arange(self.num_experts).unsqueeze(1) >> places & 1
        self._binary_codes = codes.bool().unsqueeze(0).to(self._binary_codes.device)

    architecture.__init__ = repaired
    return 'the expert codes of DSelect_k, all of them "true" under NumPy 2'


def _has_codes(architecture: Any) -> bool:
    options = {"img_size": [1], "num_experts": [2], "num_nonzeros": 1, "kgamma": 1.0}
    decoders = nn.ModuleDict({"a": nn.Identity()})
    with torch.random.fork_rng(devices=[]):
        model = architecture(["a"], nn.Identity, decoders, False, False, CPU, **options)
    return bool(model._binary_codes.flatten().tolist() == [False, True])


library: Any = load_libmtl()
