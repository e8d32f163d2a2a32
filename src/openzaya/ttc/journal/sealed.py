"""Stored text with a checksum over its place and itself: a torn or moved row is found out."""

import json
from typing import Any
from zlib import crc32

from openzaya.ttc.journal.errors import RowDamagedError

_DIGITS = 8
_AS_IT_IS = "="
"""Before a text that is not escaped; JSON of a text begins with a quotation mark."""
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
"""Made once: `json.dumps` makes an encoder for every call."""
decode = json.JSONDecoder().raw_decode
"""Looks for nothing after the value, and says where that is."""


def seal(value: object, *place: str | int) -> str:
    """Return `value` as one line of checked JSON; `place` names the row and is part of the sum.

    A text that UTF-8 cannot hold, such as half a surrogate pair, is escaped.
    """
    text = encode(value)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, separators=(",", ":"))
        data = text.encode()
    return _sum(data, place) + text


def seal_text(text: str, *place: str | int) -> str:
    """Return a long text as checked text, not escaped, which takes most of the time of writing it.

    Where it holds what a database does not take, it is escaped after all.
    """
    marked = _AS_IT_IS + text
    try:
        data = marked.encode()
    except UnicodeEncodeError:
        return seal(text, *place)
    return seal(text, *place) if b"\0" in data else _sum(data, place) + marked


def unseal(stored: object, *place: str | int) -> Any:
    """Return what `seal` was given. Raises RowDamagedError, which names the row."""
    return decode(_checked(stored, place))[0]


def unseal_text(stored: object, *place: str | int) -> str:
    """Return what `seal_text` was given. Raises RowDamagedError, which names the row."""
    text = _checked(stored, place)
    return text[1:] if text.startswith(_AS_IT_IS) else str(decode(text)[0])


def _checked(stored: object, place: tuple[str | int, ...]) -> str:
    if not isinstance(stored, str):
        raise damaged(place, "it holds nothing, expected a text")
    text, expected = stored[_DIGITS:], stored[:_DIGITS]
    found = _sum(text.encode("utf-8", errors="replace"), place)
    if found != expected:
        raise damaged(place, f"its text has the checksum {found}, expected {expected!r}")
    return text


def damaged(place: tuple[str | int, ...], what: str) -> RowDamagedError:
    """Return the error for a row that is not what was written; `place` begins with the run."""
    cure = f"let `openzaya runs resume {place[0]}` generate the lost candidates again"
    if place[1] == "spec":  # without it nobody knows what to generate
        cure = f"forget the run with `openzaya runs prune --id {place[0]}`"
    return RowDamagedError(
        f"{_name(place)} is damaged: {what}; restore the journal from a copy, or {cure}"
    )


def _sum(data: bytes, place: tuple[str | int, ...]) -> str:
    return f"{crc32(data, crc32(_name(place).encode())):08x}"


def _name(place: tuple[str | int, ...]) -> str:
    return "row " + "/".join(map(str, place))
