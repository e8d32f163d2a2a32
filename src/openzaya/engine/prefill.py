"""A prompt on its way into the cache, and the pieces in which it is computed."""

from dataclasses import dataclass

from openzaya.engine.prefix import Chain, Experts, Tokens
from openzaya.engine.request import Request

Key = tuple[str, bytes]
"""Salt and bytes of the tokens."""


@dataclass(eq=False, kw_only=True, slots=True)
class Prefill:
    """One prompt, or one interrupted generation, being computed for all requests that share it."""

    slot: int
    """Where its state is built."""
    tokens: Tokens
    """What is computed."""
    key: Key
    """Equal for equal tokens and salts."""
    members: list[Request]
    """Requests that wait for it."""
    experts: Experts
    """[n, L] experts of its tokens, as far as they are computed."""
    knows_experts: bool
    """False when the prefix that was found came without its experts."""
    chain: Chain
    """Name of its full blocks."""
    done_tokens: int
    """Tokens computed or found so far."""

    @property
    def rank(self) -> tuple[int, int]:
        """The rank of its most urgent member."""
        return min(rank_of(request) for request in self.members)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A piece of a prompt that one step computes."""

    prefill: Prefill
    """Whose prompt."""
    start: int
    """First prompt token of the piece."""
    length: int
    """Tokens of the piece."""

    @property
    def ends_prompt(self) -> bool:
        """True when the prompt is complete after this piece."""
        return self.start + self.length == len(self.prefill.tokens)


def rank_of(request: Request) -> tuple[int, int]:
    """Return what decides who steps back: smaller is more urgent."""
    return request.priority, request.request_id
