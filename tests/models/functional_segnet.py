"""SegNet and SegNet-MTAN once more, written from their description as plain arithmetic on given weights.

Nothing of ``torch.nn`` but its parameters is used: convolutions are matrix products of unfolded patches,
pooling picks the largest of four, unpooling puts it back where it was, and bilinear upsampling is a matrix
from the left and one from the right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def layers(module: nn.Module) -> list[nn.Module]:
    """Convolutions and normalizations in their order."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    (b, _, h, w), k = x.shape, conv.kernel_size[0]
    padded = nn.functional.pad(x, (k // 2,) * 4)
    patches = padded.unfold(2, k, 1).unfold(3, k, 1)  # (B, C, H, W, k, k)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(b * h * w, -1)
    result = rows @ conv.weight.reshape(len(conv.weight), -1).T + conv.bias
    return result.reshape(b, h, w, -1).permute(0, 3, 1, 2)


def standardize(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def conv(x: Tensor, pair: list[nn.Module]) -> Tensor:
    """Convolution, BatchNorm, ReLU."""
    return standardize(convolve(x, pair[0]), pair[1]).clamp(min=0)


def att(x: Tensor, module: nn.Module) -> Tensor:
    first, norm, second, last_norm = layers(module)
    return 1 / (1 + torch.exp(-standardize(convolve(conv(x, [first, norm]), second), last_norm)))


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each 2x2 block, and a mask of (B, C, h, 2, w, 2) of where it was."""
    b, c, h, w = x.shape
    blocks = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(b, c, h // 2, 2, w // 2, 2)
    best = blocks.amax(dim=(3, 5))
    first = (blocks == best[:, :, :, None, :, None]).permute(0, 1, 2, 4, 3, 5).flatten(-2)
    first = first & (first.cumsum(dim=-1) == 1)  # ReLU makes ties of zeros; the first of them is taken
    return best, first.unflatten(-1, (2, 2)).permute(0, 1, 2, 4, 3, 5)


def unpool(x: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    b, c, h, w = x.shape
    blocks = x[:, :, :, None, :, None] * mask
    result = torch.zeros_like(like)
    result[:, :, : 2 * h, : 2 * w] = blocks.reshape(b, c, 2 * h, 2 * w)
    return result


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    def matrix(n_in: int, n_out: int) -> Tensor:
        at = torch.arange(n_out, dtype=x.dtype) * (n_in - 1) / max(n_out - 1, 1)
        return (1 - (at[:, None] - torch.arange(n_in, dtype=x.dtype)).abs()).clamp(min=0)

    return matrix(x.shape[2], size[0]) @ x @ matrix(x.shape[3], size[1]).T


def head(x: Tensor, module: nn.Module) -> Tensor:
    for layer in layers(module):
        x = convolve(x, layer)
    return x


def trunk(model: nn.Module, x: Tensor) -> tuple[list, list, dict, dict]:
    """Encoder (first, last) and decoder (unpooled, decoded) features, by stage."""
    first, last, masks = [], [], []
    for stage in model.trunk.encoder:
        pairs = [layers(stage)[i : i + 2] for i in range(0, len(layers(stage)), 2)]
        first.append(conv(x, pairs[0]))
        x = first[-1]
        for pair in pairs[1:]:
            x = conv(x, pair)
        last.append(x)
        x, mask = pool(x)
        masks.append(mask)
    unpooled, decoded = {}, {}
    for i in range(len(first) - 1, -1, -1):
        x = unpooled[i] = unpool(x, masks[i], last[i])
        stage = layers(model.trunk.decoder[i])
        for j in range(0, len(stage), 2):
            x = conv(x, stage[j : j + 2])
        decoded[i] = x
    return first, last, unpooled, decoded


def segnet(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    decoded = trunk(model, x)[-1]
    return {task: head(decoded[0], module) for task, module in model.heads.items()}


def mtan(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    first, last, unpooled, decoded = trunk(model, x)
    predictions = {}
    for task, module in model.heads.items():
        masks = model.attention[task]
        own = None
        for i in range(len(first)):
            seen = first[i] if own is None else torch.cat([first[i], own], dim=1)
            own, _ = pool(conv(att(seen, masks.encoder[i]) * last[i], layers(model.down[i])))
        for i in range(len(first) - 1, -1, -1):
            up = conv(upsample(own, unpooled[i].shape[2:]), layers(model.up[i]))
            own = att(torch.cat([unpooled[i], up], dim=1), masks.decoder[i]) * decoded[i]
        predictions[task] = head(own, module)
    return predictions
