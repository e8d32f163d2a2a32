"""The settings of test-time compute: one space, in which every strategy is a point.

No rounds is parallel sampling (self-consistency when the vote decides), one tail per prompt is
Delethink, a tail as long as the budget is full-chain RSA, and passing finished answers forward
instead of reasoning is the PaCoRe hybrid. `strategies.py` names the points.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from openzaya.core.errors import ConfigError
from openzaya.text.tails import TailSource

Subset = Literal["uniform", "balanced", "diverse"]
Order = Literal["random", "cache"]
Snap = Literal["exact", "line"]
Schedule = Literal["barrier", "async", "quorum"]
Select = Literal["majority", "judge", "verifier", "behaviour", "final"]
Fallback = Literal["random", "judge"]
Chain = Literal["prompt", "continuation"]

MAX_CANDIDATES = 256
MAX_ROUNDS = 64
MAX_TOKENS = 1 << 24
MAX_TOTAL_TOKENS = 1 << 40
MIN_RESERVE = 16
"""The closing marker takes half of it."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "tail_source": ("thinking", "answer_or_thinking", "answer", "all"),
    "subset": ("uniform", "balanced", "diverse"),
    "order": ("random", "cache"),
    "snap": ("exact", "line"),
    "schedule": ("barrier", "async", "quorum"),
    "select": ("majority", "judge", "verifier", "behaviour", "final"),
    "fallback": ("random", "judge"),
    "chain": ("prompt", "continuation"),
}
_WHOLE: dict[str, tuple[str, int, int]] = {
    "num_candidates": ("num_candidates (N)", 1, MAX_CANDIDATES),
    "rounds": ("rounds (T)", 0, MAX_ROUNDS),
    "budget_tokens": ("budget_tokens (beta)", 1, MAX_TOKENS),
    "tail_tokens": ("tail_tokens (tau)", 1, MAX_TOKENS),
    "max_attempts": ("max_attempts", 1, 16),
    "judge_tokens": ("judge_tokens", 1, MAX_TOKENS),
    "keep_head_tokens": ("keep_head_tokens", 0, MAX_TOKENS),
    "tails_per_prompt": ("tails_per_prompt (C)", 1, MAX_CANDIDATES),
}
_WHOLE_OR_NONE: dict[str, tuple[str, int, int]] = {
    "final_budget_tokens": ("final_budget_tokens (F)", 1, MAX_TOKENS),
    "final_candidates": ("final_candidates", 1, MAX_CANDIDATES),
    "max_total_tokens": ("max_total_tokens", 1, MAX_TOTAL_TOKENS),
    "answer_allowance_tokens": ("answer_allowance_tokens", 0, MAX_TOKENS),
    "answer_reserve_tokens": ("answer_reserve_tokens", MIN_RESERVE, MAX_TOKENS),
}
_NUMBERS: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, 2.0, "a number from 0 (greedy) to 2"),
    "final_temperature": (0.0, 2.0, "a number from 0 (greedy) to 2"),
    "top_p": (1e-9, 1.0, "a number above 0 and at most 1"),
    "retry_base_s": (0.0, 3600.0, "seconds from 0 to 3600"),
    "quorum": (1e-9, 1.0, "a share above 0 and at most 1"),
    "consensus": (0.5, 1.0, "a probability from 0.5 to 1"),
}
_OPTIONAL_NUMBERS = ("final_temperature", "consensus")


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkovianRSAConfig:
    """Settings of one run; the defaults are the paper's headline setting.

    Raises `ConfigError` when the settings do not fit each other.

    Paper: VI-A; VI-C.
    Deviation: D-012.
    """

    num_candidates: int = 16
    """N: candidates sampled in every round."""
    tails_per_prompt: int = 4
    """C: tails shown to each new candidate. 1 = every slot continues from its own tail."""
    rounds: int = 2
    """T: aggregation rounds after round 0, so a run has T + 1 stages. 0 = sample only."""
    budget_tokens: int = 40_960
    """beta: most tokens one candidate may generate in a round that is not the last."""
    tail_tokens: int = 4_096
    """tau: tokens of a trace that survive into the next round."""
    final_budget_tokens: int | None = None
    """F: most tokens of a candidate of the last stage; None = the same as budget_tokens."""
    final_candidates: int | None = None
    """Candidates of the last stage; None = num_candidates, which the vote needs."""
    widths: tuple[int, ...] | None = None
    """Candidates of each of the T + 1 stages; None = num_candidates in every one."""
    aggregate: bool = True
    """False: later stages sample afresh from the question and all stages vote together."""
    tail_source: TailSource = "thinking"
    """What a tail is cut from; answer_or_thinking passes a finished answer, else the reasoning."""
    answer_allowance_tokens: int | None = None
    """Tokens after the think block in stages before the last; None = all that the budget leaves."""
    answer_reserve_tokens: int | None = None
    """Tokens at the end of a last-stage budget that only an answer may use: thinking that has not
    ended before is closed there. None = it is cut, and has no answer."""
    subset: Subset = "uniform"
    """How tails are drawn; balanced: each equally often; diverse: always one of a minority."""
    order: Order = "random"
    """Order of the tails in a prompt; cache puts often-used tails first, for prefix reuse."""
    snap: Snap = "exact"
    """line: start a tail at a line break when one lies in its first tenth."""
    chain: Chain = "prompt"
    """C = 1 only: quote the tail in a prompt, or continue inside the open think block."""
    keep_head_tokens: int = 100
    """First tokens of a chain that a continuation keeps in front of the tail."""
    schedule: Schedule = "barrier"
    """When a round begins: all tails there; async: enough there; quorum: stragglers are cut."""
    quorum: float = 0.75
    """Share of a round's candidates whose end is the round's end under schedule = quorum."""
    consensus: float | None = None
    """Stop after a stage once the leader has a majority with this probability; None = never."""
    copy_agreed: bool = False
    """A subset whose answers all agree is copied instead of aggregated, for no tokens."""
    select: Select = "majority"
    """Who chooses the answer; final: the last stage has a single candidate."""
    fallback: Fallback = "random"
    """Where no answer can be read: a random finished candidate, or one selection call."""
    judge_tokens: int = 2_048
    """Most tokens of a selection call."""
    max_total_tokens: int | None = None
    """Hard cap of newly generated tokens of the whole run; None = what the budgets allow."""
    temperature: float = 1.0
    """Sampling temperature of every stage."""
    top_p: float = 1.0
    """Nucleus mass of every stage."""
    final_temperature: float | None = None
    """Temperature of the last stage; None = temperature."""
    max_attempts: int = 3
    """Tries of one candidate before it is dropped; 1 when the sampler retries by itself."""
    retry_base_s: float = 0.5
    """Mean wait before the second try, in seconds; doubled for each further one."""

    def __post_init__(self) -> None:
        """Check every field alone, then against the others."""
        for name, (label, low, high) in _WHOLE.items():
            _check_whole(label, getattr(self, name), low, high)
        for name, (label, low, high) in _WHOLE_OR_NONE.items():
            if getattr(self, name) is not None:
                _check_whole(label, getattr(self, name), low, high)
        for name, bounds in _NUMBERS.items():
            value = getattr(self, name)
            if not (value is None and name in _OPTIONAL_NUMBERS):
                _check_number(name, value, *bounds)
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name in ("aggregate", "copy_agreed"):
            _check_switch(name, getattr(self, name))
        self._check_widths()
        if self.rounds > 0 and self.aggregate:
            self._check_tails()
        self._check_reserve()
        if self.select == "final" and self.candidates_at(self.rounds) != 1:
            raise ConfigError(
                f"select is 'final', but the last stage has {self.candidates_at(self.rounds)} "
                "candidates; set final_candidates to 1 or choose select = majority"
            )

    def _check_widths(self) -> None:
        if self.widths is None:
            return
        if not isinstance(self.widths, tuple) or not self.widths:
            raise ConfigError(f"widths is {self.widths!r}; choose a list with one width per stage")
        for width in self.widths:
            _check_whole("each of widths", width, 1, MAX_CANDIDATES)
        if len(self.widths) != self.num_stages:
            raise ConfigError(
                f"widths names {len(self.widths)} stages, but rounds (T) = {self.rounds} makes "
                f"{self.num_stages}; choose rounds = {len(self.widths) - 1} or other widths"
            )
        if self.final_candidates is not None:
            raise ConfigError(
                f"final_candidates is {self.final_candidates}, but widths name the last stage too; "
                "choose one of the two"
            )

    def _check_reserve(self) -> None:
        if self.reserve_at(self.rounds) >= self.budget_at(self.rounds):
            raise ConfigError(
                f"answer_reserve_tokens is {self.answer_reserve_tokens}, and the last stage's "
                f"budget is {self.budget_at(self.rounds)}; choose a smaller reserve, or a larger "
                "final_budget_tokens (F)"
            )

    def _check_tails(self) -> None:
        most = max(self.widths or (self.num_candidates,))
        if self.tails_per_prompt > most:
            raise ConfigError(
                f"tails_per_prompt (C) is {self.tails_per_prompt}, but a round has only "
                f"num_candidates (N) = {most} traces; choose 1 <= C <= N"
            )
        if self.tail_tokens > self.budget_tokens:
            raise ConfigError(
                f"tail_tokens (tau) is {self.tail_tokens}, longer than the budget_tokens (beta) = "
                f"{self.budget_tokens} of a trace; choose tau <= beta"
            )
        if self.chain == "prompt":
            return
        if self.tails_per_prompt != 1 or self.tail_tokens == self.budget_tokens:
            raise ConfigError(
                f"chain is 'continuation' with tails_per_prompt (C) = {self.tails_per_prompt}, "
                f"tail_tokens (tau) = {self.tail_tokens} and budget_tokens (beta) = "
                f"{self.budget_tokens}; choose C = 1 and tau < beta, or chain = prompt"
            )

    def reproduce(self) -> Self:
        """Return these settings with every switch that the paper does not have turned off."""
        return replace(self, **REPRODUCE)

    @property
    def num_stages(self) -> int:
        """T + 1: stage 0 and one stage per aggregation."""
        return self.rounds + 1

    def candidates_at(self, stage: int) -> int:
        """Return the number of candidates of a stage."""
        if self.widths is not None:
            return self.widths[stage]
        is_last = stage == self.rounds and self.final_candidates is not None
        return self.final_candidates or self.num_candidates if is_last else self.num_candidates

    def tails_at(self, stage: int) -> int:
        """Return the most tails that a prompt of a stage shows; 0 where it shows the question."""
        if stage == 0 or not self.aggregate:
            return 0
        return min(self.tails_per_prompt, self.candidates_at(stage - 1))

    def budget_at(self, stage: int) -> int:
        """Return the most tokens a candidate of a stage may generate."""
        if stage == self.rounds and self.final_budget_tokens is not None:
            return self.final_budget_tokens
        if stage > 0 and self.chain == "continuation":
            return self.budget_tokens - self.tail_tokens
        return self.budget_tokens

    def reserve_at(self, stage: int) -> int:
        """Return the tokens that a candidate of a stage keeps for its answer; 0 for none."""
        is_last = stage == self.rounds or not self.aggregate
        return (self.answer_reserve_tokens or 0) if is_last else 0

    def temperature_at(self, stage: int) -> float:
        """Return the sampling temperature of a stage."""
        if stage == self.rounds and self.final_temperature is not None:
            return self.final_temperature
        return self.temperature

    def quorum_at(self, stage: int) -> int:
        """Return how many candidates must have ended for a stage to end."""
        count = self.candidates_at(stage)
        return math.ceil(self.quorum * count) if self.schedule == "quorum" else count

    @property
    def max_tail_tokens(self) -> int:
        """Most tokens of one tail: tau, or twice tau where an answer's code block stays whole."""
        keeps_code = self.tail_source in ("answer", "answer_or_thinking")
        return 2 * self.tail_tokens if keeps_code else self.tail_tokens

    def min_survivors(self, stage: int = 0) -> int:
        """Fewest candidates of a stage that the next one may build on."""
        if not self.aggregate:
            return 1
        return min(self.candidates_at(stage), max(2, math.ceil(self.tails_per_prompt / 2)))


REPRODUCE: dict[str, Any] = {
    "schedule": "barrier",
    "consensus": None,
    "copy_agreed": False,
    "subset": "uniform",
    "order": "random",
    "snap": "exact",
    "answer_allowance_tokens": None,
    "answer_reserve_tokens": None,
}
"""Every switch that saves time or tokens and that the paper does not have, in its off position."""


def field_names() -> tuple[str, ...]:
    """Return the names of all settings."""
    return tuple(MarkovianRSAConfig.__dataclass_fields__)


def _check_whole(label: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{label} is {value!r}; choose a whole number from {low} to {high}")


def _check_number(name: str, value: object, low: float, high: float, expected: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r}; choose {expected}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; choose true or false")
