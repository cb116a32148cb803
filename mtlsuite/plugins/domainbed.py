"""DomainBed: any solver as one of its algorithms.

DomainBed (Gulrajani and Lopez-Paz, *In Search of Lost Domain Generalization*, ICLR 2021) finds an algorithm
by name in its module ``domainbed.algorithms`` and its hyperparameters in ``domainbed.hparams_registry``.
:func:`register` adds ours to both; :func:`algorithm` gives one class alone. DomainBed is not on PyPI, so it
is imported only when an algorithm is made.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.batches import DomainObjective
from ..core.build import build_solver
from ..core.errors import UsageError
from ..core.solver import Solver
from ..data.domainbed_split import seed_hash
from ..solvers import TorchJD

Spec = str | Mapping[str, Any]
Draw = Callable[[np.random.RandomState], Any]
Hyperparameters = Mapping[str, tuple[Any, Draw]]

NAMED: dict[str, Spec] = {
    "NashMTL": "nash_mtl",
    "FAMO": "famo",
    "SAM": {"base": "equal", "wrap": ["sam"]},
    "GSAM": {"base": "equal", "wrap": ["gsam"]},
    "SAGM": {"base": "equal", "wrap": ["sagm"]},
    "DISAM": {"base": "equal", "wrap": ["disam"]},
    "SAMO": {"base": "equal", "wrap": ["samo"]},
    "SAGE": {"base": "equal", "wrap": ["sage"]},
    "GradientEquilibrium": {"base": "equal", "wrap": ["gradient_equilibrium"]},
    "Arithmetic": {"base": "equal", "wrap": ["arithmetic"]},
    "GGA": {"base": "equal", "wrap": [{"name": "gga", "parameters": ["featurizer.*"]}]},
    "GGAL": {"base": "equal", "wrap": ["gga_l"]},
}
"""What :func:`register` adds by default: every method with the options of its class, GGA's random search over
the featurizer as in its reference code. DomainBed has an ERM and a Fish of its own."""


class SolverAlgorithm(nn.Module):
    """Interface of ``domainbed.algorithms.Algorithm``; :func:`algorithm` makes its subclasses.

    Featurizer, classifier and Adam are those of DomainBed's ERM; the K sources are the training domains. The
    solver draws from a generator of its own, seeded by the spec, or else as torch is (``--seed``). Its state
    is part of the ``state_dict``.

    Args:
        input_shape: of one image, (C, H, W).
        num_classes: outputs of the classifier.
        num_domains: K.
        hparams: DomainBed's; one that is named ``<solver>_<option>`` after a solver or wrapper of the spec
            (``sage_rho``) replaces that option.

    Raises:
        UsageError: DomainBed cannot be imported, or the spec cannot work here.
    """

    spec: ClassVar[Spec]
    package: ClassVar[str]

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, num_domains: int, hparams: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.hparams = hparams
        self.solver = self._solver(num_domains)
        networks = _room(self.package, "networks")
        self.featurizer = networks.Featurizer(input_shape, hparams)
        self.classifier = networks.Classifier(
            self.featurizer.n_outputs, num_classes, hparams["nonlinear_classifier"]
        )
        # Names for its parts, so that options such as `parameters: [featurizer.*]` find them.
        self.network = nn.Sequential(OrderedDict(featurizer=self.featurizer, classifier=self.classifier))
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=hparams["lr"], weight_decay=hparams["weight_decay"]
        )

    def update(
        self,
        minibatches: Sequence[tuple[Tensor, Tensor]],
        unlabeled: Sequence[Tensor] | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        """One training step.

        Args:
            minibatches: one (images, labels) a training domain.
            unlabeled: images of the test domains; not looked at.

        Returns:
            ``loss``, the mean over the domains; ``loss_0``, ... of each; ``weight_0``, ... where the solver
            has weights; and what the solver reports (``sage_cosine``).
        """
        objective = DomainObjective(self.network, minibatches, F.cross_entropy, more=self._no_more)
        report = self.solver.step(objective, self.optimizer)
        values = {"loss": report.losses.mean().item()} | _numbered("loss", report.losses)
        if report.weights is not None:
            values |= _numbered("weight", report.weights)
        return values | {name.replace("/", "_"): value for name, value in report.metrics.items()}

    def predict(self, x: Tensor) -> Tensor:
        """(B, num_classes) logits of a batch of images."""
        logits: Tensor = self.network(x)
        return logits

    def get_extra_state(self) -> dict[str, Any]:
        """The solver's part of the ``state_dict``."""
        return self.solver.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue with the solver of a ``state_dict``.

        Raises:
            UsageError: it is that of another solver.
        """
        self.solver.load_state_dict(state)

    def _solver(self, num_domains: int) -> Solver:
        name = type(self).__name__
        try:
            spec = with_hparams(self.spec, self.hparams)
            solver = build_solver(spec, n_sources=num_domains, seed=torch.initial_seed())
        except UsageError as error:
            place = f" ({'.'.join(map(str, error.key))})" if error.key else ""
            raise UsageError(f"{name}{place}: {error.message}", error.key) from None
        if _takes_further_minibatches(solver):
            self._no_more()
        return solver

    def _no_more(self, draw: int = 1) -> Sequence[tuple[Tensor, Tensor]]:  # noqa: ARG002
        raise UsageError(
            f"{type(self).__name__}: DomainBed gives one minibatch a domain and step, this spec takes more "
            "(arithmetic and fish can do with 'minibatches: same'; torchjd's MoDo and SDMGrad cannot)"
        )


def algorithm(spec: Spec, name: str = "SolverAlgorithm", package: str = "domainbed") -> type[SolverAlgorithm]:
    """A class with DomainBed's Algorithm interface that trains with the solver of ``spec``.

    Args:
        spec: as for :func:`mtlsuite.build_solver`.
        name: of the class.
        package: where DomainBed's modules are.
    """
    return type(name, (SolverAlgorithm,), {"spec": spec, "package": package, "__doc__": f"{spec!r}"})


def register(
    module: ModuleType, specs: Mapping[str, Spec] = NAMED, hparams: Hyperparameters | None = None
) -> None:
    """Make solvers known to DomainBed and its scripts; to be called wherever ``module`` is imported.

    Args:
        module: ``domainbed.algorithms``.
        specs: name of the algorithm -> spec of its solver; default: one for every method (:data:`NAMED`).
        hparams: ``<solver>_<option>`` -> (default, random value from a ``numpy.random.RandomState``), for
            DomainBed's defaults and its random search; each goes to all algorithms that have the solver.

    Raises:
        UsageError: this is not that module, a name is taken, or no algorithm has a hyperparameter's solver;
            nothing is changed.
    """
    names, package = getattr(module, "ALGORITHMS", None), module.__name__.rpartition(".")[0]
    if not isinstance(names, list) or not package:
        raise UsageError(
            f"register(module) needs the module domainbed.algorithms, found {module.__name__!r}, which has "
            "no list ALGORITHMS in a package"
        )
    for name in specs:
        known = getattr(module, name, None)
        if (known is not None or name in names) and not _is_ours(known):
            raise UsageError(f"{module.__name__} has a {name!r} already; register yours under another name")
    added = {name: _those_for(spec, hparams or {}) for name, spec in specs.items()}
    for wanted in hparams or {}:
        if not any(wanted in own for own in added.values()):
            raise UsageError(
                f"the hyperparameter {wanted!r} belongs to none of {', '.join(specs)}; "
                "it is named <solver>_<option>, e.g. 'sage_rho'"
            )
    _extend(_room(package, "hparams_registry"), added)
    for name, spec in specs.items():
        setattr(module, name, algorithm(spec, name, package))
        names.extend([] if name in names else [name])


def with_hparams(spec: Spec, hparams: Mapping[str, Any]) -> Spec:
    """The spec with every option that a hyperparameter ``<solver>_<option>`` names set to its value.

    Raises:
        UsageError: the solver of a hyperparameter stands twice in the spec.
    """
    for name, value in hparams.items():
        solver = _owner(spec, name)
        if solver is None:
            continue
        entries = _entries(spec)
        found = [index for index, entry in enumerate(entries) if _name(entry) == solver]
        if len(found) > 1:
            raise UsageError(f"the hyperparameter {name!r} is ambiguous: {solver!r} stands twice in the spec")
        entry = {"name": solver} if isinstance(entries[found[0]], str) else entries[found[0]]
        entries[found[0]] = {**entry, name.removeprefix(f"{solver}_"): value}
        changed = {"wrap": entries[1:]} if found[0] else {"base": entries[0]}
        spec = {**({} if isinstance(spec, str) else spec), **changed}
    return spec


class _Extended:
    """DomainBed's ``_hparams`` with the hyperparameters of our algorithms beside its own."""

    def __init__(self, original: Callable[..., dict[str, Any]]) -> None:
        self.original = original
        self.added: dict[str, Hyperparameters] = {}

    def __call__(self, algorithm: str, dataset: str, random_seed: int) -> dict[str, Any]:
        known = self.original(algorithm, dataset, random_seed)
        for name, (default, draw) in self.added.get(algorithm, {}).items():
            # Seeded by its name, as DomainBed's are, so that it does not change the other draws.
            value = draw(np.random.RandomState(seed_hash(random_seed, name)))
            known[name] = (default, value.item() if isinstance(value, np.generic) else value)
        return known


def _extend(registry: Any, added: Mapping[str, Hyperparameters]) -> None:
    if not isinstance(registry._hparams, _Extended):
        registry._hparams = _Extended(registry._hparams)
    registry._hparams.added.update(added)


def _those_for(spec: Spec, hparams: Hyperparameters) -> Hyperparameters:
    return {name: value for name, value in hparams.items() if _owner(spec, name) is not None}


def _owner(spec: Spec, hparam: str) -> str | None:
    """The solver or wrapper of the spec whose option a hyperparameter is, the longest name that fits."""
    fitting = [name for name in map(_name, _entries(spec)) if name and hparam.startswith(f"{name}_")]
    return max(fitting, key=len, default=None)


def _entries(spec: Spec) -> list[Any]:
    """The base solver and the wrappers; what is no spec at all has none, and is told when it is built."""
    if not isinstance(spec, Mapping):
        return [spec]
    wrappers = spec.get("wrap")
    return [spec.get("base"), *(wrappers if isinstance(wrappers, list | tuple) else [])]


def _name(entry: object) -> str | None:
    name = entry.get("name") if isinstance(entry, Mapping) else entry
    return name if isinstance(name, str) else None


def _is_ours(known: object) -> bool:
    return isinstance(known, type) and issubclass(known, SolverAlgorithm)


def _takes_further_minibatches(solver: Solver | None) -> bool:
    while solver is not None:
        if getattr(solver, "minibatches", "same") == "fresh":
            return True
        if isinstance(solver, TorchJD) and solver.method in ("aggregator MoDo", "aggregator SDMGrad"):
            return True
        solver = getattr(solver, "inner", None)
    return False


def _numbered(name: str, values: Tensor) -> dict[str, float]:
    return {f"{name}_{k}": value for k, value in enumerate(values.tolist())}


def _room(package: str, name: str) -> Any:
    try:
        return importlib.import_module(f"{package}.{name}")
    except ImportError as error:
        raise UsageError(
            f"DomainBed is needed ({error}); it is not on PyPI: put a clone of "
            "github.com/facebookresearch/DomainBed on PYTHONPATH and install what it requires"
        ) from None
