"""Where sharpness-aware methods look: the displacement epsilon of an ascent step.

Each function turns a gradient (P,) into a displacement (P,) in place, without a host synchronisation.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.parameters import ParameterSpace
from ..linalg import polar_factors

Polar = Literal["newton_schulz", "exact"]
PolarDtype = Literal["float32", "bfloat16"]
Scale = Literal["weight_norm", "none"]

TINY = 1e-12  # gradients of smaller norm do not move their tensor


def normalized_ascent(gradient: Tensor, rho: float) -> Tensor:
    """eps = rho g / ||g|| over all parameters (Foret et al., ICLR 2021, eq. 2); 0 for a zero gradient."""
    return gradient.mul_(_ratio(rho, torch.linalg.vector_norm(gradient)))


def adaptive_ascent(theta: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """eps = rho T^2 g / ||T g|| with T = |theta| entry by entry (Kwon et al., ASAM, ICML 2021, eq. 4).

    ``theta`` (P,) is overwritten, too.
    """
    scale = theta.abs_()
    gradient.mul_(scale)
    norm = torch.linalg.vector_norm(gradient)
    return gradient.mul_(scale).mul_(_ratio(rho, norm))


def spectral_ascent(
    space: ParameterSpace,
    gradient: Tensor,
    rho: float,
    scale: Scale,
    polar: Polar,
    polar_dtype: PolarDtype | None,
) -> Tensor:
    """eps = rho ||W||_F U V^T for tensors with 2 or more dimensions, rho g / ||g|| for the others.

    U V^T is the polar factor of the tensor's gradient, reshaped to (out, rest); with ``scale="none"`` the
    factor ||W||_F is left out (Ballas and Diou, SAGE, 2026, Figure 1).
    """
    views = space.views(gradient)
    norms = torch.stack(torch._foreach_norm(views))
    matrices = [view for view in views if view.dim() >= 2]
    dtype = getattr(torch, polar_dtype) if polar_dtype else None
    factors = polar_factors([matrix.flatten(1) for matrix in matrices], method=polar, dtype=dtype)
    for matrix, factor in zip(matrices, factors, strict=True):
        matrix.copy_(factor.view(matrix.shape))
    lengths = torch.full_like(norms, rho)
    if scale == "weight_norm":
        lengths = rho * torch.stack(torch._foreach_norm([p.detach() for p in space.parameters])).to(norms)
    is_matrix = torch.tensor([view.dim() >= 2 for view in views], device=norms.device)
    stretch = torch.where(is_matrix, lengths, rho / norms.clamp_min(TINY)) * (norms >= TINY)
    torch._foreach_mul_(views, list(stretch.unbind()))
    return gradient


def _ratio(rho: float, norm: Tensor) -> Tensor:
    return torch.where(norm > 0, rho / norm, torch.zeros_like(norm))
