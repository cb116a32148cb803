"""Docstrings of registered classes, taken apart for the command line and the tests of the documentation."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass

_SECTION = re.compile(r"^\w+:$")  # Args:, Raises:, ...
_LABEL = re.compile(r"^(Cost|Known): +(.*)$", re.DOTALL)
_BETWEEN = re.compile(r"\n\s*\n|\n(?=Known: )")  # paragraphs
_ARGUMENT = re.compile(r"^(\w+(?:, \w+)*): +(.*)$", re.DOTALL)
_MARKUP = (  # reStructuredText to the backticks that a terminal reader knows
    (re.compile(r"``(.+?)``", re.DOTALL), r"`\1`"),
    (re.compile(r":\w+:`~?(.+?)`"), r"`\1`"),
)


@dataclass(frozen=True)
class Docstring:
    """The parts of a class's docstring; each paragraph on one line, but for indented ones (formulas).

    Attributes:
        summary: the first paragraph.
        body: the paragraphs after it: source, formula.
        cost: what follows ``Cost:``; empty where nothing does.
        known: what follows ``Known:``; empty where nothing does.
        arguments: name -> description, from ``Args:`` of the class and, for what it inherits, of its bases.
    """

    summary: str
    body: tuple[str, ...]
    cost: str
    known: str
    arguments: dict[str, str]


def read_docstring(cls: type) -> Docstring:
    """The docstring of a class; parts that it lacks are empty."""
    text = inspect.cleandoc(cls.__doc__ or "")
    paragraphs, labelled = [], {"Cost": "", "Known": ""}
    for block in _BETWEEN.split(text):
        if _SECTION.match(block.partition("\n")[0]):
            continue
        if label := _LABEL.match(block):
            labelled[label[1]] = _flowing(label[2])
        else:
            paragraphs.append(_flowing(block))
    summary, *body = paragraphs or [""]
    arguments: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        arguments |= _arguments(inspect.cleandoc(base.__doc__ or ""))
    return Docstring(summary, tuple(body), labelled["Cost"], labelled["Known"], arguments)


def _arguments(text: str) -> dict[str, str]:
    """The entries of the section ``Args:``; ``height, width: ...`` describes both."""
    section = re.search(r"^Args:\n((?: +.*(?:\n|$))+)", text, re.MULTILINE)
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(section[1])) if section else ():
        if found := _ARGUMENT.match(entry):
            entries |= dict.fromkeys(found[1].split(", "), _flowing(found[2]))
    return entries


def _flowing(paragraph: str) -> str:
    for pattern, replacement in _MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    is_formula = all(line.startswith(" ") for line in paragraph.splitlines())
    return paragraph if is_formula else " ".join(paragraph.split())
