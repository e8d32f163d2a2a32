"""The settings of one RL stage and the records that flow through the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import ConfigError
from openzaya.core.records import Message, Verdict
from openzaya.core.time_limit import check_limit
from openzaya.model.balance import BalanceConfig
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.rl.spine import CanaryConfig, DppoConfig, LengthRewardConfig

RL_OPTIM = OptimConfig(
    muon=MuonConfig(lr=1e-5, momentum=None, scale="none", weight_decay=0.0), lr_adamw=1e-5
)
"""Momentum-free Muon for matrices, AdamW for the rest. Paper: IV-E (eq. 15)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RLConfig:
    """One RL stage; defaults are the paper's.

    Paper: IV-B.
    """

    name: str = "rl"
    """Names the stage in metrics, checkpoints and random streams."""
    steps: int = 400
    """Optimizer steps."""
    prompts_per_step: int = 128
    """Groups in a batch."""
    group_size: int = 16
    """G: rollouts of one prompt."""
    max_response_tokens: int = 81_920
    """Budget of a rollout; an unfinished one is wrong."""
    temperature: float = 1.0
    """Sampling temperature, replayed in the trainer."""
    sync_every: int = 2
    """Steps between publications of the weights to the sampler; 1 lets both share one model."""
    wait_batches: int = 1
    """Batches that must lie in the buffer before the trainer takes one. The paper's 2 keeps a pool
    of trainers busy; in one process, where both sides take turns, it only makes rollouts older.
    Deviation: D-017."""
    max_lag: int = 2
    """Most updates that a group's oldest token may be behind when it is trained on."""
    buffer_batches: int = 4
    """Capacity of the buffer in batches; the oldest group leaves when it is full."""
    max_oversampling: float = 4.0
    """Give up refilling after this many prompts for each missing group; train on what there is."""
    min_groups: int = 8
    """Skip the update when fewer groups have contrast: Muon's step size knows no doubt."""
    max_useless_steps: int = 20
    """Stop with an error after that many skipped updates in a row."""
    score_limit_s: float = 300.0
    """Most seconds to judge one rollout; more is a failure of ours (INFRA). Only the main thread
    can keep it: in another one there is no limit, and a warning says so."""
    max_infra_share: float = 0.02
    """Stop when more than this share of the last 1,000 rollouts could not be judged."""
    micro_tokens: int = 131_072
    """Token budget of a packed microbatch."""
    length_norm: float = 81_920.0
    """L_norm of SMTSN: one constant for the whole run. Deviation: D-011."""
    advantage: Literal["maxrl", "grpo"] = "maxrl"
    """maxrl for verifiable tasks, grpo (with standard deviation) for reward models."""
    reward: Literal["binary", "score"] = "binary"
    """binary = 1 for a right reply, else 0; score = the verdict's own number in [0, 1]."""
    dppo: DppoConfig = field(default_factory=DppoConfig)
    """Trust region."""
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    """Repetition canary that zeroes a rollout's reward."""
    length_reward: LengthRewardConfig = field(
        default_factory=lambda: LengthRewardConfig(coefficient=0.0)
    )
    """Bonus for short right answers (maxrl only); coefficient 0 switches it off."""
    length_ramp_steps: int = 0
    """Steps over which the bonus rises from a tenth of its coefficient to all of it."""
    optim: OptimConfig = RL_OPTIM
    """Optimizer."""
    balance: BalanceConfig | None = None
    """How the routers' balancing biases move; none freezes them, as replayed routes suggest."""
    checkpoint_every_steps: int = 20
    """Steps between checkpoints; the last step always makes one, and so does the first step after
    a quarter of an hour without one."""
    slots: int = 256
    """Rollouts decoded at once."""
    context_tokens: int = 131_072
    """Longest prompt plus response."""
    pool_size: int = 4_096
    """Prompts whose tails are kept for self-aggregation."""
    tails_per_prompt: int = 8
    """Tails kept of one prompt."""
    seed: int = 0
    """Names every random stream of the stage."""

    def __post_init__(self) -> None:
        """Check what the formulas need."""
        for name in ("steps", "max_response_tokens", "sync_every", "wait_batches", "micro_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose at least 1")
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature is {self.temperature}; the trainer divides by it, and greedy groups "
                "have no contrast: choose a value > 0"
            )
        check_limit("score_limit_s", self.score_limit_s)
        if self.group_size < 2 or self.prompts_per_step < 1:
            raise ConfigError(
                f"group_size is {self.group_size} and prompts_per_step {self.prompts_per_step}; "
                "choose at least 2 rollouts of at least 1 prompt"
            )
        if self.balance is not None and self.balance.method != "adam":
            raise ConfigError(
                f"balance.method is {self.balance.method!r}, but the choices are replayed and tell "
                "nothing of where a bias would send a token; choose 'adam' or no balancing"
            )
        lag = self.sync_every - 1 + self.wait_batches - 1
        if self.max_lag < lag:
            raise ConfigError(
                f"sync_every {self.sync_every} and wait_batches {self.wait_batches} make rollouts "
                f"up to {lag} updates old, but max_lag is {self.max_lag}; raise max_lag or lower "
                "one of the two"
            )
        if self.buffer_batches < self.wait_batches:
            raise ConfigError(
                f"the buffer holds {self.buffer_batches} batches but the trainer waits for "
                f"{self.wait_batches}; raise buffer_batches"
            )
        if self.advantage == "grpo" and self.length_reward.coefficient:
            raise ConfigError(
                "the length reward is defined for advantage='maxrl' only; set "
                "length_reward.coefficient=0"
            )
        longest = self.length_reward.max_tokens
        if self.length_reward.coefficient and longest > self.max_response_tokens:
            raise ConfigError(
                f"length_reward.max_tokens is {longest}, but a response has at most "
                f"max_response_tokens = {self.max_response_tokens}: measured against that, all "
                f"are short; set length_reward.max_tokens={self.max_response_tokens}"
            )

    def length_reward_at(self, step: int) -> LengthRewardConfig:
        """Return the length reward of a step, its coefficient ramped.

        Paper: IV-B2.
        """
        if step >= self.length_ramp_steps:
            return self.length_reward
        share = 0.1 + 0.9 * step / self.length_ramp_steps
        return replace(self.length_reward, coefficient=share * self.length_reward.coefficient)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem as RL sees it."""

    messages: tuple[Message, ...]
    payload: Any
    """What the scorer needs; survives JSON, because tails of it may be checkpointed."""
    source: str
    """Environment or data set."""
    key: str
    """Names the problem, the same for its plain and its aggregation prompts."""
    keeps_tails: bool = True
    """Whether tails of its rollouts may feed self-aggregation prompts."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response with everything that training on it needs."""

    token_ids: list[int]
    """Generated tokens, the stop token included."""
    logprobs: list[float]
    """Of the sampling distribution, recorded by the engine."""
    versions: list[int]
    """Updates that the weights had seen when they sampled each token."""
    experts: NDArray[np.uint8]
    """[prompt + response - 1, L]: route of every input token."""
    text: str
    """The reply without its stop token; it begins inside the think block."""
    reward: float
    """Task reward after the canary."""
    is_flagged: bool
    """The canary zeroed the reward."""
    is_cut: bool
    """Ended at the budget."""


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one prompt; lives and dies whole."""

    prompt: Prompt
    prompt_ids: list[int]
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        """Task rewards, in order."""
        return [rollout.reward for rollout in self.rollouts]

    @property
    def min_version(self) -> int:
        """Updates that the oldest weights in the group had seen."""
        return min(min(rollout.versions) for rollout in self.rollouts)


Score = Callable[[Prompt, str], Verdict]
"""Judges a response text (it begins inside the think block). Failures of its own become INFRA:
return that verdict, or raise SandboxError, EnvError, EngineError, UpstreamError or TimeoutError.
It is interrupted after `RLConfig.score_limit_s`, which counts as TimeoutError."""
