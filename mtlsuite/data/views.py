"""Augmented views of a batch, for single-domain generalization."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from .sampling import derived_seed


def random_views(
    count: int, ops: int, key: object, positions: Sequence[int] | None = None
) -> list[Callable[[Tensor], Tensor]]:
    """``count`` RandAugment views with ``ops`` operations, each image augmented by draws of its own.

    The draws depend on the key, the view and the image's position in the batch, so that ranks which share a
    batch see the views of one process.

    Zhang et al., ACM MM 2024 (section 4.1) use three views with two operations.

    Args:
        count: number of views K.
        ops: RandAugment operations an image.
        key: what the draws depend on; equal keys give equal views.
        positions: of the images in the batch, if they are not the whole of it.
    """
    augment = v2.RandAugment(num_ops=ops)

    def view(k: int) -> Callable[[Tensor], Tensor]:
        def apply(inputs: Tensor) -> Tensor:
            places = range(len(inputs)) if positions is None else positions
            with torch.random.fork_rng(devices=[]):
                return torch.stack([drawn(image, k, i) for image, i in zip(inputs, places, strict=True)])

        return apply

    def drawn(image: Tensor, k: int, position: int) -> Tensor:
        # torch.manual_seed would reseed GPUs, too
        torch.default_generator.manual_seed(derived_seed(key, k, position))
        augmented: Tensor = augment(image)
        return augmented

    return [view(k) for k in range(count)]
