"""Augmented views of a batch, for single-domain generalization."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from .sampling import derived_seed


def random_views(count: int, ops: int, key: object) -> list[Callable[[Tensor], Tensor]]:
    """``count`` RandAugment views with ``ops`` operations, each image augmented by draws of its own.

    Zhang et al., ACM MM 2024 (section 4.1) use three views with two operations.

    Args:
        count: number of views K.
        ops: RandAugment operations an image.
        key: what the draws depend on; equal keys give equal views.
    """
    augment = v2.RandAugment(num_ops=ops)

    def view(k: int) -> Callable[[Tensor], Tensor]:
        def apply(inputs: Tensor) -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(
                    derived_seed(key, k)
                )  # manual_seed would reseed GPUs, too
                return torch.stack([augment(image) for image in inputs])

        return apply

    return [view(k) for k in range(count)]
