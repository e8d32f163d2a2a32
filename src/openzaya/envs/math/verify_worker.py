"""What a pool's worker runs for the second tier; importing it loads and warms math-verify.

The pool counts an import as a worker's start, not as a call, so the second that sympy and the
grammar take at first use is no answer's time-out. Nothing but the pool imports this module.
"""

from math_verify import (
    ExprExtractionConfig,
    LatexExtractionConfig,
    StringExtractionConfig,
    parse,
    verify,
)

_CONFIG = [LatexExtractionConfig()]
_REPLY_CONFIG = [LatexExtractionConfig(), ExprExtractionConfig(), StringExtractionConfig()]


def compare(gold: str, answer: str) -> bool:
    """Say whether math-verify finds two texts equal. Raises ValueError for an unreadable gold.

    Its own time-outs are off: they need the main thread and stop no big integers.
    """
    right, given = (
        parse(f"${text}$", extraction_config=_CONFIG, parsing_timeout=None)
        for text in (gold, answer)
    )
    if not right:
        raise ValueError("math-verify cannot read the gold")
    return bool(given) and bool(verify(right, given, timeout_seconds=None))


def grade_reply(gold: str, reply: str) -> bool:
    """Say whether math-verify alone, as its documentation uses it, accepts a whole reply."""
    right = parse(f"${gold}$", extraction_config=_REPLY_CONFIG, parsing_timeout=None)
    given = parse(reply, extraction_config=_REPLY_CONFIG, parsing_timeout=None)
    return bool(verify(right, given, timeout_seconds=None))


compare(r"\frac{1}{2}x", "0.5x")
