"""The shape suffix of a tensor's name is a type: `x_TD` has two axes, and T is one size per frame.

`checked` installs a profile function that looks at the locals of every function of a package when
it returns or yields. Rules:

* the number of letters after the last underscore is the number of axes;
* inside one frame a letter has one size, and `1` has size 1;
* variables that a nested function borrows from its parent belong to the parent's frame, so the
  letters of a closure may have other sizes than the letters around it;
* a local that is re-bound is checked with the value it has when the function returns;
* a frame that an exception leaves is not checked: its locals may be the input that was refused.
"""

import dis
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

SUFFIX = re.compile(r"_([A-Z1]+)$")
LEAVES_NORMALLY = {
    dis.opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE") if name in dis.opmap
}

_suffixes: dict[CodeType, tuple[tuple[str, str], ...]] = {}


def suffixes_of(code: CodeType) -> tuple[tuple[str, str], ...]:
    """Return (name, letters) of the code's own locals that carry a suffix."""
    found = _suffixes.get(code)
    if found is None:
        own = (*code.co_varnames, *(n for n in code.co_cellvars if n not in code.co_varnames))
        matches = ((name, SUFFIX.search(name)) for name in own)
        found = _suffixes[code] = tuple((name, match[1]) for name, match in matches if match)
    return found


def find_problems(frame: FrameType, tensor_type: type) -> list[str]:
    """Return what the suffixes of a frame's locals claim wrongly."""
    suffixes = suffixes_of(frame.f_code)
    if not suffixes:
        return []
    where = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
    values = frame.f_locals
    sizes: dict[str, tuple[int, str]] = {"1": (1, "the name")}
    problems = []
    for name, letters in suffixes:
        value = values.get(name)
        if not isinstance(value, tensor_type):
            continue
        if len(letters) != value.ndim:
            problems.append(f"{where}: {name} has shape {tuple(value.shape)}")
            continue
        for letter, size in zip(letters, value.shape, strict=True):
            known, first = sizes.setdefault(letter, (size, name))
            if known != size:
                problems.append(f"{where}: {letter} is {known} in {first} but {size} in {name}")
    return problems


def left_by_exception(frame: FrameType) -> bool:
    """Say whether an exception is leaving the frame; the profile event alone cannot tell."""
    return frame.f_code.co_code[frame.f_lasti] not in LEAVES_NORMALLY


@contextmanager
def checked(package: str) -> Iterator[set[str]]:
    """Collect the lies told by functions of `package` while the block runs, in this thread."""
    import torch

    problems: set[str] = set()
    prefix = f"{package}."

    def on_event(frame: FrameType, event: str, value: Any) -> None:
        if event != "return":
            return
        module = frame.f_globals.get("__name__", "")
        if not (module == package or module.startswith(prefix)):
            return
        if frame.f_code.co_name == "<module>":
            return
        found = find_problems(frame, torch.Tensor)
        if found and not (value is None and left_by_exception(frame)):
            problems.update(found)

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield problems
    finally:
        sys.setprofile(before)
