"""Find programs that carry the visible tests with them instead of solving the problem.

The program's text is only searched, never parsed or run, so it works for every language. A hit is a
reason to look, not a verdict: an honest program may quote its examples in a comment.
"""

import re
from hashlib import md5, sha1, sha256

from openzaya.envs.code.problem import Problem, Program
from openzaya.envs.code.values import Json, canonical

MIN_CHARS = 12
"""Of all visible inputs together, squeezed: less would be found in most programs by chance."""
MAX_SOURCE_CHARS = 200_000

ESCAPES = re.compile(r"\\[nrt]")
NOISE = re.compile(r"[^0-9A-Za-z.\-]+")


def has_answer_table(problem: Problem, program: Program) -> bool:
    """Say whether all visible inputs stand in the program, or the hashes of two of them."""
    source = program.source[:MAX_SOURCE_CHARS]
    squeezed = squeeze(ESCAPES.sub(" ", source))
    inputs = [as_text(test.input) for test in problem.public_tests]
    keys = list(map(squeeze, inputs))
    if sum(map(len, keys)) >= MIN_CHARS and all(key in squeezed for key in keys):
        return True
    lowered = source.lower()
    hashed = sum(any(digest in lowered for digest in digests(text)) for text in inputs)
    return hashed >= min(2, len(inputs)) > 0


def squeeze(text: str) -> str:
    """Return a text's letters, digits, points and minus signs."""
    return NOISE.sub("", text)


def as_text(value: Json) -> str:
    """Return an input as a program would hash it: a text as it is, values as JSON."""
    return value if isinstance(value, str) else canonical(value)


def digests(text: str) -> set[str]:
    """Return the hex digests of an input under the usual hashes, also without outer blanks."""
    return {
        hash_(form.encode(), usedforsecurity=False).hexdigest()
        for form in (text, text.strip(), text.rstrip("\n"))
        for hash_ in (md5, sha1, sha256)
    }
