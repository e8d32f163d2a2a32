"""Every deviation that the code cites has a row in docs/deviations.md, and the other way round."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\bD-\d{3}\b")
ROW = re.compile(r"^\|\s*(D-\d{3})\s*\|(.*)\|\s*$", re.MULTILINE)


def cited_in_source() -> dict[str, str]:
    """Return {id: a file that cites it}."""
    paths = sorted((ROOT / "src").rglob("*.py"))
    return {
        number: str(path.relative_to(ROOT))
        for path in paths
        for number in CITED.findall(path.read_text(encoding="utf-8"))
    }


def rows() -> list[tuple[str, str]]:
    """Return (id, rest of the row) of the ledger."""
    return ROW.findall((ROOT / "docs" / "deviations.md").read_text(encoding="utf-8"))


def test_each_citation_has_a_row():
    known = {number for number, _ in rows()}
    missing = {number: path for number, path in cited_in_source().items() if number not in known}
    assert missing == {}


def test_each_row_is_cited_where_it_matters():
    unused = [number for number, _ in rows() if number not in cited_in_source()]
    assert unused == []


def test_rows_are_unique_ordered_and_full():
    numbers = [number for number, _ in rows()]
    assert len(numbers) >= 16
    assert numbers == sorted(set(numbers))
    for number, rest in rows():
        cells = [cell.strip() for cell in rest.split("|")]
        assert len(cells) == 4, number
        assert all(cells), number


def test_the_files_that_a_row_names_exist():
    for number, rest in rows():
        where = rest.split("|")[-1]
        paths = re.findall(r"`([\w/]+\.py)`", where)
        assert paths, number
        for path in paths:
            assert (ROOT / "src" / "openzaya" / path).exists(), f"{number}: {path}"
