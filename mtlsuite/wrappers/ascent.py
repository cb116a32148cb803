"""Where sharpness-aware methods look: the ascents, and the wrappers that ask the solver inside there."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..core.errors import UsageError
from ..core.oracle import Oracle
from ..core.registry import build, nested, register
from ..core.report import Direction, Metrics
from ..core.solver import Common, Solver, Wrapper
from ..core.types import NonNegative
from ..linalg import polar_factors

AscentSpec = Annotated[str | dict[str, Any], nested("ascent")]  # a name, or {"name": ..., **options}
Clean = Literal["inner", "mean"]
Polar = Literal["newton_schulz", "exact"]
PolarDtype = Literal["float32", "bfloat16"]
Scale = Literal["weight_norm", "none"]

TINY = 1e-12  # gradients of smaller norm do not move their tensor


class Ascent(abc.ABC):
    """A displacement epsilon of theta towards higher loss; registered under the kind ``ascent``.

    ``__init__`` has the option ``rho``, which the wrapper around it passes on.

    Attributes:
        rho: its radius; 0: none.
    """

    name: ClassVar[str]
    rho: float

    @abc.abstractmethod
    def __call__(self, oracle: Oracle) -> tuple[Tensor, Metrics]:
        """(P,) epsilon where the oracle stands, the caller's to change, and what to log of it."""


class Ascending(Wrapper):
    """Asks the solver inside at theta + epsilon.

    Args:
        inner: the solver asked there.
        ascent: gives epsilon.
    """

    def __init__(self, inner: Solver, ascent: Ascent, **common: Unpack[Common]) -> None:
        super().__init__(inner, **common)
        self.ascent = ascent

    @property
    def rho(self) -> float:
        """Radius of the ascent."""
        return self.ascent.rho

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the solver inside at the displaced point."""
        if self.ascent.rho == 0:
            return self.inner.direction(oracle)
        return _asked_there(self, oracle, partial(self.ascent, oracle))


class TwoPoints(Wrapper):
    """Joins a gradient g at theta with the direction of the solver inside at theta + epsilon.

    Args:
        inner: the solver asked there.
        rho: radius of the ascent, where its specification gives none.
        ascent: specification of what gives epsilon.
        clean: g is the direction of the solver inside at theta (``inner``) or the mean gradient (``mean``).
    """

    def __init__(
        self, inner: Solver, rho: float, ascent: str | dict[str, Any], clean: Clean, **common: Unpack[Common]
    ) -> None:
        super().__init__(inner, **common)
        spec = {"name": ascent} if isinstance(ascent, str) else ascent
        self.ascent: Ascent = build("ascent", {"rho": rho, **spec})
        self.clean = clean

    @property
    def rho(self) -> float:
        """Radius of the ascent."""
        return self.ascent.rho

    def displace(self, displacement: Tensor, clean: Tensor) -> Tensor:  # noqa: ARG002
        """(P,) displacement at which the solver inside is asked."""
        return displacement

    @abc.abstractmethod
    def join(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """(P,) direction out of g and the solver's direction at the displaced point; both may be changed."""

    def direction(self, oracle: Oracle) -> Direction:
        """g joined with the direction of the solver inside at the displaced point."""
        oracle.keep_mean = True
        if self.clean == "inner":
            clean = self.inner.direction(oracle).vector
        else:  # an absent source counts as a loss of zero
            clean = oracle.mean_gradient().mul_(oracle.n_sources / oracle.n_total)

        def climb() -> tuple[Tensor, Metrics]:
            displacement, metrics = self.ascent(oracle)
            return self.displace(displacement, clean), metrics

        inner = _asked_there(self, oracle, climb)
        return replace(inner, vector=self.join(clean, inner.vector))


def _asked_there(wrapper: Wrapper, oracle: Oracle, climb: Callable[[], tuple[Tensor, Metrics]]) -> Direction:
    displacement, metrics = climb()
    metrics["perturbation_norm"] = torch.linalg.vector_norm(displacement)
    with oracle.path() as there:
        there.advance(displacement)
        del displacement  # (P,) for what the solver inside needs
        inner = wrapper.inner.direction(there)
    named = {f"{wrapper.name}/{key}": value for key, value in metrics.items()}
    return replace(inner, metrics={**inner.metrics, **named})


@register("ascent", "sam")
class SAMAscent(Ascent):
    """eps = rho g / ||g||, g the mean gradient (Foret et al., ICLR 2021, eq. 2).

    Args:
        rho: length of the displacement, over all parameters.
        adaptive: eps = rho T^2 g / ||T g|| with T = |theta| entry by entry (Kwon et al., ASAM, ICML 2021,
            eq. 4).
    """

    def __init__(self, rho: NonNegative = 0.05, adaptive: bool = False) -> None:
        self.rho = rho
        self.adaptive = adaptive

    def __call__(self, oracle: Oracle) -> tuple[Tensor, Metrics]:
        gradient = oracle.mean_gradient()
        if not self.adaptive:
            return normalized(gradient, self.rho), {}
        scale = oracle.space.copy(oracle.pool).abs_()
        gradient.mul_(scale)
        norm = torch.linalg.vector_norm(gradient)
        return gradient.mul_(scale).mul_(_ratio(self.rho, norm)), {}


@register("ascent", "disam")
class DISAMAscent(Ascent):
    """eps = rho g / ||g||, g the gradient of mean L - lambda Var(L) (Zhang et al., ICLR 2024).

    Args:
        rho: length of the displacement, over all parameters.
        lambda_: weight of the variance (``lambda`` in YAML).
    """

    def __init__(self, rho: NonNegative = 0.05, lambda_: NonNegative = 0.1) -> None:
        self.rho = rho
        self.lambda_ = lambda_

    def __call__(self, oracle: Oracle) -> tuple[Tensor, Metrics]:
        losses = oracle.losses()
        gradient = oracle.pullback(variance_weights(losses, self.lambda_))
        return normalized(gradient, self.rho), {"loss_variance": losses.var(correction=0)}


@register("ascent", "sage")
class SAGEAscent(Ascent):
    """eps = rho ||W||_F U V^T for tensors with 2 or more dimensions, rho g / ||g|| for the others.

    U V^T is the polar factor of the tensor's mean gradient, reshaped to (out, rest) (Ballas and Diou, SAGE,
    2026, Figure 1).

    Args:
        rho: radius of the ascent.
        scale: ``weight_norm``, or ``none``: without the factor ||W||_F.
        polar: ``newton_schulz``: five quintic steps, singular values in about [0.68, 1.20]; ``exact``: SVD.
        polar_dtype: precision of the polar factor; default: that of the gradient.
        compile: run ``newton_schulz`` through ``torch.compile``.

    Raises:
        UsageError: ``compile`` with ``polar="exact"``.
    """

    def __init__(
        self,
        rho: NonNegative = 0.05,
        scale: Scale = "weight_norm",
        polar: Polar = "newton_schulz",
        polar_dtype: PolarDtype | None = None,
        compile: bool = False,
    ) -> None:
        if compile and polar == "exact":
            raise UsageError("compile: allowed only with 'polar: newton_schulz', found 'exact'")
        self.rho = rho
        self.scale = scale
        self.polar: Polar = polar
        self.polar_dtype = polar_dtype
        self.compile = compile

    def __call__(self, oracle: Oracle) -> tuple[Tensor, Metrics]:
        gradient = oracle.mean_gradient()
        pairs = list(zip(oracle.space.views(gradient), oracle.space.parameters, strict=True))
        vectors = [view for view, _ in pairs if view.dim() < 2]
        if vectors:
            norms = _norms(vectors)
            _multiply_(vectors, self.rho / norms.clamp_min(TINY), norms)
        matrices = [(view, parameter.detach()) for view, parameter in pairs if view.dim() >= 2]
        if matrices:
            self._to_polar_(*map(list, zip(*matrices, strict=True)))
        return gradient, {}

    def _to_polar_(self, gradients: list[Tensor], weights: list[Tensor]) -> None:
        """Each gradient of two or more dimensions becomes the displacement of its weight."""
        dtype = getattr(torch, self.polar_dtype) if self.polar_dtype else None
        norms = _norms(gradients)
        factors = polar_factors(
            [gradient.flatten(1) for gradient in gradients], self.polar, dtype=dtype, compile=self.compile
        )
        for gradient, factor in zip(gradients, factors, strict=True):
            gradient.copy_(factor.view(gradient.shape))
        stretch = torch.ones_like(norms) if self.scale == "none" else _norms(weights).to(norms)
        _multiply_(gradients, self.rho * stretch, norms)


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))


def _multiply_(gradients: list[Tensor], factors: Tensor, norms: Tensor) -> None:
    """Multiply each gradient, in place, by its factor, or by 0 where it had no norm to speak of."""
    torch._foreach_mul_(gradients, list((factors * (norms >= TINY)).unbind()))


def variance_weights(losses: Tensor, lambda_: float) -> Tensor:
    """(K,) weights w_k = 1/K - (2 lambda / K) (L_k - mean L) of the gradient of mean L - lambda Var(L)."""
    return (1 - 2 * lambda_ * (losses - losses.mean())) / len(losses)


def normalized(vector: Tensor, length: float) -> Tensor:
    """The vector scaled to that length, in place; 0 stays 0."""
    return vector.mul_(_ratio(length, torch.linalg.vector_norm(vector)))


def _ratio(length: float, norm: Tensor) -> Tensor:
    return torch.where(norm > 0, length / norm, torch.zeros_like(norm))
