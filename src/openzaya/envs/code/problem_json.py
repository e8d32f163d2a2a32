"""Problems as lines of JSON, and back; reading checks every field's type."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from openzaya.core.errors import DataError
from openzaya.envs.code.problem import Problem, Test
from openzaya.envs.code.values import Json, canonical, check_value, parse_value

SCHEMA = "openzaya.problem/1"


def to_json(problem: Problem) -> str:
    """Return the problem as one line of JSON."""
    return canonical(
        cast(Json, {"schema": SCHEMA} | cast("dict[str, Any]", listed(asdict(problem))))
    )


def from_json(text: str) -> Problem:
    """Read what `to_json` wrote. Raises DataError for another schema or type."""
    table = parse_value(text)
    if not isinstance(table, dict) or table.pop("schema", None) != SCHEMA:
        raise DataError(f"this is no problem of schema {SCHEMA}; load its data set anew")
    return cast(Problem, decode(Problem, table, "problem"))


def listed(value: object) -> object:
    """Return nested dicts with their tuples turned into lists."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [listed(item) for item in value]
    return value


def decode(hint: Any, value: object, where: str) -> object:
    """Turn plain JSON into a value of type `hint`; raise DataError when it is of another type."""
    if get_origin(hint) is UnionType:
        if value is None and NoneType in get_args(hint):
            return None
        hint = next(arm for arm in get_args(hint) if arm is not NoneType)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise misfit(hint, value, where)
        item_hint = get_args(hint)[0]
        return tuple(decode(item_hint, item, f"{where}[{i}]") for i, item in enumerate(value))
    if is_dataclass(hint):
        return decode_record(cast(type, hint), value, where)
    if issubclass(hint, StrEnum):
        if value not in list(hint):
            raise misfit(hint, value, where)
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise misfit(hint, value, where)
    return value


def decode_record(cls: type, value: object, where: str) -> object:
    """Build a dataclass from a table; fields that the table lacks keep their defaults."""
    if not isinstance(value, Mapping):
        raise misfit(cls, value, where)
    unknown = sorted(set(value) - {field.name for field in fields(cls)})
    if unknown:
        raise DataError(f"{where} has an unknown field {unknown[0]!r}")
    if cls is Test:
        values = {name: check_value(item) for name, item in value.items()}
    else:
        hints = hints_of(cls)
        values = {
            name: cast(Json, decode(hints[name], item, f"{where}.{name}"))
            for name, item in value.items()
        }
    try:
        return cls(**values)
    except TypeError as error:
        raise DataError(f"{where} lacks a field: {error}") from None


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a record's fields."""
    return get_type_hints(cls)


def misfit(hint: Any, value: object, where: str) -> DataError:
    """Return the error for a value of the wrong type."""
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    return DataError(f"{where} is {str(value)[:60]!r}, but must be {name}")
