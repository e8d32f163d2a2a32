"""SMTSN, Dr-GRPO's aggregation of token losses: sequence-mean of token-sums over a constant."""

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError


def smtsn(
    losses_T: Tensor, num_rollouts: int, length_norm: float, mask_T: Tensor | None = None
) -> Tensor:
    """Return sum(losses) / (num_rollouts * length_norm): the part of these tokens in the batch.

    `num_rollouts` is the planned number of rollouts of the whole optimizer batch, not of this
    microbatch or rank, and does not shrink when rollouts are masked: masking must never weigh the
    rest up. `length_norm` is one constant for a whole run. Summing the results over microbatches
    (or ranks) is therefore the batch's loss, however it was split or padded. `mask_T` False marks
    padding, which may hold anything, NaN included; flatten padded blocks first.

    Raises ConfigError unless both divisors are positive.

    Paper: IV-B1(c).
    Source: arXiv:2503.20783, section 3.2.
    Deviation: D-011.
    """
    if num_rollouts < 1 or not length_norm > 0:
        raise ConfigError(
            f"SMTSN got num_rollouts={num_rollouts} and length_norm={length_norm}; both must be "
            "positive: the planned rollouts of a step, and the run's constant"
        )
    if mask_T is not None:
        losses_T = torch.where(mask_T, losses_T, 0.0)
    return losses_T.sum() / (num_rollouts * length_norm)
