"""How many numbers of which kind a model has, in closed form.

Letters: D model width, H query heads, K key heads, P channels of a head, C = (H + K) P,
W = K P, F expert width, E experts, R router width, X = E + 1 router classes, L layers, V rows.
"""

from dataclasses import dataclass

from openzaya.model.config import ZayaConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters by what planning must tell apart; the tied head is counted once."""

    embedding: int
    """The embedding, which is the head; AdamW owns it."""
    expert_matrices: int
    """The experts' stacks; Muon owns them."""
    dense_matrices: int
    """All other matrices, grouped convolutions among them; Muon owns them."""
    vectors: int
    """Norms, biases, scales, temperatures, depthwise taps; AdamW owns them."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.muon + self.adamw

    @property
    def muon(self) -> int:
        """Parameters that keep one momentum."""
        return self.expert_matrices + self.dense_matrices

    @property
    def adamw(self) -> int:
        """Parameters that keep two averages."""
        return self.embedding + self.vectors


def matrix_shapes(config: ZayaConfig) -> dict[tuple[int, int], int]:
    """Return {(rows, columns): how many} of the matrices of one layer that are not experts."""
    d, r, p = config.hidden_size, config.router_hidden_size, config.head_dim
    heads = config.num_attention_heads + config.num_key_value_heads
    q, w = config.num_attention_heads * p, config.kv_channels
    shapes: dict[tuple[int, int], int] = {}
    for shape, count in (
        ((q, d), 1),
        ((w, d), 1),
        ((w // 2, d), 2),
        ((d, q), 1),
        ((p, 2 * p), heads),
        ((r, d), 1),
        ((r, r), 2),
        ((config.num_choices, r), 1),
    ):
        shapes[shape] = shapes.get(shape, 0) + count
    return shapes


def expert_shapes(config: ZayaConfig) -> dict[tuple[int, int], int]:
    """Return {(rows, columns): how many} of the matrices of one layer's experts."""
    d, f, e = config.hidden_size, config.moe_intermediate_size, config.num_experts
    both = {(2 * f, d): e}
    both[d, f] = both.get((d, f), 0) + e
    return both


def size_of(shapes: dict[tuple[int, int], int]) -> int:
    """Return the numbers in all matrices of a table of shapes."""
    return sum(rows * columns * count for (rows, columns), count in shapes.items())


def parameters(config: ZayaConfig) -> Parameters:
    """Return the model's parameters by kind."""
    embedding = config.vocab_size * config.hidden_size
    experts = config.num_hidden_layers * size_of(expert_shapes(config))
    dense = config.num_hidden_layers * size_of(matrix_shapes(config))
    return Parameters(
        embedding=embedding,
        expert_matrices=experts,
        dense_matrices=dense,
        vectors=config.num_parameters() - embedding - experts - dense,
    )
