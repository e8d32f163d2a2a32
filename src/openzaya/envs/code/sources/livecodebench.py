"""livecodebench/code_generation_lite: recent contest problems; its held-out tests come packed.

`private_test_cases` is JSON text, or base64 of zlib of a pickle of JSON text. A pickle can run code
when it is loaded, so it is never loaded: `read_pickled_text` understands the few opcodes that one
pickled str consists of and refuses everything else.

Source: the set's public reader and its users (fields, packing); the pickle opcodes from the Python
documentation of pickletools.
"""

import base64
import binascii
import json
import zlib
from dataclasses import replace
from typing import Any

from openzaya.envs.code.problem import Problem
from openzaya.envs.code.sources.apps import built, cases_of_list, provenance_of
from openzaya.envs.code.sources.records import (
    Record,
    Report,
    SkipError,
    each,
    list_of,
    text_of,
    text_or,
    unpacked,
)

MAX_UNPACKED_BYTES = 2**28
"""Bound on the tests of one problem after inflation; a bomb is refused there."""
LENGTH_BYTES = {0x8C: 1, 0x58: 4, 0x8D: 8}
"""SHORT_BINUNICODE, BINUNICODE, BINUNICODE8: opcode and size of its length."""
LEVELS = {"easy": 1.0, "medium": 2.0, "hard": 3.0}
PROTO, FRAME, MEMOIZE, BINPUT, STOP = 0x80, 0x95, 0x94, 0x71, 0x2E


def live_code_bench(record: Record, _: Report) -> Problem:
    """Turn a record of livecodebench/code_generation_lite into a problem."""
    name = text_of(record, "question_id")
    platform = text_or(record, "platform")
    metadata = unpacked(record, "metadata")
    function = str(metadata.get("func_name") or "") if isinstance(metadata, dict) else ""
    public = list_of(unpacked(record, "public_test_cases") or [], "public_test_cases")
    private = list_of(private_tests(text_or(record, "private_test_cases")), "private_test_cases")
    problem = built(
        f"livecodebench/{platform}/{name}",
        text_of(record, "question_content"),
        text_or(record, "starter_code"),
        cases_of_list([*public, *private], function),
        provenance_of("livecodebench/code_generation_lite", name, "unknown"),
    )
    return with_public(problem, len(public), text_or(record, "difficulty"))


def with_public(problem: Problem, count: int, difficulty: str) -> Problem:
    """Return the problem with its first `count` tests shown."""
    tests = problem.private_tests
    return replace(
        problem,
        public_tests=tests[:count],
        private_tests=tests[count:],
        difficulty=LEVELS.get(difficulty),
    )


def private_tests(text: str) -> Any:
    """Return the held-out tests, from JSON text or from packed text."""
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # not plain JSON: it must be the packed form
    try:
        return json.loads(read_pickled_text(inflate(base64.b64decode(text, validate=True))))
    except (ValueError, RecursionError, binascii.Error, zlib.error):
        raise SkipError("private_test_cases is neither JSON nor packed JSON") from None


def inflate(data: bytes, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress zlib data; raise SkipError when it grows beyond `limit` bytes or is cut."""
    inflater = zlib.decompressobj()
    unpacked_data = inflater.decompress(data, limit)
    if not inflater.eof:
        raise SkipError("packed tests are cut or too large")
    return unpacked_data


def read_pickled_text(data: bytes) -> str:
    """Return the str whose pickle (protocols 1 to 5) this is, without loading it.

    Raises SkipError for any other pickle.
    """
    position, end = 0, len(data)
    text: str | None = None
    while position < end:
        opcode = data[position]
        position += 1
        if opcode == STOP and text is not None and position == end:
            return text
        if opcode in LENGTH_BYTES and text is None:
            size = LENGTH_BYTES[opcode]
            length = int.from_bytes(data[position : position + size], "little")
            start = position + size
            position = start + length
            if position > end:
                break
            text = data[start:position].decode("utf-8", "surrogatepass")
        elif opcode == PROTO:
            position += 1
        elif opcode == FRAME:
            position += 8
        elif opcode == BINPUT and text is not None:
            position += 1
        elif opcode != MEMOIZE or text is None:
            break
    raise SkipError("packed tests are a pickle of something else than text; it is not loaded")


load_live_code_bench = each(live_code_bench)
