"""The two ways in which a call can fail by the caller's doing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UsageError(ValueError):
    """Something that the user gave is wrong: a name, an option, a tensor, a file.

    Args:
        message: what was found and what is allowed.
        key: path of the offending option inside its specification, e.g. ``("wrap", 0, "rho")``; the YAML
            door turns it into a file, a dotted key and a line.
    """

    def __init__(self, message: str, key: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.key = tuple(key)

    def under(self, *prefix: str | int) -> UsageError:
        """The same error, its key seen from further outside."""
        return UsageError(self.message, (*prefix, *self.key))


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; the parameters are as they were before the step."""


def unknown_name(what: str, name: object, allowed: Iterable[str]) -> str:
    """Message for a name that is not among the ``allowed``: with the nearest one and all of them."""
    choices = sorted(allowed)
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} (allowed: {', '.join(choices) or 'none'})"
