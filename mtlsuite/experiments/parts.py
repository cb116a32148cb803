"""The sections of a config: how each is spelled and what it may hold, whatever the other sections say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..core.economy import JacobianDtype, Memory
from ..core.errors import UsageError, unknown_name
from ..core.solver import OnNonfinite
from ..core.types import Count, NonNegative
from .messages import problems, shown
from .options import complete

Spec = dict[str, Any]  # {"name": ..., **options}
Seed = Annotated[int, Field(ge=0, lt=2**63)]
BaseSpec = Annotated[Spec, AfterValidator(lambda spec: complete("solver", spec))]
WrapSpec = Annotated[Spec, AfterValidator(lambda spec: complete("wrapper", spec))]


class Part(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                raise UsageError(unknown_name("key", key, cls.model_fields), (key,))
        return values


class SolverConfig(Part):
    """A base solver and its wrappers, from the outside in."""

    base: BaseSpec
    wrap: Annotated[tuple[WrapSpec, ...], Field(strict=False)] = ()
    seed: Seed = 0  # of the solver's own generator; not given: the seed of the run
    on_nonfinite: OnNonfinite = "raise"
    memory: Memory = "fast"
    jacobian_dtype: JacobianDtype | None = None


class ViewsConfig(Part):
    """Augmented views of one batch as sources: how many, and RandAugment operations in each."""

    count: Count = 3
    ops: Count = 2


class TrainConfig(Part):
    """How long, and how many images a step (of each domain, where domains are sources)."""

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 32
    replacement: bool = False

    @property
    def unit(self) -> Literal["steps", "epochs"]:
        """What the length of training and the interval of evaluations are counted in."""
        return "epochs" if self.steps is None else "steps"

    @property
    def length(self) -> int:
        """Length of training in ``unit``."""
        return self.steps or self.epochs or 0

    @pydantic.model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            found = "neither" if self.steps is None else f"steps {self.steps} and epochs {self.epochs}"
            raise UsageError(f"found {found}; allowed: exactly one of 'steps' and 'epochs'")
        return self


class EvaluationConfig(Part):
    """When and how the model is evaluated, and what a table makes of it.

    Attributes:
        every: in the unit of ``train``; not given: once, at the end.
        batch_size: images at once.
        cosine: also measure the mean pairwise cosine of the source gradients.
        averaging: depth and normals are averaged within each ``batch`` and then over the batches, or over
            every ``pixel``.
        select: a table shows the ``last`` evaluations, or the one that is ``best`` on the validation part.
        both_splits: also measure each held-out domain on its two splits, as DomainBed's selections need:
            ``in/<domain>`` and ``out/<domain>``.
        average_last: of the last ones, the mean of this many.
        baseline: delta_m compares with single-task runs ``measured`` beside the others, or with the
            ``published`` row of the data set; in that case the table quotes its other published rows, too, as
            do the tables of model selection on DomainBed's data sets.
    """

    every: Count = 1
    batch_size: Count = 256
    cosine: bool = True
    both_splits: bool = False
    averaging: Literal["batch", "pixel"] = "batch"
    select: Literal["last", "best"] = "last"
    average_last: Count = 1
    baseline: Literal["measured", "published"] = "measured"

    @pydantic.model_validator(mode="after")
    def _one_or_several(self) -> EvaluationConfig:
        if self.select == "best" and self.average_last > 1:
            raise UsageError(
                f"found {self.average_last}; the best evaluation is one: allowed only with 'select: last'",
                ("average_last",),
            )
        return self


class AveragingConfig(Part):
    """What all ways to average weights have in common.

    Attributes:
        name: of the way.
        batch_norm: the running statistics of the averaged model: ``recompute`` them over training batches,
            or ``copy`` those of the trained model, right where its BatchNorm is frozen.
        batch_norm_steps: over the batches of so many training steps; not given: of one epoch.
    """

    name: str
    batch_norm: Literal["recompute", "copy"] = "recompute"
    batch_norm_steps: Count | None = None

    @pydantic.model_validator(mode="after")
    def _steps_of_something(self) -> AveragingConfig:
        if self.batch_norm_steps is not None and self.batch_norm != "recompute":
            raise UsageError(
                f"allowed only with 'batch_norm: recompute', found {self.batch_norm!r}",
                ("batch_norm_steps",),
            )
        return self


class EmaConfig(AveragingConfig):
    """Exponential moving average of the weights after each ``every`` steps, from a share of training on."""

    name: Literal["ema"]
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    every: Count = 1


class SwaConfig(AveragingConfig):
    """Plain mean of the weights after each ``every`` steps, from a share of training on."""

    name: Literal["swa"]
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75
    every: Count = 1


class SwadConfig(AveragingConfig):
    """SWAD: plain mean over a valley of the validation loss; see :class:`~.loss_valley.LossValley`."""

    name: Literal["swad"]
    n_converge: Count = 3
    n_tolerance: Count = 6
    tolerance_ratio: NonNegative = 0.3

    @pydantic.model_validator(mode="after")
    def _wide_enough(self) -> SwadConfig:
        if self.n_tolerance < self.n_converge:
            raise UsageError(
                f"found {self.n_tolerance}; allowed: at least n_converge, which is {self.n_converge}",
                ("n_tolerance",),
            )
        return self


_AVERAGING: dict[str, type[AveragingConfig]] = {"ema": EmaConfig, "swa": SwaConfig, "swad": SwadConfig}


def _averaging(spec: Any) -> AveragingConfig:
    """The section ``averaging`` by its name; a union of pydantic's would blame keys of the other classes."""
    if isinstance(spec, AveragingConfig):
        return spec
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise UsageError(f"found {shown(spec)}; allowed: a name, or a mapping with the key 'name'")
    if spec["name"] not in _AVERAGING:
        raise UsageError(unknown_name("averaging", spec["name"], _AVERAGING), ("name",))
    try:
        return _AVERAGING[spec["name"]].model_validate(spec)
    except pydantic.ValidationError as error:
        raise problems(error, spec)[0] from None


Averaging = Annotated[EmaConfig | SwaConfig | SwadConfig, BeforeValidator(_averaging)]
