"""RL prompts: plain questions, and questions that show tails of earlier attempts.

Attempts come from an expert (a fixed pool) or from the policy's own earlier rollouts (a pool that
the caller keeps up to date). Every prompt is graded like its plain question.

Paper: VI-B.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.records import Message
from openzaya.core.seeding import stream
from openzaya.data.aggregation import AggregationConfig, CandidatePool, draw_candidates
from openzaya.text.tails import aggregation_messages
from openzaya.text.tokenizer import TextTokenizer

PromptKind = Literal["plain", "expert", "self"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RlPrompt:
    """One prompt for a group of rollouts."""

    messages: tuple[Message, ...]
    """Ends with the user's turn."""
    payload: Any
    """What the scorer needs; the same as for the plain question."""
    source: str
    """Environment or data set."""
    key: str
    """Names the problem, the same for its plain and its aggregation prompts."""
    kind: PromptKind = "plain"
    """Where its candidates come from."""

    @property
    def keeps_tails(self) -> bool:
        """Say whether its rollouts may feed self-aggregation: one round only, so plain ones."""
        return self.kind == "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptedProblem:
    """A problem with attempts at it."""

    prompt: RlPrompt
    """The plain prompt."""
    pool: CandidatePool
    """The attempts; its messages are the prompt's."""
    solve_rate: float = 0.0
    """Share of the attempts that were right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RlPromptConfig:
    """How many prompts are of which kind."""

    expert_share: float = 0.0
    """Share of prompts with an expert's attempts."""
    self_share: float = 0.0
    """Share of prompts with the policy's own attempts."""
    max_solve_rate: float = 1.0
    """Problems solved more often than this give no self-aggregation prompts."""
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    """How candidates are shown."""

    def __post_init__(self) -> None:
        """Refuse shares that do not add up."""
        shares = (self.expert_share, self.self_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(
                f"expert_share is {shares[0]} and self_share {shares[1]}; choose shares >= 0 whose "
                "sum is at most 1 (the rest are plain questions)"
            )


class RlPrompts:
    """Draws the prompts of a step: a pure function of (seed, step, pools)."""

    def __init__(
        self,
        config: RlPromptConfig,
        tokenizer: TextTokenizer,
        plain: Callable[[Random], RlPrompt],
        experts: Sequence[AttemptedProblem] = (),
    ) -> None:
        """Keep where prompts come from; `plain` makes or picks a problem with the stream it gets.

        Raises DataError when expert prompts are wanted but there are none.
        """
        if config.expert_share and not experts:
            raise DataError(
                f"expert_share is {config.expert_share} but the expert pool is empty; add expert "
                "attempts or set the share to 0"
            )
        self._config = config
        self._tokenizer = tokenizer
        self._plain = plain
        self._experts = experts

    def draw(
        self, seed: int, step: int, count: int, own: Sequence[AttemptedProblem] = ()
    ) -> list[RlPrompt]:
        """Return `count` prompts; each has a stream of its own, so it depends on no other.

        `own` are the policy's problems; while none of them qualifies, their share is plain.
        """
        limit = self._config.max_solve_rate
        usable = [problem for problem in own if problem.solve_rate <= limit]
        return [self._one(stream(seed, "rl_prompts", step, i), usable) for i in range(count)]

    def _one(self, rng: Random, own: Sequence[AttemptedProblem]) -> RlPrompt:
        kind_draw = rng.random()
        if kind_draw < self._config.expert_share:
            return self._aggregation(rng, rng.choice(self._experts), "expert")
        if own and kind_draw < self._config.expert_share + self._config.self_share:
            return self._aggregation(rng, rng.choice(own), "self")
        return self._plain(rng)

    def _aggregation(self, rng: Random, problem: AttemptedProblem, kind: PromptKind) -> RlPrompt:
        settings = self._config.aggregation
        candidates = draw_candidates(problem.pool, self._tokenizer, settings, rng)
        plain = problem.prompt
        return RlPrompt(
            messages=aggregation_messages(plain.messages, candidates, settings.hint),
            payload=plain.payload,
            source=plain.source,
            key=plain.key,
            kind=kind,
        )
