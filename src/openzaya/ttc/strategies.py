"""The settings of test-time compute, and the named parameter sets of the one loop.

Every strategy is a point in the same space: no rounds is parallel sampling (self-consistency when
the vote decides), one tail per prompt is Delethink, a tail as long as the budget is full-chain RSA,
and passing finished answers forward instead of reasoning is the PaCoRe hybrid.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from openzaya.core.errors import ConfigError
from openzaya.text.tails import TailSource

Subset = Literal["uniform", "balanced"]
Order = Literal["random", "cache"]
Snap = Literal["exact", "line"]

MAX_CANDIDATES = 256
MAX_ROUNDS = 64
FINAL_RESPONSE_TOKENS = 40_960
"""The paper's budget of a final response, used by every preset of the paper."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "tail_source": ("thinking", "answer_or_thinking", "answer", "all"),
    "subset": ("uniform", "balanced"),
    "order": ("random", "cache"),
    "snap": ("exact", "line"),
}


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
    tail_source: TailSource = "thinking"
    """What a tail is cut from; answer_or_thinking passes a finished answer, else the reasoning."""
    subset: Subset = "uniform"
    """How tails are drawn; balanced shows every tail equally often."""
    order: Order = "random"
    """Order of the tails in a prompt; cache puts often-used tails first, for prefix reuse."""
    snap: Snap = "exact"
    """line: start a tail at a line break when one lies in its first tenth."""
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
        _check_range("num_candidates (N)", self.num_candidates, 1, MAX_CANDIDATES)
        _check_range("rounds (T)", self.rounds, 0, MAX_ROUNDS)
        _check_range("budget_tokens (beta)", self.budget_tokens, 1, 1 << 24)
        _check_range("tail_tokens (tau)", self.tail_tokens, 1, 1 << 24)
        _check_range("max_attempts", self.max_attempts, 1, 16)
        if self.final_budget_tokens is not None:
            _check_range("final_budget_tokens (F)", self.final_budget_tokens, 1, 1 << 24)
        if self.final_candidates is not None:
            _check_range("final_candidates", self.final_candidates, 1, MAX_CANDIDATES)
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        self._check_sampling()
        if self.rounds > 0:
            self._check_tails()

    def _check_sampling(self) -> None:
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0.0 <= value <= 2.0):
                raise ConfigError(f"{name} is {value}; choose a number from 0 (greedy) to 2")
        if not (math.isfinite(self.top_p) and 0.0 < self.top_p <= 1.0):
            raise ConfigError(f"top_p is {self.top_p}; choose a number above 0 and at most 1")
        if not (math.isfinite(self.retry_base_s) and self.retry_base_s >= 0.0):
            raise ConfigError(f"retry_base_s is {self.retry_base_s}; choose seconds >= 0")

    def _check_tails(self) -> None:
        if not 1 <= self.tails_per_prompt <= self.num_candidates:
            raise ConfigError(
                f"tails_per_prompt (C) is {self.tails_per_prompt}, but a round has only "
                f"num_candidates (N) = {self.num_candidates} traces; choose 1 <= C <= N"
            )
        if self.tail_tokens > self.budget_tokens:
            raise ConfigError(
                f"tail_tokens (tau) is {self.tail_tokens}, longer than the budget_tokens (beta) = "
                f"{self.budget_tokens} of a trace; choose tau <= beta"
            )

    @property
    def num_stages(self) -> int:
        """T + 1: stage 0 and one stage per aggregation."""
        return self.rounds + 1

    def candidates_at(self, stage: int) -> int:
        """Return the number of candidates of a stage."""
        is_last = stage == self.rounds and self.final_candidates is not None
        return self.final_candidates or self.num_candidates if is_last else self.num_candidates

    def budget_at(self, stage: int) -> int:
        """Return the most tokens a candidate of a stage may generate."""
        if stage == self.rounds and self.final_budget_tokens is not None:
            return self.final_budget_tokens
        return self.budget_tokens

    def temperature_at(self, stage: int) -> float:
        """Return the sampling temperature of a stage."""
        if stage == self.rounds and self.final_temperature is not None:
            return self.final_temperature
        return self.temperature

    @property
    def max_tail_tokens(self) -> int:
        """Most tokens of one tail: tau, or twice tau where an answer's code block stays whole."""
        keeps_code = self.tail_source in ("answer", "answer_or_thinking")
        return 2 * self.tail_tokens if keeps_code else self.tail_tokens

    @property
    def min_survivors(self) -> int:
        """Fewest candidates of a round that the next round may build on."""
        return min(self.num_candidates, max(2, math.ceil(self.tails_per_prompt / 2)))


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; choose a whole number from {low} to {high}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def parallel(num_candidates: int, budget_tokens: int) -> MarkovianRSAConfig:
    """Return plain parallel sampling: T = 0. The vote over it is self-consistency."""
    return MarkovianRSAConfig(
        num_candidates=num_candidates,
        tails_per_prompt=min(4, num_candidates),
        rounds=0,
        budget_tokens=budget_tokens,
    )


def delethink(config: MarkovianRSAConfig) -> MarkovianRSAConfig:
    """Return `config` with C = 1: N chains that each continue from their own tail."""
    return replace(config, tails_per_prompt=1)


def rsa(config: MarkovianRSAConfig) -> MarkovianRSAConfig:
    """Return `config` with tau = beta: traces are passed whole, as in recursive self-aggregation.

    Source: arXiv:2509.26626.
    """
    return replace(config, tail_tokens=config.budget_tokens)


def pacore_hybrid(config: MarkovianRSAConfig) -> MarkovianRSAConfig:
    """Return `config` that passes a finished answer forward, else the partial reasoning.

    Paper: VI-C.
    """
    return replace(config, tail_source="answer_or_thinking")


def _paper(config: MarkovianRSAConfig) -> MarkovianRSAConfig:
    final_budget = max(config.budget_tokens, FINAL_RESPONSE_TOKENS)
    return replace(config, final_budget_tokens=final_budget)


NANO = MarkovianRSAConfig(
    num_candidates=8, tails_per_prompt=4, rounds=1, budget_tokens=320, tail_tokens=48
)
"""For the bundled nano model, whose traces are some hundred tokens long."""

presets: Mapping[str, MarkovianRSAConfig] = MappingProxyType(
    {
        "16k": _paper(MarkovianRSAConfig(budget_tokens=16_384)),
        "40k": _paper(MarkovianRSAConfig()),
        "40k-8k": _paper(MarkovianRSAConfig(tail_tokens=8_192)),
        "light": _paper(MarkovianRSAConfig(budget_tokens=8_192)),
        "high": _paper(MarkovianRSAConfig(rounds=8, budget_tokens=16_384)),
        "extra-high": _paper(MarkovianRSAConfig(rounds=8, num_candidates=32, budget_tokens=32_768)),
        "delethink": _paper(MarkovianRSAConfig(rounds=4, tails_per_prompt=1, budget_tokens=8_192)),
        "single": _paper(MarkovianRSAConfig(rounds=0, num_candidates=1, tails_per_prompt=1)),
        "nano": NANO,
    }
)
"""Named settings of the paper, and `nano` for the bundled model; the first is recommended."""

DEFAULT_PRESET = "16k"
"""The paper's recommended deployment; `light` is a latency preset that can lose to one rollout."""


def preset(name: str) -> MarkovianRSAConfig:
    """Return a preset by name; `ConfigError` with the nearest name when there is none."""
    if name in presets:
        return presets[name]
    near = difflib.get_close_matches(name, presets, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known presets: {', '.join(presets)}"
    raise ConfigError(f"there is no preset {name!r}; {hint}")
