"""The seams between packages: small protocols that a test double can meet in ten lines."""

from typing import Protocol, runtime_checkable

from openzaya.core.records import Completion, Message, SampleRequest, Watch


class Tokenizer(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; markers of the chat template become their single ids."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`, special tokens included."""
        ...


class Sampler(Protocol):
    """Something that can complete a conversation: our engine, or a server.

    `sample` raises `ContextLengthError` for a prompt that does not fit, `EngineError` or
    `UpstreamError` for failures; cancelling the coroutine stops the generation.
    """

    async def sample(self, request: SampleRequest) -> Completion:
        """Return one completion."""
        ...

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return the length of the prompt that `messages` become (an estimate for some servers)."""
        ...

    def last_tokens(self, text: str, count: int) -> str:
        """Return the suffix of `text` that is `count` tokens long (for some servers estimated)."""
        ...


@runtime_checkable
class WatchedSampler(Sampler, Protocol):
    """A sampler whose completions can be watched and cut while they are generated."""

    async def sample_watched(self, request: SampleRequest, watch: Watch) -> Completion:
        """Return one completion, telling `watch` of all text as it comes.

        Once `watch.cut` is set it ends the generation and returns what there is, with the finish
        reason "abort". A call that is tried again restarts `watch`.
        """
        ...
