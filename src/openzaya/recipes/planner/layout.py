"""What is trained in a phase, over how many ranks, and which combinations are impossible."""

from dataclasses import dataclass

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One phase as planning sees it."""

    name: str
    """Name of the phase."""
    steps: int
    """Optimizer steps."""
    tokens_per_step: int
    """Tokens of a step over all ranks."""
    context_tokens: int
    """Longest document; plans take every document to be that long."""
    micro_tokens: int
    """Most tokens of one rank in one pass."""
    context_parallel: int = 1
    """Ranks that share a document, unless the layout says otherwise."""

    @property
    def tokens(self) -> int:
        """Tokens of the phase."""
        return self.steps * self.tokens_per_step


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a step is spread over ranks. Every rank is one device."""

    ranks: int = 1
    """All devices."""
    shard: int = 1
    """Ranks that divide weights, gradients and optimizer state (FSDP2); fewer than all = HSDP."""
    expert_parallel: int = 1
    """Ranks among which the experts of a layer are divided and tokens travel."""
    context_parallel: int = 1
    """Ranks that share each document."""
    checkpointing: bool = False
    """Keep only each layer's input and compute the rest again."""

    def check(self, config: ZayaConfig, work: Workload) -> None:
        """Raise ConfigError, with found, expected and cure, for what cannot be laid out."""
        for name in ("ranks", "shard", "expert_parallel", "context_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose at least 1")
        for name, whole, size in (
            ("shard", "ranks", self.ranks),
            ("context_parallel", "ranks", self.ranks),
            ("expert_parallel", "shard", self.shard),
            ("expert_parallel", "num_experts", config.num_experts),
        ):
            value = getattr(self, name)
            if size % value:
                divisors = [str(n) for n in range(1, min(size, 64) + 1) if size % n == 0]
                raise ConfigError(
                    f"{work.name}: {name} is {value}, which does not divide {whole} = {size}; "
                    f"choose one of {', '.join(divisors)}"
                )
        room = work.micro_tokens * self.context_parallel
        if room < work.context_tokens:
            raise ConfigError(
                f"{work.name}: {self.context_parallel} ranks of {work.micro_tokens} tokens hold "
                f"{room}, but a document has up to {work.context_tokens}; choose a "
                f"context_parallel of at least {-(-work.context_tokens // work.micro_tokens)}, or "
                "a larger micro_tokens"
            )
        documents = work.tokens_per_step // work.context_tokens
        if not documents:
            raise ConfigError(
                f"{work.name}: a step of {work.tokens_per_step} tokens has no room for a document "
                f"of {work.context_tokens}; choose a larger tokens_per_step"
            )
        groups = self.ranks // self.context_parallel
        if groups > documents:
            raise ConfigError(
                f"{work.name}: a step has {documents} documents of {work.context_tokens} tokens "
                f"for {groups} groups of {self.context_parallel} ranks; use at most "
                f"{documents * self.context_parallel} ranks, or a larger context_parallel"
            )

    def rank_tokens(self, work: Workload) -> float:
        """Return the tokens of one rank in a step."""
        return work.tokens_per_step / self.ranks

    def passes(self, work: Workload) -> int:
        """Return the forward passes of one rank in a step."""
        return -int(-self.rank_tokens(work) // work.micro_tokens)

    def pass_tokens(self, work: Workload) -> float:
        """Return the tokens of one rank in one pass."""
        return self.rank_tokens(work) / self.passes(work)
