"""The difficulty-scaled length reward and the record of solve rates that gates it."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthRewardConfig:
    """Constants of equations 8-10; the paper leaves all but the final coefficient open.

    Paper: IV-B2.
    Deviation: D-009.
    """

    coefficient: float = 1.0
    """c: strength; the paper ramps it to 1.0 by the third stage. 0 switches the bonus off."""
    max_tokens: int = 81_920
    """l_max: the constant that lengths are measured against; the longest allowed response, which
    is `RLConfig.max_response_tokens`."""
    slack_share: float = 0.02
    """T_l as a share of `max_tokens`: answers this close to the shortest one count as short."""
    accuracy_slack: float = 0.1
    """T_acc: how far below the source's best solve rate a group may be and still be shaped."""

    def __post_init__(self) -> None:
        """Refuse constants outside their ranges."""
        if self.coefficient < 0 or self.max_tokens < 1 or not 0 <= self.slack_share <= 1:
            raise ConfigError(
                f"length reward has coefficient={self.coefficient}, max_tokens={self.max_tokens}, "
                f"slack_share={self.slack_share}; expected >= 0, >= 1 and within [0, 1]"
            )


def length_reward(
    rewards_QG: Tensor, lengths_QG: Tensor, best_solve_rate_Q: Tensor, config: LengthRewardConfig
) -> Tensor:
    """Return the bonus in [-c p / 2, +c p / 2] that right answers earn for being short.

    `lengths_QG` counts generated tokens, thinking included. Only rollouts of reward exactly 1 are
    shaped, and only in groups with more than one success (p > 1 / G) whose solve rate p exceeds
    the source's best (`best_solve_rate_Q`, p*) minus `accuracy_slack`; all others get 0. After
    MaxRL's division by p the shift is at most c / 2 whatever the difficulty, so at p > 2 / 3 the
    longest right answers can end with a negative advantage.

    Paper: IV-B2.
    Source: arXiv:2505.12284.
    Source: arXiv:2506.05256.
    """
    right_QG = rewards_QG == 1
    solve_rate_Q1 = rewards_QG.mean(dim=1, keepdim=True)
    long_QG = lengths_QG.to(rewards_QG.dtype)
    shortest_Q1 = long_QG.masked_fill(~right_QG, float("inf")).amin(dim=1, keepdim=True)
    # One token at least: when the shortest right answer already has l_max, others sit at +-1/2.
    span_Q1 = (config.max_tokens - shortest_Q1).clamp(min=1.0)
    lambda_QG = 0.5 - ((long_QG - shortest_Q1) / span_Q1).clamp(0.0, 1.0)
    is_short_QG = long_QG <= shortest_Q1 + config.slack_share * config.max_tokens
    lambda_QG = torch.where(is_short_QG, 0.5, lambda_QG)
    # Counting successes avoids comparing p with 1 / G in floating point.
    gate_Q1 = right_QG.sum(dim=1, keepdim=True) > 1
    gate_Q1 &= solve_rate_Q1 > best_solve_rate_Q.unsqueeze(1) - config.accuracy_slack
    return torch.where(gate_Q1 & right_QG, config.coefficient * solve_rate_Q1 * lambda_QG, 0.0)


@dataclass(kw_only=True, slots=True)
class SolveRateRecord:
    """p*: the best solve rate that each source has reached.

    "ema" takes the maximum over time of a bias-corrected running mean, and only once it has seen
    `min_groups` groups; "literal" takes the maximum over single groups, which reaches 1 almost at
    once and then leaves the gate at p > 1 - T_acc. A source without a record has p* = 0, so its
    gate is open.

    Paper: IV-B2.
    Deviation: D-009.
    """

    mode: Literal["ema", "literal"] = "ema"
    """How solve rates become a best."""
    min_groups: int = 64
    """Groups a source must have shown before its running mean counts; also the mean's memory."""
    _sums: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    _best: dict[str, float] = field(default_factory=dict)

    def best(self, source: str) -> float:
        """Return p* of a source, 0 before there is one."""
        return self._best.get(source, 0.0)

    def observe(self, source: str, solve_rate: float) -> None:
        """Take in the solve rate of one finished group, uniform groups included."""
        level = solve_rate
        if self.mode == "ema":
            decay = 1.0 - 1.0 / max(self.min_groups, 1)
            mean, weight, count = self._sums.get(source, (0.0, 0.0, 0))
            mean = decay * mean + (1.0 - decay) * solve_rate
            weight = decay * weight + (1.0 - decay)
            self._sums[source] = (mean, weight, count + 1)
            if count + 1 < self.min_groups:
                return
            level = mean / weight
        self._best[source] = max(self.best(source), level)

    def forget(self, source: str) -> None:
        """Start a source anew, for example when the difficulty of its environment changed."""
        self._sums.pop(source, None)
        self._best.pop(source, None)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON values."""
        return {"sums": {k: list(v) for k, v in self._sums.items()}, "best": dict(self._best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._sums = {k: (float(m), float(w), int(n)) for k, (m, w, n) in state["sums"].items()}
        self._best = {k: float(v) for k, v in state["best"].items()}
