"""The settings of one RL stage and the records that flow through the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import ConfigError
from openzaya.core.records import Message, Verdict
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
    """Steps between publications of the weights to the sampler."""
    max_lag: int = 2
    """Most updates that a group's oldest token may be behind when it is trained on."""
    buffer_batches: int = 4
    """Capacity of the buffer in batches; the oldest group leaves when it is full."""
    max_oversampling: float = 4.0
    """Give up refilling a batch after this many times its prompts, and train on what there is."""
    min_groups: int = 8
    """Skip the update when fewer groups have contrast: Muon's step size knows no doubt."""
    max_useless_steps: int = 20
    """Stop with an error after that many skipped updates in a row."""
    micro_tokens: int = 131_072
    """Token budget of a packed microbatch."""
    length_norm: float = 81_920.0
    """L_norm of SMTSN: one constant for the whole run. Deviation: D-011."""
    dppo: DppoConfig = field(default_factory=DppoConfig)
    """Trust region."""
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    """Repetition canary that zeroes a rollout's reward."""
    length_reward: LengthRewardConfig = field(
        default_factory=lambda: LengthRewardConfig(coefficient=0.0)
    )
    """Bonus for short right answers; coefficient 0 switches it off."""
    optim: OptimConfig = RL_OPTIM
    """Optimizer."""
    checkpoint_every_steps: int = 20
    """Steps between checkpoints; the last step always makes one."""
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
        if self.group_size < 2 or self.prompts_per_step < 1:
            raise ConfigError(
                f"group_size is {self.group_size} and prompts_per_step {self.prompts_per_step}; "
                "choose at least 2 rollouts of at least 1 prompt"
            )
        if self.max_lag < self.sync_every - 1:
            raise ConfigError(
                f"sync_every is {self.sync_every}, so rollouts can be {self.sync_every - 1} "
                f"updates old, but max_lag is {self.max_lag}; raise max_lag or sync more often"
            )


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
    logprobs: list[float]
    """Of the sampling distribution, recorded by the engine."""
    experts: NDArray[np.uint8]
    """[prompt + response - 1, L]: route of every input token."""
    min_version: int
    """Oldest weights that sampled one of its tokens."""
    text: str
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
        """Oldest weights in the group."""
        return min(rollout.min_version for rollout in self.rollouts)


Score = Callable[[Prompt, str], Verdict]
"""Judges a response text (it begins inside the think block)."""
