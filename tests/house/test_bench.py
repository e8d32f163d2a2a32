"""The help of the programs of bench/ is their docstring, and names flags that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = [p for p in sorted(ROOT.glob("bench/*.py")) if "ArgumentParser(" in p.read_text()]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_the_help_of_a_program_is_its_docstring_line_by_line(path):
    calls = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "argparse.ArgumentParser"
    ]
    raw = {
        "description": "__doc__",
        "formatter_class": "argparse.RawDescriptionHelpFormatter",
    }
    assert calls == [raw]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_program_has_the_flags_that_its_docstring_names(path):
    text = path.read_text()
    told = ast.get_docstring(ast.parse(text)) or ""
    ours = re.sub(r"^ +openzaya .*|`openzaya [^`]*`", "", told, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ours))
    assert f"bench/{path.name}" in ours
    assert named <= set(re.findall(r'"(--[a-z-]+)"', text))
