"""Stored JSON with a checksum over its place and its text: a torn or moved row is found out."""

import json
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from openzaya.ttc.journal.errors import JournalDamagedError

_DIGITS = 8
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: `json.dumps` makes an encoder for every call."""
_decode = json.JSONDecoder().raw_decode
"""Looks for nothing after the value: the checksum says that there is nothing."""


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
    return _decode(_checked(stored, place))[0]


def seal_text(text: str, about: Mapping[str, Any], *place: str | int) -> str:
    """Return a long text and what is to be said about it as checked text, the text as it is.

    Escaping it takes most of the time of writing it. Where it holds what a database does not
    take, it is escaped after all.
    """
    head = _encode(about)
    try:
        data = f"{head}\n{text}".encode()
    except UnicodeEncodeError:
        return seal([about, text], *place)
    if b"\0" in data:
        return seal([about, text], *place)
    return f"{crc32(data, crc32(_name(place).encode())):08x}{head}\n{text}"


def unseal_text(stored: object, *place: str | int) -> tuple[str, dict[str, Any]]:
    """Return what `seal_text` was given. Raises JournalDamagedError, which names the row."""
    whole = _checked(stored, place)
    if whole.startswith("["):
        about, text = _decode(whole)[0]
        return text, about
    head, _, text = whole.partition("\n")
    return text, _decode(head)[0]


def _checked(stored: object, place: tuple[str | int, ...]) -> str:
    if isinstance(stored, str):
        text = stored[_DIGITS:]
        data = text.encode("utf-8", errors="replace")
        if stored[:_DIGITS] == f"{crc32(data, crc32(_name(place).encode())):08x}":
            return text
    raise JournalDamagedError(
        f"{_name(place)} is damaged: its checksum does not fit its text; restore the journal from "
        "a copy, or forget the run with `openzaya runs prune --id`"
    )


def _name(place: tuple[str | int, ...]) -> str:
    return "row " + "/".join(map(str, place))
