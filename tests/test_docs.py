"""What README.md and docs/ show works as it stands there.

Fences marked ``python`` run, those of a page one after the other in one namespace; ``yaml`` is a config that
passes ``--dry-run``; in ``sh``, every ``make`` target exists and every ``run.py`` line passes, beside the
configs of the page, with ``--dry-run``. A fence with no language is a picture and is left alone.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml

from mtlsuite import cli
from mtlsuite.core import registry
from mtlsuite.experiments import config  # noqa: F401  (registers ours, before the registry is copied)

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
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
        if words[:1] == ["make"]:
            assert set(words[1:]) <= set(targets), line
        elif words:
            assert words[:2] == ["python", "run.py"], f"a command that this test does not know: {line}"
            asked = words[2:] if "--list" in words else [*words[2:], "--dry-run"]
            assert cli.main(asked) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
