"""Words for what distinguishes runs: in tables, and in the names of folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as one mapping from dotted keys to values."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(index): item for index, item in enumerate(value)}
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def with_options(label: str, options: Mapping[str, Any]) -> str:
    """``ERM lr=0.1`` for the label ``ERM`` and the options ``{"lr": 0.1}``."""
    return " ".join([label, *(f"{key}={_text(value)}" for key, value in options.items())])


def slug(text: str) -> str:
    """``text`` as a part of the name of a folder, at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "-", text).strip("-.")[:80] or "run"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value["name"]) if set(value) == {"name"} else json.dumps(value)
    return "+".join(map(_text, value)) if isinstance(value, list) else str(value)
