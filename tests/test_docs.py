"""What README.md and docs/ show works as it stands there.

Fences marked ``python`` run, those of a page one after the other in one namespace; ``yaml`` is a config that
passes ``--dry-run``; in ``sh``, every ``make`` target exists and every ``run.py`` line (under torchrun, too)
passes, beside the configs of the page, with ``--dry-run``. A fence with no language is a picture and is left
alone.

The pages of docs/methods/ have one form, and what they say of options and costs is what the classes say.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import parse_args

from mtlsuite import cli
from mtlsuite.core import registry
from mtlsuite.experiments import config, parts  # config registers ours, before the registry is copied
from mtlsuite.experiments.catalogue import yaml_name
from mtlsuite.experiments.docstring import read_docstring
from mtlsuite.experiments.options import REQUIRED, options_of
from mtlsuite.experiments.yaml_file import parse_value

assert config
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
METHODS = ROOT / "docs" / "methods"
SECTIONS = ["Idea", "Update", "Options", "Cost", "Known", "Example"]
NOT_REGISTERED = {"weight_averaging"}  # an option of the trainer
REGISTERED = [
    pytest.param(kind, cls, id=name)
    for kind in ("solver", "wrapper")
    for name, cls in registry.registered(kind).items()
    if cls.__module__.startswith("mtlsuite.")
]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, with blank lines before them that keep the page's line numbers."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, match.start(3)) + textwrap.dedent(match[3])
        for match in FENCE.finditer(text)
        if match[2] == language
    ]


def pages(*languages: str) -> pytest.MarkDecorator:
    """Parametrize over the pages that have a block in one of the languages."""
    chosen = [page for page in PAGES if any(blocks(page, language) for language in languages)]
    return pytest.mark.parametrize("page", chosen, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = {kind: dict(names) for kind, names in registry._classes.items()}
    monkeypatch.setattr(registry, "_classes", copies)


@pages("python")
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"docs_{page.stem}"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)
    assert len(namespace) > 2, "the blocks define something"  # beside __name__ and __builtins__


@pages("yaml", "sh")
def test_configs_and_commands_are_accepted(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):
        file = tmp_path / f"{yaml.safe_load(block)['name']}.yaml"
        file.write_text(block, encoding="utf-8")
        assert cli.main([file.name, "--dry-run"]) == 0, capsys.readouterr().err
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in "\n".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["torchrun"]:  # as torchrun itself reads it
            asked = parse_args(words[1:])
            assert asked.training_script == ("mtlsuite" if asked.module else "run.py"), line
            words = ["python", "run.py", *asked.training_script_args]
        if words[:1] == ["make"]:
            assert set(words[1:]) <= set(targets), line
        elif words:
            assert words[:2] == ["python", "run.py"], f"a command that this test does not know: {line}"
            asked = words[2:] if {"--list", "--explain"} & set(words) else [*words[2:], "--dry-run"]
            assert cli.main(asked) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def method_pages() -> list[Path]:
    return [page for page in sorted(METHODS.glob("*.md")) if page.stem != "README"]


def sections(page: Path) -> dict[str, str]:
    """Heading -> text below it, in order."""
    _, *rest = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(rest[::2], map(str.strip, rest[1::2]), strict=True))


def rows(text: str) -> list[dict[str, str]]:
    """The rows of all tables in a text, each by the heads of its columns."""
    found = []
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        heads, _, *lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        found += [dict(zip(heads, cells, strict=True)) for cells in lines]
    return found


def plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def given(row: dict[str, str]) -> object:
    cell = row["default"]
    return REQUIRED if cell == "required" else parse_value(cell.strip("`"))


def test_every_method_has_a_page_and_every_page_a_method() -> None:
    names = {cls.values[1].name for cls in REGISTERED}
    assert {page.stem for page in method_pages()} == names | NOT_REGISTERED


@pytest.mark.parametrize("page", method_pages(), ids=lambda page: page.stem)
def test_method_pages_have_one_form(page: Path) -> None:
    assert page.read_text(encoding="utf-8").startswith(f"# {page.stem}\n")
    parts_of_page = sections(page)
    assert list(parts_of_page) == SECTIONS
    assert all(parts_of_page.values())
    idea = parts_of_page["Idea"].partition("\n\n")[0]
    assert len(re.findall(r"[.!?](?=\s|$)", idea)) == 3, "the idea in three sentences"
    languages = [match[2] for match in FENCE.finditer(parts_of_page["Example"])]
    assert languages == ["yaml", "python"]


@pytest.mark.parametrize(("kind", "cls"), REGISTERED)
def test_method_pages_list_the_options_of_the_class(kind: str, cls: type) -> None:
    listed = rows(sections(METHODS / f"{cls.name}.md")["Options"])
    options = {yaml_name(name): default for name, default in options_of(kind, cls).items()}
    assert {row["option"].strip("`"): given(row) for row in listed} == options
    assert len(listed) == len(options)
    assert all(all(row.values()) for row in listed)


def test_weight_averaging_lists_the_keys_of_the_section() -> None:
    listed = {
        (way, row["option"].strip("`"), given(row))
        for row in rows(sections(METHODS / "weight_averaging.md")["Options"])
        for way in re.findall(r"\w+", row["of"].replace("all", "ema swa swad"))
    }
    classes = {"ema": parts.EmaConfig, "swa": parts.SwaConfig, "swad": parts.SwadConfig}
    assert listed == {
        (way, key, field.default)
        for way, cls in classes.items()
        for key, field in cls.model_fields.items()
        if key != "name"
    }


@pytest.mark.parametrize(("kind", "cls"), REGISTERED)
def test_docstrings_have_every_part_and_the_pages_say_the_same(kind: str, cls: type) -> None:
    doc = read_docstring(cls)
    assert doc.summary == (cls.__doc__ or "").partition("\n")[0], "one line"
    assert doc.body
    assert doc.cost
    assert doc.known
    assert set(options_of(kind, cls)) <= set(doc.arguments)
    [row] = [row for row in rows((METHODS / "README.md").read_text(encoding="utf-8"))
             if row.get("name") == f"[`{cls.name}`]({cls.name}.md)"]  # fmt: skip
    assert plain(row["what it does"]) == plain(doc.summary)
    assert plain(row["cost"]) == plain(doc.cost)
    assert plain(sections(METHODS / f"{cls.name}.md")["Cost"]).startswith(plain(doc.cost))
