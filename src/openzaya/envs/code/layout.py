"""How a template's input is written on a program's standard input, and read back.

A layout is a tuple of lines. Each line names what stands on it:

- `#edges k`   the number of items of `edges`, then the value `k`; any number of such words
- `numbers...` all items of a list on one line, separated by single spaces
- `edges*`     one line for each item; the items of an item are separated by single spaces
- `text`       one word alone on its line may be a string with spaces

A list that is written must be counted on an earlier line.
"""

import re
from itertools import islice

from openzaya.envs.code.grammar import Given

_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def write(layout: tuple[str, ...], given: Given) -> str:
    """Return the text a program reads; every line ends with a newline."""
    lines: list[str] = []
    for line in layout:
        if line.endswith("..."):
            lines.append(" ".join(map(str, given[line[:-3]])))
        elif line.endswith("*"):
            lines += [item if isinstance(item, str) else _joined(item) for item in given[line[:-1]]]
        else:
            lines.append(" ".join(_value(word, given) for word in line.split()))
    return "".join(f"{line}\n" for line in lines)


def _joined(item: object) -> str:
    return " ".join(map(str, item)) if isinstance(item, list) else str(item)


def _value(word: str, given: Given) -> str:
    return str(len(given[word[1:]])) if word.startswith("#") else str(given[word])


def read(layout: tuple[str, ...], text: str) -> Given | None:
    """Return what a text holds, or None unless it is exactly what `write` would write.

    Numbers become integers and everything else strings; whether the values are legal is for the
    grammar to say. A missing newline at the end is forgiven.
    """
    if not text.endswith("\n"):
        text += "\n"
    try:
        given = _read(layout, text.split("\n")[:-1])
        return given if write(layout, given) == text else None
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _read(layout: tuple[str, ...], lines: list[str]) -> Given:
    given: Given = {}
    counts: dict[str, int] = {}
    left = iter(lines)
    for line in layout:
        if line.endswith("..."):
            given[line[:-3]] = [_number(word) for word in next(left, "").split()]
        elif line.endswith("*"):
            name = line[:-1]
            rows = list(islice(left, counts[name]))
            given[name] = [_item(row) for row in rows]
        elif len(line.split()) == 1 and not line.startswith("#"):
            given[line] = _item(next(left, ""))
        else:
            _words(line.split(), next(left, "").split(), given, counts)
    return given


def _words(names: list[str], words: list[str], given: Given, counts: dict[str, int]) -> None:
    for name, word in zip(names, words, strict=True):
        if name.startswith("#"):
            counts[name[1:]] = int((_NUMBER.fullmatch(word) and word) or "-1")
        else:
            given[name] = _item(word)


def _number(word: str) -> int:
    if not _NUMBER.fullmatch(word):
        raise ValueError(f"found {word[:20]!r}, expected an integer")
    return int(word)


def _item(row: str) -> object:
    words = row.split(" ")
    if all(_NUMBER.fullmatch(word) for word in words):
        return int(row) if len(words) == 1 else [int(word) for word in words]
    return row
