"""Stored JSON with a checksum over its place and its text: a torn or moved row is found out."""

import json
from typing import Any
from zlib import crc32

from openzaya.ttc.journal.errors import JournalDamagedError

_DIGITS = 8
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: `json.dumps` makes an encoder for every call."""


def seal(value: object, *place: str | int) -> str:
    """Return `value` as one line of checked text; `place` names the row and is part of the sum.

    A text that UTF-8 cannot hold, such as half a surrogate pair, is escaped.
    """
    text = _encode(value)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, separators=(",", ":"))
        data = text.encode()
    return f"{crc32(data, crc32(_name(place).encode())):08x}{text}"


def unseal(stored: object, *place: str | int) -> Any:
    """Return the value again. Raises JournalDamagedError, which names the row."""
    if isinstance(stored, str):
        text = stored[_DIGITS:]
        data = text.encode("utf-8", errors="replace")
        if stored[:_DIGITS] == f"{crc32(data, crc32(_name(place).encode())):08x}":
            return json.loads(text)
    raise JournalDamagedError(
        f"{_name(place)} is damaged: its checksum does not fit its text; restore the journal from "
        "a copy, or forget the run with `openzaya runs prune --id`"
    )


def _name(place: tuple[str | int, ...]) -> str:
    return "row " + "/".join(map(str, place))
