"""Texts of standard input are read only if they are exactly what would be written."""

from random import Random

import pytest

from openzaya.envs.code.layout import read, write

LAYOUT = ("#edges k", "edges*", "#names", "names*", "numbers...", "title")
GIVEN = {
    "edges": [[1, 2], [3, -4]],
    "k": 7,
    "names": ["a b", "c"],
    "numbers": [5, 0],
    "title": "x y",
}
TEXT = "2 7\n1 2\n3 -4\n2\na b\nc\n5 0\nx y\n"


def test_a_text_is_written_line_by_line_and_read_back():
    assert write(LAYOUT, GIVEN) == TEXT
    assert read(LAYOUT, TEXT) == GIVEN
    assert read(LAYOUT, TEXT.removesuffix("\n")) == GIVEN


def test_empty_lists_leave_an_empty_line_or_none():
    empty = GIVEN | {"edges": [], "names": [], "numbers": []}
    assert write(LAYOUT, empty) == "0 7\n0\n\nx y\n"
    assert read(LAYOUT, write(LAYOUT, empty)) == empty


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "2 7\n",
        TEXT + "\n",
        TEXT.replace("2 7", "2  7"),
        TEXT.replace("2 7", "02 7"),
        TEXT.replace("2 7", "3 7"),
        TEXT.replace("2 7", "-1 7"),
        TEXT.replace("2 7", "99999999999999999999 7"),
        TEXT.replace("2 7", "2"),
        TEXT.replace("5 0", "5 +0"),
        TEXT.replace("5 0", "5 -0"),
        TEXT.replace("5 0", "5 1_0"),
        TEXT.replace("5 0", "5 \u0663"),
        TEXT.replace("\n", "\r\n"),
    ],
)
def test_anything_else_is_no_input(text):
    assert read(LAYOUT, text) is None


def test_no_damage_to_a_text_raises():
    for seed in range(2_000):
        rng = Random(seed)
        chars = list(TEXT)
        for _ in range(rng.randint(1, 4)):
            chars[rng.randrange(len(chars))] = rng.choice(["", "\n", " ", "9", "-", "x", "\0"])
        text = "".join(chars)
        found = read(LAYOUT, text)
        assert found is None or write(LAYOUT, found) in (text, f"{text}\n")
