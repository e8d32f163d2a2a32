"""What the documents name exists."""

import re
from pathlib import Path

import pytest

from openzaya.cli.main import VERBS

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "openzaya"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_links_of_a_document_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+\.(?:py|jinja))`", text):
        assert any((base / name).exists() for base in (ROOT, SRC)), name
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_document_exist(path):
    text = path.read_text(encoding="utf-8")
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^\.PHONY:.*\b{target}\b", targets, re.MULTILINE), target
    for verb in re.findall(r"(?:^|`)openzaya ([a-z]+)", text, re.MULTILINE):
        assert verb in VERBS, verb


def test_the_first_screen_has_a_sentence_and_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()[:24]
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)
