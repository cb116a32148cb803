"""What pydantic finds wrong, in the words of a config: the key, what was found, what is allowed."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import pydantic

from ..core.errors import UsageError
from .yaml_file import Key


def problems(error: pydantic.ValidationError, data: object) -> list[UsageError]:
    """What pydantic found in ``data``: one error a key, what was found and what is allowed."""
    errors: dict[Key, UsageError] = {}
    wanted: dict[Key, list[str]] = {}
    for item in error.errors():
        original = item.get("ctx", {}).get("error")
        if isinstance(original, UsageError):
            found = original.under(*item["loc"])
            errors[found.key] = found
        elif item["type"] == "missing" and isinstance(item["loc"][-1], int):
            wanted.setdefault(_existing(item["loc"], data), []).append("a list with more values")
        elif item["type"] == "missing":
            errors[item["loc"]] = UsageError("this key is required", item["loc"])
        elif item["type"] not in ("needs_python_object", "is_instance_of"):  # tensors in torch's signatures
            wanted.setdefault(_existing(item["loc"], data), []).append(_wish(item["msg"]))
    for key, wishes in wanted.items():
        value = functools.reduce(lambda node, part: node[part], key, data)  # type: ignore[index]
        allowed = " or ".join(dict.fromkeys(wishes))
        errors.setdefault(
            key, UsageError(f"found {shown(value)}; allowed: {allowed}{_near(value, allowed)}", key)
        )
    return list(errors.values())


def shown(value: object) -> str:
    """A value for a message, as YAML writes it, cut where it is long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _existing(loc: Key, data: Any) -> Key:
    """``loc`` without what pydantic adds for members of a union, which is no key of the data."""
    for depth, part in enumerate(loc):
        inside = range(len(data)) if isinstance(data, list | tuple) else data
        if not isinstance(inside, Mapping | range) or part not in inside:
            return loc[:depth]
        data = data[part]
    return loc


def _wish(message: str) -> str:
    wish = re.sub(r"^Input should be (a |an )?(valid )?", "", message)
    wish = re.sub(r"^\w+ should match pattern ", "text that matches ", wish)
    wish = re.sub(r"^\w+ should have (.*?)( after validation.*)?$", r"\1", wish)
    wish = re.sub(r"^dictionary( or instance of \w+)?$|^dict$", "mapping", wish)
    wish = {"boolean": "true or false", "tuple": "list", "None": "null"}.get(wish, wish)
    article = {"integer": "an ", "number": "a ", "string": "a ", "list": "a ", "mapping": "a "}
    return f"{article.get(wish, '')}{wish}"


def _near(value: object, allowed: str) -> str:
    near = difflib.get_close_matches(str(value), re.findall(r"'([^']*)'", allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
