"""Economy: how the gradients of all sources are kept, if at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Memory = Literal["fast", "low"]
JacobianDtype = Literal["float64", "float32", "bfloat16"]


@dataclass(frozen=True)
class Economy:
    """What a step may spend on gradients.

    Attributes:
        memory: ``fast``: one (K, P) Jacobian; ``low``: never that, which is enough for solvers that ask for
            the Gramian alone, nor a joint graph where there are separate ones.
        jacobian_dtype: dtype of the Jacobian's entries; None: that of the parameters.
    """

    memory: Memory = "fast"
    jacobian_dtype: JacobianDtype | None = None

    def dtype(self, of_parameters: torch.dtype) -> torch.dtype:
        """The dtype of the rows of a Jacobian."""
        found: torch.dtype = getattr(torch, self.jacobian_dtype) if self.jacobian_dtype else of_parameters
        return found
