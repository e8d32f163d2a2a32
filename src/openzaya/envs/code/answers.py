"""Read the JSON object that a reply ends with. Model text is data: it is parsed, never evaluated.

Policy: the answer is the last complete JSON object in the final answer that has exactly the key
asked for. Its text may have at most 1,023 bytes, its lists at most 19 items, its strings at most
99 characters; that is CodeI/O's own bound, and it also bounds the work of whoever reads the value.

Source: arXiv:2502.07316, data construction.
"""

import json

from openzaya.core.errors import DataError
from openzaya.envs.code.values import Json, check_value, refuse_constant, unique_keys

MAX_OBJECT_BYTES = 1_023
MAX_ITEMS = 19
MAX_STRING_CHARS = 99
MAX_ANSWER_CHARS = 16_384
"""Longer final answers are wrong by rule."""
MAX_BRACES = 400
"""Opening braces that are tried, from the last one back; an honest answer has a handful."""

_DECODER = json.JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=unique_keys)


def last_object(text: str, key: str) -> Json:
    """Return the value under `key` in the last complete object `{key: value}` of a text.

    Raises DataError when there is none or it breaks a bound.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise DataError(f"the answer has {len(text)} characters; at most {MAX_ANSWER_CHARS} count")
    place = len(text)
    for _ in range(MAX_BRACES):
        place = text.rfind("{", 0, place)
        if place < 0:
            break
        value = _read(text[place : place + 4 * MAX_OBJECT_BYTES], key)
        if value is not None:
            return check_bounds(value)[key]
    raise DataError(f'the answer holds no complete JSON object {{"{key}": ...}}')


def _read(text: str, key: str) -> dict[str, Json] | None:
    """Return the object that a text begins with if it has exactly that key."""
    try:
        value, _ = _DECODER.raw_decode(text)
        check_value(value)
    except (ValueError, RecursionError, DataError):
        return None
    return value if isinstance(value, dict) and value.keys() == {key} else None


def check_bounds(value: dict[str, Json]) -> dict[str, Json]:
    """Return an object that keeps CodeI/O's bounds; raise DataError for another."""
    size = len(json.dumps(value).encode())
    if size > MAX_OBJECT_BYTES:
        raise DataError(f"the JSON object has {size} bytes; at most {MAX_OBJECT_BYTES} are allowed")
    if not fits(value):
        raise DataError(
            f"a list has more than {MAX_ITEMS} items or a string more than {MAX_STRING_CHARS} "
            "characters"
        )
    return value


def fits(value: Json) -> bool:
    """Say whether a value and everything in it keep the bounds on lists and strings."""
    if isinstance(value, str):
        return len(value) <= MAX_STRING_CHARS
    if isinstance(value, dict):
        return len(value) <= MAX_ITEMS and all(map(fits, value.values()))
    if isinstance(value, list):
        return len(value) <= MAX_ITEMS and all(map(fits, value))
    return True


def can_be_asked(value: object) -> bool:
    """Say whether an object of ours is small enough for a prompt and an answer."""
    return len(json.dumps(value).encode()) <= MAX_OBJECT_BYTES - 16 and fits(check_value(value))
