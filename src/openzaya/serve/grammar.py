"""Grammars that replies must keep, by llguidance, behind the engine's protocol of constraints.

Source: https://github.com/guidance-ai/llguidance (an optional distribution: `openzaya[grammar]`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from openzaya.engine.constraint import Bits
from openzaya.sandbox.pool import Ended, shared_pool
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.form import Form
from openzaya.serve.tool_calls import OPEN
from openzaya.text.markers import ALL_MARKERS, THINK_CLOSE
from openzaya.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

MAX_KEPT = 64
"""Compiled grammars that are kept."""
CLOSE = THINK_CLOSE.encode()


class Vocabulary:
    """The tokens of a model as llguidance asks for them: by the bytes that clients are sent."""

    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int, stop_ids: Sequence[int]) -> None:
        markers = [marker.encode() for marker in ALL_MARKERS]
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        # A token that holds a marker is no text, whatever the tokenizer says of it.
        self.special_token_ids = [
            token
            for token, text in enumerate(self.tokens)
            if token in tokenizer.special_ids or any(marker in text for marker in markers)
        ]
        self.stop_ids = [token for token in stop_ids if token < vocab_size]
        self.eos_token_id = self.stop_ids[0]

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [t for t in self._tokenizer.encode_plain(text) if t < len(self.tokens)]


class Grammars:
    """Compiles the forms of replies for one model, and keeps the latest."""

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_ids = stop_ids
        self._kept = lru_cache(MAX_KEPT)(self._compile)

    def constrained(self, form: Form, *, thinks: bool, begun: str = "") -> Constrained:
        """Return what makes the constraints of one choice; from any thread, it takes milliseconds.

        `thinks`: the reply begins inside a thought, which is free. `begun` is the part of the
        answer that the prompt holds. Raises ApiError 400 for a grammar that cannot be kept.
        """
        if find_spec("llguidance") is None:
            raise bad_request(
                f"{form.param}: this server keeps no form, as llguidance is missing; install it "
                "with: pip install 'openzaya[grammar]'",
                form.param,
            )
        try:
            matcher = self._kept(form.grammar)
        except ValueError as error:
            raise bad_request(f"{form.param}: {error}", form.param) from None
        if begun:
            if OPEN in begun or form.param == "tool_choice":
                raise bad_request("a turn to continue may hold no tool call", "messages")
            matcher = matcher.deep_copy()
            if not matcher.consume_tokens(self.shared.tokens_of(begun)):
                raise bad_request(
                    "the turn to continue is no beginning of what the request asks for; leave the "
                    f"turn or {form.param} out",
                    "messages",
                )
        return Constrained(matcher, self.shared, thinks)

    def prepare(self) -> None:
        """Read the vocabulary, which stops all threads for a second where it is large."""
        if find_spec("llguidance") is not None:
            _ = self.shared

    @cached_property
    def shared(self) -> Shared:
        """What all constraints of the model share; made with the first of them."""
        return Shared(Vocabulary(self._tokenizer, self._vocab_size, self._stop_ids))

    def _compile(self, grammar: str) -> LLMatcher:
        """Return the matcher of a grammar at its beginning. Raises ValueError with the reason."""
        from llguidance import LLMatcher

        from openzaya.serve.grammar_check import limits, reason_of

        against = try_out(grammar)
        if against:
            raise ValueError(f"{against}; change the schema")
        matcher = LLMatcher(self.shared.tokenizer, grammar, log_level=0, limits=limits())
        if matcher.is_error():
            raise ValueError(f"{reason_of(matcher)}; change the schema")
        return matcher


def try_out(grammar: str) -> str:
    """Return why a grammar is refused, by compiling it where that can be stopped; empty if not.

    Raises ApiError 500 when it could not be tried.
    """
    outcome = shared_pool().call("openzaya.serve.grammar_check:reason_against", grammar)
    if outcome.ended is Ended.VALUE:
        return str(outcome.value)
    # What ran and was killed, or overran its stack, would do the same here.
    if outcome.ended in (Ended.TIMEOUT, Ended.MEMORY) or outcome.wall_s > 0:
        return f"it is too complex to compile ({outcome.message})"
    raise ApiError(500, f"the schema could not be compiled ({outcome.message}); ask again")


class Shared:
    """The vocabulary as llguidance keeps it, its threads, and two masks."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from llguidance import LLExecutor, LLTokenizer, TokenizerWrapper

        self.vocabulary = vocabulary
        self.tokenizer: LLTokenizer = LLTokenizer(
            TokenizerWrapper(vocabulary),
            n_vocab=len(vocabulary.tokens),
            eos_token=vocabulary.stop_ids,
        )
        self._executor: LLExecutor = LLExecutor()
        stops = np.zeros(self.no_bits(1).shape[1] * 8, dtype=np.uint8)
        stops[vocabulary.stop_ids] = 1
        self.only_stops: Bits = np.packbits(stops, bitorder="little")
        """Allows the reply to end, and nothing else."""
        self.no_stops: Bits = ~self.only_stops
        """Allows everything else."""

    def no_bits(self, count: int) -> Bits:
        """Return masks [N, W] that allow nothing."""
        return np.zeros((count, -(-len(self.vocabulary.tokens) // 32) * 4), dtype=np.uint8)

    def fill(self, matchers: Sequence[LLMatcher], bits_NW: Bits) -> None:
        """Write the masks of matchers, several at once."""
        numbered = [(matcher, index) for index, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(
            numbered, bits_NW.ctypes.data, bits_NW.shape[1], len(bits_NW)
        )

    def tokens_of(self, text: str) -> list[int]:
        """Return ids that spell a text, not always as a model would write it."""
        return self.tokenizer.greedy_tokenize(text)


def _why(matcher: LLMatcher) -> str:
    """Return why a reply cannot go on."""
    from openzaya.serve.grammar_check import reason_of

    return reason_of(matcher) or "nothing may follow"


@dataclass(slots=True, eq=False)
class Constrained:
    """Makes the constraint of one choice when the engine begins it, and knows how it went."""

    _matcher: LLMatcher
    _shared: Shared
    _thinks: bool
    failure: str = ""
    """Why the form was not kept, else empty."""

    def __call__(self) -> GrammarConstraint:
        """Return a constraint at its beginning."""
        return GrammarConstraint(self, self._matcher.deep_copy(), self._shared, self._thinks)


@dataclass(slots=True)
class GrammarConstraint:
    """What one reply may say: anything but its end in a thought, then what the grammar allows.

    A reply whose grammar fails on the way, as one may that is too ambiguous, is ended at once.
    """

    owner: Constrained
    matcher: LLMatcher
    shared: Shared
    thinks: bool
    recent: bytes = field(default=b"")
    """The last bytes of a thought, in which its end may begin."""

    def accept(self, token: int) -> None:
        """Take note of a token."""
        if not self.thinks:
            self._take([token])
            return
        text = self.recent + self.shared.vocabulary.tokens[token]
        _, marker, rest = text.partition(CLOSE)
        self.recent = text[1 - len(CLOSE) :]
        if marker:
            self.thinks = False
            answer = rest.lstrip(b"\n")
            if answer:  # one token that ends the thought and begins the answer
                self._take(self.shared.tokens_of(answer.decode("utf-8", "replace")))

    def _take(self, tokens: list[int]) -> None:
        if not self.matcher.consume_tokens(tokens):
            self.owner.failure = _why(self.matcher)

    @classmethod
    def fill(cls, constraints: Sequence[GrammarConstraint], bits_NW: Bits) -> None:
        """Write the masks of several."""
        shared = constraints[0].shared
        bits_NW[:] = shared.no_stops
        at = [index for index, one in enumerate(constraints) if not one.thinks]
        if not at:
            return
        bits_MW = shared.no_bits(len(at))
        shared.fill([constraints[index].matcher for index in at], bits_MW)
        for index, bits_W in zip(at, bits_MW, strict=True):
            one = constraints[index]
            if one.matcher.is_error() or not bits_W.any():
                one.owner.failure = one.owner.failure or _why(one.matcher)
                bits_W = shared.only_stops
            bits_NW[index] = bits_W


def check_kept(constraint: object) -> None:
    """Raise ApiError 400 for a reply that could not keep its form; it is no answer."""
    if isinstance(constraint, Constrained) and constraint.failure:
        raise ApiError(
            400,
            f"the form could not be kept ({constraint.failure}); ask for a simpler schema",
            code="form_not_kept",
        )
