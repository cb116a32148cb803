"""Any aggregator or scalarizer of TorchJD as a base solver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.economy import JacobianDtype, Memory
from ..core.errors import UsageError
from ..core.finite import check_gradients, check_losses
from ..core.oracle import Oracle
from ..core.products import inner_products
from ..core.registry import register
from ..core.report import Direction, Metrics
from ..core.solver import OnNonfinite, Solver
from ..core.types import Count
from ._module_state import State, capture, restore
from ._torchjd import Kind, Method, library

CPU = torch.device("cpu")


@register("solver", "torchjd")
class TorchJD(Solver):
    """Any method of the package TorchJD: aggregators of the Jacobian, scalarizers of the losses.

    Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024. An *aggregator* acts on the
    Jacobian over the SHARED parameters. Where it weights the sources, d = sum_k w_k g_k over all parameters;
    where it does not (ConFIG, GradDrop, TrimmedMean), private parameters get the sum of their gradients. MoDo
    and SDMGrad take their weights from the Jacobians of two further minibatches, which the objective must
    supply. A *scalarizer* s acts on the losses: d = sum_k (ds / dL_k) g_k.

    Cost: Aggregators 1 forward, K backwards (MoDo and SDMGrad: 3 and 2 K + 1); scalarizers 1 forward,
    1 backward (FAMO: 2 forwards).
    Known: Problems of size K, and their state, live on the CPU. Inside a wrapper a stateful method sees what
    the wrapper shows it (FAMO, too, which unlike the solver ``famo`` compares with the losses there); its
    state advances once a step, however often it is asked. TrimmedMean also trims away what is not finite.

    Args:
        aggregator: name of a class in ``torchjd.aggregation``; ``MoDo``, ``SDMGrad``; or ``CRMOGM``, which
            smooths over the steps the weights of another (``weighting``: a name, or ``name`` and options).
        scalarizer: name of a class in ``torchjd.scalarization``; exactly one of the two is given.
        n_sources: K; default: as many as the objective has.
        options: those of the class under their own names, tensors as lists, ``projector`` as a mapping of the
            options of ``QuadprogProjector``. For UW and IMTLL, which learn by descent on s, ``lr`` of their
            Adam (0.025, as loss weights in the reference code of Nash-MTL); for DWA ``steps_per_epoch``.

    Raises:
        UsageError: TorchJD or an optional dependency of it is missing; unknown name or option; the method is
            not defined for this K or for these losses.
    """

    stateful = ("method", "n_sources", "steps", "state")

    def __init__(
        self,
        aggregator: str | None = None,
        scalarizer: str | None = None,
        n_sources: Count | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
        on_nonfinite: OnNonfinite = "raise",
        memory: Memory = "fast",
        jacobian_dtype: JacobianDtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            seed=seed,
            generator=generator,
            on_nonfinite=on_nonfinite,
            memory=memory,
            jacobian_dtype=jacobian_dtype,
        )
        self._method = _chosen(aggregator, scalarizer, options)
        self.method = f"{self._method.kind} {self._method.name}"
        self.n_sources = n_sources
        self.steps = 0
        self.state: State | None = None  # of the module, after the last step
        self._module: Any = None
        self._made_for: tuple[int, torch.dtype, torch.device] | None = None
        self._asked = False
        self._tied: bool | None = None
        if n_sources is None:  # only the options can be checked
            self._method.build(self._method.likely_n_sources, torch.float32, CPU)
        else:
            self._make(n_sources, torch.float32, CPU)

    @classmethod
    def complete_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options of a specification, those of the chosen method with their defaults.

        Raises:
            UsageError: as the constructor.
        """
        return {**given, **cls(**given)._method.options}

    @property
    def weighted(self) -> bool:  # type: ignore[override]
        """Whether the method weights the sources."""
        return self._method.weighted

    @property
    def needs_rows(self) -> bool:  # type: ignore[override]
        """Whether the method needs the Jacobian, or two of them, and not the Gramian alone."""
        return self._method.kind == "aggregator" and not self._method.gramian_weighted

    def direction(self, oracle: Oracle) -> Direction:
        """The direction of the method, from the state after the last step."""
        module, device = self._ready(oracle), oracle.space.device
        filling = self._filling(oracle)
        seed = int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))
        try:
            with _global_draws(seed, device):
                if self._method.kind == "scalarizer":
                    direction = _scalarized(module, oracle, filling)
                else:
                    direction = _aggregated(module, oracle, filling)
        except Exception as error:
            check_losses(oracle)  # a NaN is what to tell, not what TorchJD stumbled over because of it
            if self._method.kind == "aggregator":
                check_gradients(oracle)
            if isinstance(error, ValueError) and not isinstance(error, UsageError):
                raise self._unfit(error, oracle.n_sources) from error
            raise
        self._asked = True
        return direction

    def after_step(self, oracle: Oracle) -> None:
        """Learn from the step where the method learns, and keep the state that the last direction left."""
        if not self._asked:
            return
        self._asked = False
        self.steps += 1
        module, epoch = self._module, self._method.options.get("steps_per_epoch")
        if hasattr(module, "optimizer"):
            module.optimizer.step()
        elif hasattr(module, "update"):
            module.update(_filled(self._filling(oracle), _on_cpu(oracle.probe())))
            if not all(bool(p.isfinite().all()) for p in module.parameters()):
                return  # the next step finds and tells what is not finite
        if epoch and self.steps % epoch == 0:
            module.step()
        self.state = capture(module)
        if self.state:
            self.n_sources = oracle.n_total

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        found = state["attributes"]
        if found["method"] != self.method:
            raise UsageError(f"the state is of TorchJD's {found['method']}, this one is {self.method}")
        if None not in (known := (found["n_sources"], self.n_sources)) and known[0] != known[1]:
            raise UsageError(
                f"the state is of {self.method} for {known[0]} sources, this one is for {known[1]}"
            )

    def _load_state(self, state: Mapping[str, Any]) -> None:
        known = self.n_sources
        super()._load_state(state)
        self.n_sources = self.n_sources or known
        self._asked = False

    def _ready(self, oracle: Oracle) -> Any:
        """The module in the state after the last step; one step may ask several times."""
        dtype = oracle.losses().dtype if self._method.kind == "scalarizer" else oracle.space.dtype
        n_sources = oracle.n_sources if self._filling(oracle) is None else oracle.n_total
        setting = (n_sources, _wide(dtype), CPU if self._method.small else oracle.space.device)
        if self._made_for != setting:
            self._module, self._start = self._make(*setting)
            self._made_for = setting
        restore(self._module, self._start if self.state is None else self.state, setting[-1])
        return self._module

    def _filling(self, oracle: Oracle) -> Tensor | None:
        """(K, present) matrix that puts the mean of the present sources in the places of the absent ones.

        None where none is absent, or where nothing, neither state nor option, is tied to the K sources.
        """
        if oracle.n_sources == oracle.n_total or not self._tied_to_sources(oracle.n_total):
            return None
        filling = torch.full((oracle.n_total, oracle.n_sources), 1 / oracle.n_sources, dtype=torch.float64)
        filling[oracle.places] = torch.eye(oracle.n_sources, dtype=torch.float64)
        return filling

    def _tied_to_sources(self, n_sources: int) -> bool:
        if self._tied is None:
            options = self._method.options.values()
            module, _ = self._make(n_sources, torch.float32, CPU)
            self._tied = bool(capture(module)) or any(isinstance(value, list | Tensor) for value in options)
        return self._tied

    def _make(self, n_sources: int, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, State]:
        """A new module and its state. It has been asked once, to see whether K fits and to let it set up."""
        module = self._method.build(n_sources, dtype, device)
        start = capture(module)
        example = torch.ones(n_sources) if self._method.kind == "scalarizer" else torch.eye(n_sources)
        try:
            with _global_draws(0, device):
                module(example.to(device, dtype))
        except ValueError as error:
            raise self._unfit(error, n_sources) from error
        return module, start

    def _unfit(self, error: ValueError, n_sources: int) -> UsageError:
        return UsageError(f"torchjd: {self._method.name} with {n_sources} source(s): {error}")


def _aggregated(module: Any, oracle: Oracle, filling: Tensor | None) -> Direction:
    bases = library("aggregation")
    wide = _wide(oracle.space.dtype)
    if isinstance(module, bases.Weighting):
        one, other = (oracle.redrawn(draw).jacobian().shared for draw in (1, 2))
        weights = module(_filled(filling, inner_products(one, other).to(CPU, wide), both=True))
    elif isinstance(module, bases.GramianWeightedAggregator):
        gramian = oracle.gramian().to(CPU, wide)
        weights = module.gramian_weighting(_filled(filling, gramian, both=True))
    elif isinstance(module, bases.WeightedAggregator):
        weights = module.weighting(_filled(filling, oracle.jacobian().shared.to(wide)))
    else:
        shared = module(_filled(filling, oracle.jacobian().shared.to(wide)))
        vector = oracle.pullback([1.0] * oracle.n_sources)
        vector[: oracle.space.n_shared] = shared
        return Direction(vector)
    weights = _present(filling, weights.detach(), oracle).to(oracle.losses(), copy=True)
    return Direction(oracle.pullback(weights), weights)


def _filled(filling: Tensor | None, values: Tensor, both: bool = False) -> Tensor:
    """Values of the present sources, one a row (``both``: and a column), with rows for the absent ones."""
    if filling is None:
        return values
    filling = filling.to(values)
    filled = filling @ values
    return filled @ filling.T if both else filled


def _present(filling: Tensor | None, weights: Tensor, oracle: Oracle) -> Tensor:
    return weights if filling is None else weights[oracle.places]


def _scalarized(scalarizer: Any, oracle: Oracle, filling: Tensor | None) -> Direction:
    losses = _filled(filling, _on_cpu(oracle.losses())).requires_grad_()
    learned = list(scalarizer.parameters()) if hasattr(scalarizer, "optimizer") else []
    with torch.enable_grad():
        value = scalarizer(losses)
    if not bool(value.isfinite()):
        raise UsageError(f"torchjd: {scalarizer} is {float(value.detach())} for the losses {losses.tolist()}")
    weights, *slopes = torch.autograd.grad(value, [losses, *learned])
    for parameter, slope in zip(learned, slopes, strict=True):
        parameter.grad = slope
    weights = _present(filling, weights, oracle).to(oracle.losses())
    metrics: Metrics = {
        f"torchjd/{name.lstrip('_')}_{k}": entry
        for name, parameter in scalarizer.named_parameters()
        for k, entry in enumerate(parameter.detach().clone())
    }
    return Direction(oracle.pullback(weights), weights, metrics)


def _chosen(aggregator: str | None, scalarizer: str | None, options: Mapping[str, Any]) -> Method:
    kinds: dict[Kind, str | None] = {"aggregator": aggregator, "scalarizer": scalarizer}
    named = {kind: name for kind, name in kinds.items() if name is not None}
    if len(named) != 1:
        found = " and ".join(repr(name) for name in named.values()) or "neither"
        raise UsageError(f"torchjd: exactly one of 'aggregator' and 'scalarizer' is needed, found {found}")
    [(kind, name)] = named.items()
    return Method.of(kind, name, options)


@contextmanager
def _global_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators, from which TorchJD draws, set to ``seed``; afterwards they are as before."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for card in cuda:
            torch.cuda.default_generators[card.index or 0].manual_seed(seed)
        yield


def _on_cpu(losses: Tensor) -> Tensor:
    return losses.detach().to(CPU, _wide(losses.dtype), copy=True)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: the linear algebra of torch knows nothing smaller."""
    return torch.promote_types(dtype, torch.float32)
