"""Large tensors that are used again as soon as nobody holds them."""

from __future__ import annotations

import torch
from torch import Tensor


class Pool:
    """Hands out uninitialised tensors; a storage returns by itself when nothing refers to it any more.

    A training step needs a few (P,) vectors and one (K, P) matrix, the same every time. Ownership is
    by reference: who keeps a vector, a view or a numpy array of it across steps simply keeps it, and the next
    step gets another one.
    """

    def __init__(self) -> None:
        self._slots: list[_Slot] = []

    def __reduce__(self) -> tuple[type[Pool], tuple[()]]:
        return Pool, ()  # a copied solver starts with an empty pool

    def take(self, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of the given shape, its values undefined."""
        tensor = torch.empty(0, dtype=dtype, device=device)
        n_bytes = torch.Size(shape).numel() * tensor.element_size()
        slot = next((slot for slot in self._slots if slot.fits(n_bytes, device)), None)
        if slot is None:
            slot = _Slot(torch.empty(n_bytes, dtype=torch.uint8, device=device).untyped_storage())
            self._slots.append(slot)
        slot.used = True
        strides = torch.empty(shape, device="meta").stride()
        return tensor.set_(slot.storage, 0, shape, strides)

    def trim(self) -> None:
        """Forget the free storages that were not needed since the last trim."""
        self._slots = [slot for slot in self._slots if slot.used or not slot.free]
        for slot in self._slots:
            slot.used = False


class _Slot:
    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.used = True

    @property
    def free(self) -> bool:
        """Whether this slot is the only one that refers to the storage."""
        # Only the storage itself knows of detached tensors, arrays and Parameters that share it.
        return torch._C._storage_Use_Count(self.storage._cdata) == 1

    def fits(self, n_bytes: int, device: torch.device) -> bool:
        return self.storage.nbytes() == n_bytes and self.storage.device == device and self.free
