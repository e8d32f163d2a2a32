"""Type-exact JSON values: what goes into a function task and what comes out.

A value is None, a bool, an int, a finite float, a str, or a list or string-keyed dict of values.
True, 1 and 1.0 are three different values. There are no tuples (a tuple that a program returns
counts as the list of its items), no sets, no NaN and no infinities.
"""

import json
import math
from typing import TypeAlias, cast

from openzaya.core.errors import DataError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_DEPTH = 64
"""Containers inside containers; deeper values are refused."""
MAX_TEXT_BYTES = 2**23
"""Longest JSON text that is read at all."""


def parse_value(text: str | bytes) -> Json:
    """Read one JSON value. Raises DataError for anything that is not one, NaN included."""
    if len(text) > MAX_TEXT_BYTES:
        raise DataError(f"the JSON text has {len(text)} bytes; at most {MAX_TEXT_BYTES} are read")
    try:
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON value: {str(error)[:200]}") from None
    return check_value(value)


def check_value(value: object, depth: int = 0) -> Json:
    """Return `value` if it is one, by exact types. Raises DataError with what was found instead."""
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return cast(Json, value)
    if kind is float:
        if not math.isfinite(cast(float, value)):
            raise DataError(f"found {value!r}; a value's floats are finite")
        return cast(float, value)
    if depth >= MAX_DEPTH:
        raise DataError(f"the value is nested more than {MAX_DEPTH} deep")
    if kind is list:
        for item in cast("list[object]", value):
            check_value(item, depth + 1)
        return cast(Json, value)
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise DataError(f"found a key of type {type(key).__name__}; keys are strings")
            check_value(item, depth + 1)
        return cast(Json, value)
    raise DataError(
        f"found a {kind.__name__}; a value is made of None, bool, int, float, str, list and dict"
    )


def canonical(value: Json) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def same_value(left: Json, right: Json) -> bool:
    """Say whether two values are equal, types included; the order of a dict's keys is no matter."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        items = cast("list[Json]", right)
        return len(left) == len(items) and all(map(same_value, left, items))
    if isinstance(left, dict):
        table = cast("dict[str, Json]", right)
        return left.keys() == table.keys() and all(same_value(left[k], table[k]) for k in left)
    return left == right


def refuse_constant(name: str) -> object:
    """Refuse NaN, Infinity and -Infinity, which Python's reader would take."""
    raise ValueError(f"{name} is no JSON")


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a dict; a key that comes twice is refused, since two readers could differ on it."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key comes twice")
    return table


def is_encodable(text: str) -> bool:
    """Say whether a text has a UTF-8 form; a lone surrogate has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
