"""What a request may ask for, checked before anything is started."""

import math
import re
from collections.abc import Iterable

from openzaya.core.errors import RequestError
from openzaya.sandbox.executor import MIB, Limits, Request
from openzaya.sandbox.languages import Language, find

NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MOST_NAMES = 256
MOST_ARGUMENTS = 256
ARGUMENT_CHARACTERS = 4096
SOURCE_BYTES = 4 * MIB
STDIN_BYTES = 256 * MIB
RANGES: dict[str, tuple[float, float]] = {
    "cpu_s": (0.01, 3600),
    "wall_s": (0.01, 7200),
    "memory_bytes": (32 * MIB, 2**40),
    "processes": (1, 4096),
    "file_bytes": (0, 2**40),
    "tmp_bytes": (MIB, 2**40),
    "open_files": (8, 4096),
    "output_bytes": (0, 256 * MIB),
}
"""Least and most of each limit."""


def check(request: Request) -> Language:
    """Return the request's language; RequestError says what no sandbox could run."""
    language = find(request.language)
    check_limits(request.limits)
    taken = {language.source, language.program}
    check_names("files", request.files, taken)
    check_names("fetch", request.fetch, set())
    check_arguments(request.arguments)
    if len(request.source) > SOURCE_BYTES:
        raise RequestError(
            f"found a source of {len(request.source)} characters; at most {SOURCE_BYTES} fit"
        )
    if len(request.stdin) > STDIN_BYTES:
        raise RequestError(f"found {len(request.stdin)} bytes of stdin; at most {STDIN_BYTES} fit")
    size = sum(map(len, request.files.values()))
    if size > request.limits.tmp_bytes // 2:
        raise RequestError(
            f"found files of {size} bytes together; half of the working folder "
            f"({request.limits.tmp_bytes // 2} bytes) may be full at the start; raise tmp_bytes"
        )
    return language


def check_limits(limits: Limits) -> None:
    """Refuse limits that are not numbers or out of range."""
    for name, (least, most) in RANGES.items():
        value = getattr(limits, name)
        if value is None and name in ("wall_s", "processes"):
            continue
        whole = not name.endswith("_s")
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            raise RequestError(
                f"found limit {name} = {value!r}; expected {kind} from {least:g} to {most:g}"
            )


def check_names(what: str, names: Iterable[str], taken: set[str]) -> None:
    """Refuse file names that are not plain names in the working folder."""
    names = list(names)
    if len(names) > MOST_NAMES or len(set(names)) < len(names):
        raise RequestError(
            f"found {len(names)} {what}; expected at most {MOST_NAMES}, all different"
        )
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in {".", ".."}:
            raise RequestError(
                f"found file name {name!r:.120} in {what}; expected 1 to 100 letters, digits, "
                "'_', '.' or '-', and no folder"
            )
        if name in taken:
            raise RequestError(f"found file name {name!r} in {what}; it belongs to the program")


def check_arguments(arguments: tuple[str, ...]) -> None:
    """Refuse arguments that no program can be started with."""
    for text in arguments:
        if "\0" in text or len(text) > ARGUMENT_CHARACTERS or not text.isprintable():
            raise RequestError(
                f"found argument {text!r:.120}; expected at most {ARGUMENT_CHARACTERS} printable "
                "characters; send other data by stdin or files"
            )
    if len(arguments) > MOST_ARGUMENTS:
        raise RequestError(f"found {len(arguments)} arguments; expected at most {MOST_ARGUMENTS}")
