"""Settings are trees of frozen dataclasses; this file overrides, reads, writes and compares them.

    config = resolve(recipe.sft(), ["my.toml"], ["optim.lr_muon=0.01", "stages.0.steps=10"])

Files are applied in their order, then the assignments; everything is merged before the dataclasses
are rebuilt once, so that two settings which must change together may come from different places.
Settings merge; arrays and free tables (a dict field) are
replaced by a file and changed item by item by an assignment; unknown keys are fatal. TOML has no
null: an optional field takes the word "none". Standard library only.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from openzaya.core.coerce import Tree, grow, join, merge, plant, plant_assignments
from openzaya.core.errors import ConfigError

C = TypeVar("C")


def resolve(config: C, toml_paths: Sequence[str | Path], assignments: Sequence[str]) -> C:
    """Return `config` with TOML files, then `path=value` assignments, laid over it.

    A value is read by the type of its field; a number in a path is the index in a tuple:
    `stages.0.steps=1_000`.

    Raises ConfigError for unknown keys, wrong types and values that the dataclasses refuse.
    """
    tree: Tree = {}
    for path in toml_paths:
        merge(tree, plant(load_toml(path), str(path)))
    pairs: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set got {assignment!r}; write path=value, for example a.b=3")
        pairs[name.strip()] = text.strip()
    merge(tree, plant_assignments(pairs, "--set"))
    return cast(C, grow(type(config), tree, "", config))


def from_mapping(cls: type[C], mapping: Mapping[str, Any], source: str) -> C:
    """Build a config from parsed TOML or JSON; `source` names it in errors."""
    return cast(C, grow(cls, plant(mapping, source), "", None))


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; raise ConfigError when it is missing or cannot be parsed."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def to_mapping(config: object) -> dict[str, Any]:
    """Return a config as nested dicts, lists and scalars, in field order."""
    if not is_dataclass(config):
        raise TypeError(f"{type(config).__name__} is not a dataclass")
    return {
        field.name: plain(getattr(config, field.name)) for field in fields(config) if field.init
    }


def plain(value: object) -> Any:
    """Return a value in JSON's types."""
    if is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(plain, value))
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def config_hash(config: object) -> str:
    """Return the SHA-256 of a config's canonical JSON, 64 hex digits."""
    text = json.dumps(to_mapping(config), sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def flatten(mapping: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return {dotted path: value} of nested mappings and of lists of mappings."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        path = join(where, key)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, path)
        else:
            flat[path] = value
    return flat


def diff(a: object, b: object) -> list[str]:
    """Return one line `path: old -> new` for every setting in which two configs differ.

    Either may be a dataclass or the mapping that `to_mapping` made of one.
    """
    old, new = (flatten(x if isinstance(x, Mapping) else to_mapping(x)) for x in (a, b))
    absent = "(absent)"
    return [
        f"{path}: {old.get(path, absent)} -> {new.get(path, absent)}"
        for path in dict.fromkeys((*old, *new))
        if old.get(path, absent) != new.get(path, absent)
    ]


def dump_toml(config: object) -> str:
    """Return a config as TOML that `from_mapping` turns back into an equal config."""
    lines: list[str] = []
    write_table(to_mapping(config), (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    """Append a table: its scalars first, then its sub-tables and arrays of tables."""
    below: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping) or is_array_of_tables(value):
            below.append((key, value))
        else:
            lines.append(f"{bare_key(key)} = {inline(value)}")
    for key, value in below:
        inner = (*path, key)
        name = ".".join(map(bare_key, inner))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            write_table(value, inner, lines)
        else:
            for item in value:
                lines += ["", f"[[{name}]]"]
                write_table(item, inner, lines)


def is_array_of_tables(value: object) -> bool:
    """Say whether a value is a non-empty list of mappings only."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def inline(value: object) -> str:
    """Return a scalar or list as a TOML value; None becomes the word "none"."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{bare_key(key)} = {inline(item)}" for key, item in value.items())
        return f"{{{pairs}}}"
    # A TOML basic string is a JSON string, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def bare_key(key: str) -> str:
    """Return a key as TOML writes it, quoted where it must be."""
    is_bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if is_bare else inline(key)
