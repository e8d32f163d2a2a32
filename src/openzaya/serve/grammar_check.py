"""Trying a grammar in a process that can be killed, before the server compiles it itself.

Some schemas take for ever or all memory (twenty patterns that must all match, the multiples of a
large number), and nothing stops a compilation inside of the server.
"""

import re
import threading
from functools import cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

STATES = 50_000
"""Of a grammar's lexer at most; one takes some 2 kB."""
STACK_BYTES = 1 << 20
TOKEN = re.compile(r"<\[[0-9]+\]>")


class Bytes:
    """A vocabulary of single bytes."""

    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)

    def __call__(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode())


@cache
def byte_tokenizer() -> LLTokenizer:
    """Return the smallest tokenizer there is."""
    return LLTokenizer(TokenizerWrapper(Bytes()))


def limits() -> LLParserLimits:
    """Return the limits of all grammars."""
    return LLParserLimits(verbose_errors=False, max_lexer_states=STATES)


def reason_against(grammar: str) -> str:
    """Return why no reply can keep a grammar; empty when it compiles and allows a first byte.

    It runs on a smaller stack than the threads of a server have: a schema that nests deeper than
    that ends this process.
    """
    threading.stack_size(STACK_BYTES)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_try(grammar)))
    thread.start()
    thread.join()
    return found[0]


def _try(grammar: str) -> str:
    spelled = TOKEN.sub("<[0]>", grammar)  # tokens that are named by their ids are none of these
    matcher = LLMatcher(byte_tokenizer(), spelled, log_level=0, limits=limits())
    if not matcher.is_error():
        # What nothing can satisfy fails with its first mask, behind the line ends that may lead.
        matcher.try_consume_tokens(list(b"\n\n"))
        matcher.compute_bitmask()
        if not matcher.is_error():
            return ""
        return f"nothing satisfies it ({reason_of(matcher)})"
    return reason_of(matcher)


def reason_of(matcher: LLMatcher) -> str:
    """Return why a matcher failed, without the grammar, which the client does not know."""
    text = " ".join(matcher.get_error().split("\n   1 | ")[0].split("<non-verbose")[0].split())
    return text.split("failed to compile JSON schema: ")[-1][:300]
