"""Floating-point operations of a token and of an optimizer step; a multiply-add counts as two."""

from dataclasses import dataclass

from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import SLIDING
from openzaya.recipes.planner.parameters import expert_shapes, matrix_shapes, size_of

FORWARD_AND_BACKWARD = 3
"""A backward pass multiplies twice where the forward pass multiplied once."""
NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """Operations of one token in one forward pass, averaged over a document."""

    dense: float
    """Projections, convolutions, routers."""
    expert: float
    """The one expert of each layer."""
    attention: float
    """Scores and weighted values, causal, inside the window where a layer has one."""
    head: float
    """The logits."""

    @property
    def forward(self) -> float:
        """All of a forward pass."""
        return self.dense + self.expert + self.attention + self.head

    @property
    def train(self) -> float:
        """Forward and backward, nothing computed twice: what utilization is a share of."""
        return FORWARD_AND_BACKWARD * self.forward

    @property
    def recompute(self) -> float:
        """What checkpointing computes again: the layers' forward pass, not the head."""
        return self.forward - self.head


def mean_keys(document_tokens: int, window: int | None) -> float:
    """Return the keys that a token of a document sees on average, itself included.

    The i-th of S tokens sees min(i, window) keys.
    """
    if window is None or window >= document_tokens:
        return (document_tokens + 1) / 2
    rising = window * (window + 1) / 2
    return (rising + (document_tokens - window) * window) / document_tokens


def token_flops(config: ZayaConfig, document_tokens: int) -> TokenFlops:
    """Return the operations of a token in documents of that length.

    Shorter documents need less attention and the same of everything else. Element-wise work is
    left out, as usual: it costs memory traffic, which utilization stands for.
    """
    channels = config.num_attention_heads * config.head_dim
    windows = [config.sliding_window if kind == SLIDING else None for kind in config.layer_types]
    keys = sum(mean_keys(document_tokens, window) for window in windows)
    depthwise = 2 * config.conv_channels
    layers = config.num_hidden_layers
    return TokenFlops(
        dense=2.0 * layers * (size_of(matrix_shapes(config)) + depthwise),
        expert=2.0 * layers * size_of(expert_shapes(config)) / config.num_experts,
        attention=2.0 * 2 * channels * keys,
        head=2.0 * config.vocab_size * config.hidden_size,
    )


def newton_schulz_flops(rows: int, columns: int) -> float:
    """Return the operations of orthogonalizing one matrix: five quintic steps.

    With m the smaller and n the larger side: X X^T, its square, and the product with X.

    Source: arXiv:2502.16982.
    """
    small, large = sorted((rows, columns))
    return NEWTON_SCHULZ_STEPS * (4.0 * small * small * large + 2.0 * small**3)


def muon_flops(config: ZayaConfig) -> tuple[float, float]:
    """Return the operations of one Muon step: on the dense matrices, and on the experts."""
    dense, expert = (
        config.num_hidden_layers
        * sum(newton_schulz_flops(*shape) * count for shape, count in shapes.items())
        for shapes in (matrix_shapes(config), expert_shapes(config))
    )
    return dense, expert
