"""Sizes that keep a file readable in one go, and packages that the import contract can see."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "openzaya"
FILES = sorted(SRC.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
BANNED_NAMES = {"utils", "common", "helpers", "misc"}


def long_functions(source: str) -> list[str]:
    """Return functions with more lines, from `def` to the last, than the budget."""
    return [
        f"{node.name}: {lines} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def test_the_check_of_functions_counts_lines():
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert long_functions(f"def fits():\n{body}".removesuffix("    x = 1\n")) == []
    assert long_functions(f"class A:\n  async def big(self):\n{body}") == ["big: 61 lines"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_files_and_functions_stay_within_their_budget(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE_LINES
    assert long_functions(source) == []
    assert path.stem not in BANNED_NAMES


def test_every_folder_with_code_is_a_package():
    """A folder without __init__.py is invisible to the import contract and to mypy."""
    bare = {str(path.parent) for path in FILES if not (path.parent / "__init__.py").exists()}
    assert bare == set()
