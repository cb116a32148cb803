"""Docstrings taken apart, and options in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from rich.console import Console

from mtlsuite.core import registry
from mtlsuite.core.types import Count, NonNegative
from mtlsuite.experiments.catalogue import explanation, overview, yaml_name
from mtlsuite.experiments.docstring import read_docstring


class Base:
    """A base.

    Args:
        inner: what is inside.
        width, height: size in
            pixels.
    """


class Thing(Base):
    """A thing that is described in one line.

    Author, Title, Venue: it goes ``this`` way, over
    two lines; see :func:`~package.module` and :class:`Base`.

        y = a x
          + b

    Cost: 1 forward,
    1 backward.
    Known: paper and code: differ.

    Args:
        height: of this one. ``low``: down
            here; ``high``: up.

    Raises:
        UsageError: never.
    """


class Silent(Base):
    pass


def test_parts_of_a_docstring() -> None:
    doc = read_docstring(Thing)
    assert doc.summary == "A thing that is described in one line."
    assert doc.body == (
        "Author, Title, Venue: it goes `this` way, over two lines; see `package.module` and `Base`.",
        "    y = a x\n      + b",
    )
    assert doc.cost == "1 forward, 1 backward."
    assert doc.known == "paper and code: differ."
    assert doc.arguments == {
        "inner": "what is inside.",
        "width": "size in pixels.",
        "height": "of this one. `low`: down here; `high`: up.",
    }


def test_a_class_without_a_docstring_has_the_arguments_of_its_base() -> None:
    doc = read_docstring(Silent)
    assert (doc.summary, doc.body, doc.cost, doc.known) == ("", (), "", "")
    assert doc.arguments["width"] == "size in pixels."


@pytest.fixture
def everything() -> Iterator[type]:
    """A metric (any kind would do) with every sort of option."""

    @registry.register("metric", "everything")
    class Everything:
        def __init__(
            self,
            needed: int,
            lambda_: NonNegative = 0.1,
            share: Annotated[float, Field(ge=0, lt=1)] | None = None,
            way: Literal["up", "down"] = "up",
            sizes: list[Count] = [1, 2],  # noqa: B006
            pair: tuple[float, ...] = (0.0, 1.0),
            flag: bool = False,
            table: dict[str, int] | str = "none",
            nested: str | dict[str, Any] = "sam",
            n_classes: int = 2,
            **further: Any,
        ) -> None: ...

        @classmethod
        def complete_options(cls, given: dict[str, Any]) -> dict[str, Any]:
            return given

    yield Everything
    del registry._classes["metric"]["everything"]


def shown(parts: Any, width: int = 120) -> str:
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return capture.get()


@pytest.mark.usefixtures("everything")
def test_options_in_words() -> None:
    lines = shown(explanation("everything")).splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    start = rows.index(["option", "allowed", "default", "what"])
    assert [row for row in rows[start + 2 :] if row] == [
        ["needed", "integer", "required"],
        ["lambda", "number >= 0", "0.1"],
        ["share", "number >= 0, < 1 | null", "null"],
        ["way", "up | down", "up"],
        ["sizes", "[integer >= 1, ...]", "[1, 2]"],
        ["pair", "[number, ...]", "(0.0, 1.0)"],
        ["flag", "true | false", "false"],
        ["table", "{text: integer} | text", "none"],
        ["nested", "text | mapping", "sam"],
        ["..."],
    ]


@pytest.mark.usefixtures("everything")
def test_the_list_has_the_same_options() -> None:
    text = " ".join(shown(overview(), width=400).split())
    assert "│ everything │ │ needed, lambda=0.1, share=None, way='up', sizes=[1, 2], " in text
    assert "table='none', nested='sam', ... │" in text


def test_names_as_yaml_has_them() -> None:
    assert [yaml_name(name) for name in ("lambda_", "rho", "w_lr", "odd_")] == [
        "lambda",
        "rho",
        "w_lr",
        "odd_",
    ]
