"""From the YAML form of a solver to the nested object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from .economy import Economy, JacobianDtype, Memory
from .errors import UsageError, unknown_name
from .registry import OF_THE_WHOLE, build
from .solver import OnNonfinite, Solver, Wrapper

KEYS = ("base", "wrap", *(key for key in OF_THE_WHOLE if key != "generator"))


def build_solver(
    spec: str | Mapping[str, Any], n_sources: int | None = None, seed: int | None = None
) -> Solver:
    """Make the solver that ``spec`` describes.

    Args:
        spec: the name of a base solver, or a mapping with ``base`` (a name or ``{"name": ..., options}``),
            ``wrap`` (a list of the same form, from the outside in), ``seed``, ``on_nonfinite``, ``memory``
            and ``jacobian_dtype``.
        n_sources: K.
        seed: of the solver's generator where the spec does not give one; default 0.

    Raises:
        UsageError: unknown name or option, bad value; ``key`` is its path in the spec.
    """
    if isinstance(spec, str):
        spec = {"base": spec}
    if not isinstance(spec, Mapping):
        raise UsageError(f"a solver is a name or a mapping with the key 'base', found {spec!r}")
    for key in spec:
        if key not in KEYS:
            raise UsageError(unknown_name("key of a solver", key, KEYS), (key,))
    if "base" not in spec:
        raise UsageError("a solver needs the key 'base'")
    wrappers = [] if spec.get("wrap") is None else spec["wrap"]
    if not isinstance(wrappers, list | tuple):
        raise UsageError(f"a list of wrappers is needed, from the outside in; found {wrappers!r}", ("wrap",))
    try:
        _refuse_common(spec["base"])
        solver: Solver = build("solver", spec["base"], n_sources=n_sources)
    except UsageError as error:
        raise error.under("base") from None
    for index in reversed(range(len(wrappers))):
        try:
            _refuse_common(wrappers[index])
            solver = build("wrapper", wrappers[index], inner=solver, n_sources=n_sources)
        except UsageError as error:
            raise error.under("wrap", index) from None
    solver.on_nonfinite = _choice(spec, "on_nonfinite", get_args(OnNonfinite))
    solver.economy = Economy(
        _choice(spec, "memory", get_args(Memory)),
        _choice(spec, "jacobian_dtype", (None, *get_args(JacobianDtype))),
    )
    _check_memory(solver)
    solver.reseed(_integer(spec.get("seed", seed or 0)))
    return solver


def _check_memory(solver: Solver) -> None:
    """Refuse low memory where a method needs all gradients at once."""
    method: Solver | None = solver if solver.economy.memory == "low" else None
    while method is not None:
        if method.needs_rows:
            raise UsageError(
                f"found 'low', but {method.name} needs the gradients of all sources at once; allowed: fast",
                ("memory",),
            )
        method = method.inner if isinstance(method, Wrapper) else None


def _refuse_common(entry: Any) -> None:
    for key in OF_THE_WHOLE:
        if isinstance(entry, Mapping) and key in entry:
            raise UsageError(f"{key!r} belongs to the solver as a whole, beside 'base' and 'wrap'", (key,))


def _choice(spec: Mapping[str, Any], key: str, allowed: Sequence[str | None]) -> Any:
    """The value of a key, by default the first of those that are allowed."""
    value = spec.get(key, allowed[0])
    if value not in allowed:
        shown = ", ".join("null" if each is None else each for each in allowed)
        raise UsageError(f"found {value!r}; allowed: {shown}", (key,))
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"an integer is needed, found {value!r}", ("seed",))
    return value
