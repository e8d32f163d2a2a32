"""What a full-size phase is: data in proportion, training on it, ranks that share a document."""

from dataclasses import dataclass, field, replace

from openzaya.core.errors import ConfigError
from openzaya.model.balance import BalanceConfig
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.train.stages import StageConfig

TOKENS_PER_STEP = 4_096 * 4_096
"""Tokens of an optimizer step in every phase: 16.8M.

Paper: appendix B (4,096 sequences of 4,096 tokens).
Deviation: D-040 (published for 4K only; held constant at 32K and 131K).
"""

PEAK_RATE = 4e-4
"""Peak learning rate of pretraining, for both optimizers. Deviation: D-040."""

OPTIM = OptimConfig(
    muon=MuonConfig(lr=PEAK_RATE, momentum_warmup_steps=300), lr_adamw=PEAK_RATE, clip_norm=1.0
)
"""Muon for matrices, AdamW for the rest, both at one rate.

Paper: III (Muon with the RMS of AdamW).
Deviation: D-008, D-040 (rates, decay of weights, momentum and clipping are not published).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One phase: what it reads, how it trains, and over how many ranks a document is spread.

    Paper: III, IV-A (tables II and III).
    """

    train: StageConfig
    """Context, rotary base, steps, optimizer, schedule."""
    kinds: tuple[str, ...]
    """Kinds of data that the paper names for the phase."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Percent of tokens by kind; empty where the paper names kinds without shares."""
    context_parallel: int = 1
    """Ranks that share each document by all-gathering keys and values."""

    def __post_init__(self) -> None:
        """Check the shares. Raises ConfigError."""
        strange = sorted(set(self.mixture) - set(self.kinds))
        total = sum(self.mixture.values())
        if strange or (self.mixture and (min(self.mixture.values()) < 0 or total <= 0)):
            raise ConfigError(
                f"the mixture of {self.train.name} is {self.mixture}; give shares >= 0, not all 0, "
                f"to kinds among {', '.join(self.kinds)}"
            )
        if self.context_parallel < 1:
            raise ConfigError(f"context_parallel is {self.context_parallel}; choose at least 1")

    @property
    def tokens(self) -> int:
        """Tokens that the phase trains on."""
        return self.train.steps * self.train.tokens_per_step

    @property
    def weights(self) -> dict[str, float]:
        """The mixture as weights that add up to 1, kinds of share 0 left out."""
        total = sum(self.mixture.values())
        return {kind: share / total for kind, share in self.mixture.items() if share}


def steps_for(tokens: int) -> int:
    """Return the fewest steps that see at least `tokens` tokens."""
    return -(-tokens // TOKENS_PER_STEP)


def stage(
    name: str, tokens: int, context_tokens: int, rope_theta: float, peak_share: float = 1.0
) -> StageConfig:
    """Return a stage of at least `tokens` tokens at `peak_share` of the peak rate, kept flat."""
    muon = replace(OPTIM.muon, lr=PEAK_RATE * peak_share)
    return StageConfig(
        name=name,
        steps=steps_for(tokens),
        tokens_per_step=TOKENS_PER_STEP,
        context_tokens=context_tokens,
        rope_theta=rope_theta,
        decay_fraction=0.0,
        optim=replace(OPTIM, muon=muon, lr_adamw=PEAK_RATE * peak_share),
        balance=BalanceConfig(),
        checkpoint_every_steps=360,
    )
