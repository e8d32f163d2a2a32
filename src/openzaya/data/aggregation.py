"""Aggregation examples for SFT: a question with tails of several attempts, and a worked answer."""

from dataclasses import dataclass
from random import Random

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.records import Message
from openzaya.core.seeding import stream
from openzaya.text.chat import ChatTemplate
from openzaya.text.document import Document
from openzaya.text.tails import TailSource, aggregation_messages, tail_of
from openzaya.text.think import Thought
from openzaya.text.tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregationConfig:
    """How candidates are shown.

    Paper: VI-B.
    """

    min_candidates: int = 1
    """Fewest tails in a prompt."""
    max_candidates: int = 4
    """Most tails in a prompt; their number C is drawn evenly between the two."""
    tail_tokens: int = 4_096
    """tau: tokens of an attempt that are shown."""
    tail_source: TailSource = "thinking"
    """Which part of an attempt its tail is taken from."""
    second_round_share: float = 0.0
    """Share of prompts whose candidates are answers to aggregation prompts, as in later rounds."""
    hint: str = ""
    """Optional last line of the prompt on the answer's format."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 1 <= self.min_candidates <= self.max_candidates:
            raise ConfigError(
                f"candidates are drawn from {self.min_candidates} to {self.max_candidates}; "
                "choose 1 <= min_candidates <= max_candidates"
            )
        if self.tail_tokens < 1 or not 0 <= self.second_round_share <= 1:
            raise ConfigError(
                f"tail_tokens is {self.tail_tokens} and second_round_share "
                f"{self.second_round_share}; choose at least 1 token and a share from 0 to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePool:
    """One problem with several attempts at it."""

    key: str
    """Names the problem; its draws depend on nothing else but the seed."""
    messages: tuple[Message, ...]
    """The conversation up to the question, which is the last turn and the user's."""
    first_round: tuple[Thought, ...]
    """Attempts at the plain question."""
    second_round: tuple[Thought, ...] = ()
    """Attempts at an aggregation prompt: shorter, and with correlated errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationExample:
    """What becomes one document."""

    pool: CandidatePool
    """The problem and its attempts."""
    target: Message
    """The teacher's reply to the aggregation prompt, reasoning included. Need not be verified."""
    source: str = "aggregation"
    """Name of the data set."""


def draw_candidates(
    pool: CandidatePool, tokenizer: TextTokenizer, config: AggregationConfig, rng: Random
) -> list[str]:
    """Return the tails of a prompt: one population, without replacement, in random order.

    Empty tails are passed over. Fewer come back when the population is smaller; a population with
    nothing to show gives way to the other one. Raises DataError when both have nothing.
    """
    wants_second = rng.random() < config.second_round_share
    wanted = rng.randint(config.min_candidates, config.max_candidates)
    order = (pool.first_round, pool.second_round)
    for population in reversed(order) if wants_second else order:
        tails: list[str] = []
        for thought in rng.sample(population, len(population)):
            tail = tail_of(thought, tokenizer.last_tokens, config.tail_tokens, config.tail_source)
            if tail.strip():
                tails.append(tail)
            if len(tails) == wanted:
                break
        if tails:
            return tails
    raise DataError(
        f"problem {pool.key!r} has no attempt with a non-empty tail, expected at least one of its "
        f"{len(pool.first_round) + len(pool.second_round)}; leave it out, sample it again, or show "
        f"another part of the attempts: tail_source is {config.tail_source!r}"
    )


def aggregation_turns(
    example: AggregationExample,
    tokenizer: TextTokenizer,
    config: AggregationConfig | None = None,
    seed: int = 0,
) -> tuple[Message, ...]:
    """Return one example as a conversation: the inference prompt, then the target.

    The same seed and key give the same candidates. Raises DataError when the target is not an
    assistant's turn or the pool has nothing to show.

    Paper: VI-B.
    """
    settings = config or AggregationConfig()
    if example.target.role != "assistant":
        raise DataError(
            f"the target of {example.pool.key!r} is a turn of the {example.target.role}, expected "
            "the assistant's; give the teacher's reply"
        )
    rng = stream(seed, "aggregation", example.pool.key)
    candidates = draw_candidates(example.pool, tokenizer, settings, rng)
    messages = aggregation_messages(example.pool.messages, candidates, settings.hint)
    return (*messages, example.target)


def aggregation_document(
    example: AggregationExample,
    tokenizer: TextTokenizer,
    chat: ChatTemplate,
    config: AggregationConfig | None = None,
    seed: int = 0,
) -> Document:
    """Return one example as a document; only the target is trained. See `aggregation_turns`."""
    turns = aggregation_turns(example, tokenizer, config, seed)
    return chat.encode_turns(turns, tokenizer, source=example.source, loss="last")
