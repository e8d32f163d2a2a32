"""Turn the text and tables that users write into the values of typed dataclass fields.

A `Tree` holds what was given, each leaf with its source; `grow` lays a tree over a dataclass type
or over an existing dataclass, and every error names source, path, found value and cure.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from openzaya.core.errors import ConfigError

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
SEQUENCES = (tuple, list, frozenset, Sequence)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value on its way into a config, with the place it came from."""

    value: object
    source: str
    parse: bool
    """True for the text of an assignment, which is read by the type of its field."""


Tree = dict[str, "Leaf | Tree"]


def plant(mapping: Mapping[str, Any], source: str) -> Tree:
    """Turn nested mappings into a tree of leaves; leaves that are in it already stay."""
    return {str(key): plant_value(value, source) for key, value in mapping.items()}


def plant_value(value: object, source: str) -> Leaf | Tree:
    """Turn one value into a node of a tree."""
    if isinstance(value, Leaf):
        return value
    return plant(value, source) if isinstance(value, Mapping) else Leaf(value, source, parse=False)


def plant_assignments(assignments: Mapping[str, str], source: str) -> Tree:
    """Turn dotted paths into a tree of leaves; raise ConfigError when one path crosses another."""
    tree: Tree = {}
    for path, text in assignments.items():
        *parents, last = path.split(".")
        branch = tree
        for step in parents:
            below = branch.setdefault(step, {})
            if isinstance(below, Leaf):
                raise ConfigError(f"{source} sets both {step!r} and {path!r}, which is inside it")
            branch = below
        if isinstance(branch.get(last), dict):
            raise ConfigError(f"{source} sets both {path!r} and something inside it")
        branch[last] = Leaf(text, source, parse=True)
    return tree


def merge(tree: Tree, later: Tree) -> None:
    """Lay `later` over `tree` in place; tables merge, everything else is replaced."""
    for key, value in later.items():
        known = tree.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            merge(known, value)
        elif isinstance(known, Leaf) and isinstance(known.value, list) and isinstance(value, dict):
            tree[key] = merge_items(known, known.value, value, key)
        else:
            tree[key] = value


def merge_items(leaf: Leaf, items: list[object], later: Tree, where: str) -> Leaf:
    """Lay changes that are named by index over the array of an earlier source."""
    nodes: Tree = {str(i): plant_value(item, leaf.source) for i, item in enumerate(items)}
    for key, below in later.items():
        if key not in nodes:
            raise ConfigError(
                f"{source_of(below)}: {where} has items 0 to {len(items) - 1}, not {key!r}"
            )
    merge(nodes, later)
    return Leaf(list(nodes.values()), leaf.source, parse=False)


def grow(hint: Any, node: Leaf | Tree, where: str, base: object) -> object:
    """Turn a tree into a value of type `hint`; `base` is what the tree is laid over, or None."""
    if isinstance(node, Leaf):
        return convert(node, hint, where)
    if isinstance(base, tuple):
        return grow_items(hint, node, where, base)
    options = [arm for arm in arms_of(hint) if is_dataclass(arm)]
    if is_dataclass(base):
        return grow_dataclass(type(base), node, where, base)
    if options:
        return grow_dataclass(cast(type, options[0]), node, where, None)
    if get_origin(hint) in (dict, Mapping):
        old = dict(base) if isinstance(base, Mapping) and is_assigned(node) else {}
        value_hint = get_args(hint)[1]
        return old | {
            key: grow(value_hint, below, join(where, key), old.get(key))
            for key, below in node.items()
        }
    raise ConfigError(f"{source_of(node)}: {where} is {name_of(hint)}, not a table of settings")


def grow_dataclass(cls: type, node: Tree, where: str, base: object) -> object:
    """Build a dataclass from a tree; fields that the tree lacks come from `base` or defaults."""
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}
    values: dict[str, object] = {}
    for key, below in node.items():
        if key not in known:
            cure = suggest(key, known, "known fields")
            raise ConfigError(f"{source_of(below)}: {cls.__name__} has no field {key!r}; {cure}")
        old = default_of(known[key]) if base is None else getattr(base, key)
        values[key] = grow(hints[key], below, join(where, key), old)
    for name, field in known.items():
        if name in values:
            continue
        if base is not None:
            values[name] = getattr(base, name)
        elif field.default is MISSING and field.default_factory is MISSING:
            place = f" of {where}" if where else ""
            raise ConfigError(
                f"{source_of(node)}: {cls.__name__}{place} needs {name!r}, which is missing; "
                f"give it a value of type {name_of(hints[name])}"
            )
    return cls(**values)


def grow_items(hint: Any, node: Tree, where: str, base: tuple[object, ...]) -> object:
    """Change single items of a tuple, named by their index."""
    items = list(base)
    arguments = get_args(next((arm for arm in arms_of(hint) if get_origin(arm) is tuple), hint))
    for key, below in node.items():
        if not key.isdecimal() or int(key) >= len(items):
            raise ConfigError(
                f"{source_of(below)}: {where} has items 0 to {len(items) - 1}, not {key!r}"
            )
        index = int(key)
        open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
        item_hint = arguments[0] if open_ended else arguments[index]
        items[index] = grow(item_hint, below, join(where, key), items[index])
    return tuple(items)


def convert(leaf: Leaf, hint: Any, where: str) -> object:
    """Return the leaf's value as type `hint`; raise ConfigError when it is of another type."""
    value, origin = leaf.value, get_origin(hint)
    if origin in (Union, UnionType):
        return convert_union(leaf, hint, where)
    if origin is Literal:
        return choose(leaf, [(choice, choice) for choice in get_args(hint)], where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return choose(leaf, [(member.value, member) for member in hint], where)
    if hint in (bool, int, float, str, Path):
        return convert_scalar(leaf, hint, where)
    if (origin or hint) in SEQUENCES:
        return convert_items(leaf, hint, where)
    if is_dataclass(hint) or origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return grow(hint, plant(value, leaf.source), where, None)
        raise mismatch(leaf, hint, where)
    if hint is Any or hint is object:
        return value
    raise TypeError(f"config fields of type {hint} are not supported ({where})")


def convert_union(leaf: Leaf, hint: Any, where: str) -> object:
    """Try the arms of a union in their order; the word "none" is None where None is allowed."""
    arms = get_args(hint)
    if NoneType in arms and (leaf.value is None or str(leaf.value).lower() == "none"):
        return None
    for arm in arms:
        if arm is NoneType:
            continue
        try:
            return convert(leaf, arm, where)
        except ConfigError:
            if len(arms) == 2 and NoneType in arms:
                raise
    raise mismatch(leaf, hint, where)


def convert_scalar(leaf: Leaf, hint: type, where: str) -> object:
    """Return a bool, int, float, str or Path; an int is a float, but True is not 1."""
    value = leaf.value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if type(value) is hint:
        return a_number(leaf, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if leaf.parse and isinstance(value, str):
        lowered = value.lower()
        if hint is bool and lowered in TRUE_WORDS + FALSE_WORDS:
            return lowered in TRUE_WORDS
        if hint in (int, float):
            try:
                return a_number(leaf, hint(value), where)
            except ValueError:
                raise mismatch(leaf, hint, where) from None
    raise mismatch(leaf, hint, where)


def a_number(leaf: Leaf, value: object, where: str) -> object:
    """Return a value unless it is nan, which passes most checks of a range."""
    if value != value:
        raise ConfigError(f"{leaf.source}: {where} is nan; give a number")
    return value


def convert_items(leaf: Leaf, hint: Any, where: str) -> object:
    """Return a tuple, list or frozenset; an assignment separates items by commas."""
    value = leaf.value
    if leaf.parse and isinstance(value, str):
        inner = value.strip().removeprefix("[").removeprefix("(")
        inner = inner.removesuffix("]").removesuffix(")").strip().rstrip(",")
        value = [item.strip().strip("\"'") for item in inner.split(",")] if inner else []
    if not isinstance(value, list | tuple):
        raise mismatch(leaf, hint, where)
    kind = get_origin(hint) or hint
    arguments = get_args(hint)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise mismatch(leaf, hint, where)
        item_hints: Sequence[Any] = arguments
    else:
        item_hints = [arguments[0] if arguments else Any] * len(value)
    items = [
        convert(
            item if isinstance(item, Leaf) else Leaf(item, leaf.source, leaf.parse),
            item_hint,
            join(where, str(index)),
        )
        for index, (item, item_hint) in enumerate(zip(value, item_hints, strict=True))
    ]
    return (tuple if kind is Sequence else kind)(items)


def choose(leaf: Leaf, choices: Sequence[tuple[object, object]], where: str) -> object:
    """Return the result of the choice that the leaf names; `choices` are (spelling, result)."""
    for spelling, result in choices:
        if str(spelling) == leaf.value if leaf.parse else is_same(spelling, leaf.value):
            return result
    cure = suggest(str(leaf.value), {str(spelling): None for spelling, _ in choices}, "choices")
    raise ConfigError(f"{leaf.source}: {where} is {leaf.value!r}; {cure}")


def is_same(a: object, b: object) -> bool:
    """Compare by value and type, so that True is not 1."""
    return type(a) is type(b) and a == b


def is_assigned(tree: Tree) -> bool:
    """Say whether all leaves are assignments; a file's free table stands for itself, whole."""
    return bool(tree) and all(
        node.parse if isinstance(node, Leaf) else is_assigned(node) for node in tree.values()
    )


def arms_of(hint: Any) -> tuple[Any, ...]:
    """Return the arms of a union, or the hint itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def default_of(field: "Field[Any]") -> object:
    """Return the default of a field, or None when it has none."""
    if field.default_factory is not MISSING:
        return cast(object, field.default_factory())
    return None if field.default is MISSING else field.default


def join(where: str, key: str) -> str:
    """Return the dotted path of `key` below `where`."""
    return f"{where}.{key}" if where else key


def source_of(node: Leaf | Tree) -> str:
    """Return the source of the first leaf of a tree."""
    while not isinstance(node, Leaf):
        if not node:
            return "config"
        node = next(iter(node.values()))
    return node.source


def name_of(hint: Any) -> str:
    """Return a type as a reader writes it."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def suggest(word: str, known: Mapping[str, object], label: str) -> str:
    """Return "did you mean ..." when some name is close, else the list of all names."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{label}: {', '.join(known)}"


def mismatch(leaf: Leaf, hint: Any, where: str) -> ConfigError:
    """Return the error for a value of the wrong type."""
    kind = "" if leaf.parse else f" ({type(leaf.value).__name__})"
    return ConfigError(
        f"{leaf.source}: {where} is {leaf.value!r}{kind}, but must be {name_of(hint)}"
    )
