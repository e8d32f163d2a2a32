"""The settings of one supervised stage: context, rotary base, tokens, schedule, optimizer."""

from dataclasses import dataclass, field
from math import inf

from openzaya.core.errors import ConfigError
from openzaya.model.balance import BalanceConfig
from openzaya.optim import OptimConfig, Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One phase of pretraining, midtraining or SFT.

    Defaults are the paper's first pretraining phase where it gives a value.

    Paper: III (tables II and III), appendix B.
    """

    name: str
    """Names the stage in metrics, checkpoints and random streams."""
    steps: int
    """Optimizer steps."""
    tokens_per_step: int = 4_096 * 4_096
    """Tokens of one optimizer step over all ranks; constant when the context grows."""
    context_tokens: int = 4_096
    """Longest document."""
    rope_theta: float = 10_000.0
    """Base of the rotary embedding in full-attention layers."""
    micro_tokens: int = 16_384
    """Most tokens in forward passes at the same time (on a CPU, of all cores); more are
    accumulated."""
    warmup_steps: int = 0
    """Linear rise of the learning rate."""
    decay_fraction: float = 0.2
    """Share of the steps over which the rate falls to final_fraction."""
    final_fraction: float = 0.0
    """Share of the peak rate at the end."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Muon and AdamW. Deviation: D-008."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    """The router's balancing biases."""
    z_loss: float = 0.0
    """Weight of the squared log-normalizer; the paper relies on none."""
    spike_sigmas: float = 6.0
    """Skip a step whose loss or gradient norm lies that many deviations above the recent mean."""
    recompute: bool = False
    """Keep only the layers' inputs for the backward pass and compute the rest again."""
    offload: bool = False
    """Keep what the backward pass needs of the layers in the host's memory."""
    evaluate_every_steps: int = 0
    """Steps between evaluations, where the run has one; the last step always makes one. 0 = only
    then."""
    checkpoint_every_steps: int = 100
    """Steps between checkpoints; the last step always makes one, and so does the first step after
    a quarter of an hour without one."""
    seed: int = 0
    """Names the order of the data."""

    def __post_init__(self) -> None:
        """Check the sizes and the schedule. Raises ConfigError."""
        for name in ("steps", "tokens_per_step", "context_tokens", "micro_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.checkpoint_every_steps < 1:
            raise ConfigError(
                f"checkpoint_every_steps is {self.checkpoint_every_steps}; choose at least 1"
            )
        if self.evaluate_every_steps < 0:
            raise ConfigError(
                f"evaluate_every_steps is {self.evaluate_every_steps}; choose 0 or more"
            )
        if not (0 <= self.z_loss < inf and self.spike_sigmas > 0):
            raise ConfigError(
                f"z_loss is {self.z_loss} and spike_sigmas {self.spike_sigmas}; choose a finite "
                "z_loss >= 0 and spike_sigmas > 0 (inf = only steps that are not finite are left "
                "out)"
            )
        _ = self.schedule  # which checks its part

    def check_model(self, max_position_embeddings: int) -> None:
        """Raise ConfigError for documents longer than a model is meant for."""
        if self.context_tokens > max_position_embeddings:
            raise ConfigError(
                f"context_tokens is {self.context_tokens}, but the model is meant for "
                f"{max_position_embeddings}; choose at most that"
            )

    @property
    def schedule(self) -> Schedule:
        """The learning rate over the stage."""
        return Schedule(
            total_steps=self.steps,
            warmup_steps=min(self.warmup_steps, self.steps),
            decay_fraction=self.decay_fraction,
            final_fraction=self.final_fraction,
        )
