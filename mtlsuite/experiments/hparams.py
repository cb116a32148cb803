"""Random hyperparameters: each is drawn from a seed of its own, so that one more does not move the others.

The rule, the names and the ranges are those of DomainBed (Gulrajani and Lopez-Paz, *In Search of Lost Domain
Generalization*, ICLR 2021, table 8): the hyperparameter ``name`` under hyperparameter seed h and trial t is
drawn from ``RandomState(seed_hash(seed_hash(h, t), name))``, and h = 0 stands for the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import UsageError, unknown_name
from ..data.domainbed_split import seed_hash
from .config import Config
from .messages import shown
from .yaml_file import Key

DOMAINBED = "domainbed"
NAMES = {  # our key -> the name that DomainBed knows the hyperparameter by
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "train.batch_size": "batch_size",
    "model.dropout": "resnet_dropout",
}
KINDS = ("uniform", "log10_uniform", "int_log2_uniform", "choice")
_SMALL_IMAGES = ("colored_mnist", "rotated_mnist", "rotated_digits")


@dataclass(frozen=True)
class Distribution:
    """What a hyperparameter is drawn from.

    Attributes:
        kind: ``uniform`` U(a, b), ``log10_uniform`` 10^U(a, b), ``int_log2_uniform`` floor(2^U(a, b)), or
            ``choice`` of the values.
        values: a and b, or what there is to choose from.
    """

    kind: str
    values: tuple[Any, ...]

    def draw(self, random: np.random.RandomState) -> Any:
        """One value, a plain Python one; one call of ``random``."""
        if self.kind == "choice":
            return self.values[random.choice(len(self.values))]
        value = float(random.uniform(*self.values))
        if self.kind == "uniform":
            return value
        return 10**value if self.kind == "log10_uniform" else int(2**value)


_LARGE: dict[str, tuple[Any, Distribution]] = {  # key -> default, distribution
    "optimizer.lr": (5e-5, Distribution("log10_uniform", (-5, -3.5))),
    "optimizer.weight_decay": (0.0, Distribution("log10_uniform", (-6, -2))),
    "train.batch_size": (32, Distribution("int_log2_uniform", (3, 5.5))),
    "model.dropout": (0.0, Distribution("choice", (0.0, 0.1, 0.5))),
}
_DOMAIN_NET = _LARGE | {"train.batch_size": (32, Distribution("int_log2_uniform", (3, 5)))}
_SMALL = _LARGE | {
    "optimizer.lr": (1e-3, Distribution("log10_uniform", (-4.5, -2.5))),
    "optimizer.weight_decay": (0.0, Distribution("choice", (0.0,))),
    "train.batch_size": (64, Distribution("int_log2_uniform", (3, 9))),
}


@dataclass(frozen=True)
class Search:
    """The section ``sweep.hparams``.

    Attributes:
        seeds: hyperparameter seeds; 0 stands for the defaults.
        distributions: by dotted key; None for DomainBed's own.
        whole: DomainBed's four, as far as the model has them.
    """

    seeds: tuple[int, ...]
    distributions: Mapping[str, Distribution | None]
    whole: bool = False

    def values(self, config: Config, hparams_seed: int, trial: int) -> dict[str, Any]:
        """Dotted key -> value for one run; at seed 0, keys without a default here are left to the config."""
        known = domainbed(config.data["name"])
        seed = seed_hash(hparams_seed, trial)
        values: dict[str, Any] = {}
        for key, distribution in self.distributions.items():
            if self.whole and key == "model.dropout" and "dropout" not in config.model:
                continue
            default, own = known[key] if distribution is None else (None, distribution)
            if hparams_seed:
                values[key] = own.draw(np.random.RandomState(seed_hash(seed, NAMES.get(key, key))))
            elif distribution is None:
                values[key] = default
        return values


def domainbed(dataset: str) -> dict[str, tuple[Any, Distribution]]:
    """DomainBed's defaults and distributions for a data set of ours, by dotted key."""
    if dataset in _SMALL_IMAGES:
        return _SMALL
    return _DOMAIN_NET if dataset == "domain_net" else _LARGE


def parse_search(section: Any) -> Search:
    """The section ``sweep.hparams``, checked.

    Raises:
        UsageError: what is wrong; ``key`` is relative to the section.
    """
    if not isinstance(section, Mapping):
        raise UsageError(f"found {shown(section)}; allowed: a mapping with 'seeds' and 'distributions'")
    for key in section:
        if key not in ("seeds", "distributions"):
            raise UsageError(unknown_name("key", key, ("seeds", "distributions")), (key,))
    for key in ("seeds", "distributions"):
        if key not in section:
            raise UsageError("this key is required", (key,))
    seeds, found = parse_seeds(section["seeds"], ("seeds",)), section["distributions"]
    if found == DOMAINBED:
        return Search(seeds, dict.fromkeys(NAMES), whole=True)
    if not isinstance(found, Mapping) or not found:
        allowed = f"{DOMAINBED!r}, or a mapping of dotted keys to distributions"
        raise UsageError(f"found {shown(found)}; allowed: {allowed}", ("distributions",))
    return Search(seeds, {key: _distribution(key, value) for key, value in found.items()})


def parse_seeds(values: Any, key: Key) -> tuple[int, ...]:
    """A list of integers from 0 up.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(values, list) or not values:
        raise UsageError(f"found {shown(values)}; allowed: a list with at least one integer from 0 up", key)
    for index, value in enumerate(values):
        if type(value) is not int or value < 0:
            raise UsageError(f"found {shown(value)}; allowed: an integer from 0 up", (*key, index))
    return tuple(values)


def keys_set(sweep: Any) -> dict[str, str]:
    """Every dotted key that a section ``sweep`` decides -> the key in it that does; malformed parts none."""
    keys: dict[str, str] = {}
    for name in sweep if isinstance(sweep, Mapping) else ():
        if name in ("trial", "hparams"):
            keys |= {"seed": name, "data.trial_seed": name}
        else:
            keys[name] = name
    section = sweep.get("hparams") if isinstance(sweep, Mapping) else None
    drawn = section.get("distributions") if isinstance(section, Mapping) else None
    names = NAMES if drawn == DOMAINBED else drawn if isinstance(drawn, Mapping) else ()
    return keys | dict.fromkeys(names, "hparams")


def _distribution(name: str, spec: Any) -> Distribution | None:
    key: Key = ("distributions", name)
    if spec == DOMAINBED:
        if name not in NAMES:
            raise UsageError(f"DomainBed draws only {', '.join(NAMES)}; give a distribution", key)
        return None
    if not isinstance(spec, Mapping) or len(spec) != 1:
        kinds = ", ".join(KINDS)
        raise UsageError(f"found {shown(spec)}; allowed: {DOMAINBED!r}, or one of {kinds} with a list", key)
    [(kind, values)] = spec.items()
    if kind not in KINDS:
        raise UsageError(unknown_name("distribution", kind, KINDS), (*key, kind))
    if kind == "choice":
        if not isinstance(values, list) or not values:
            raise UsageError(f"found {shown(values)}; allowed: a list with at least one value", (*key, kind))
    elif not _is_range(values):
        allowed = "[low, high], two numbers in ascending order"
        raise UsageError(f"found {shown(values)}; allowed: {allowed}", (*key, kind))
    return Distribution(kind, tuple(values))


def _is_range(values: Any) -> bool:
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    return numbers and len(values) == 2 and bool(np.isfinite(values).all()) and values[0] <= values[1]
