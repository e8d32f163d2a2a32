"""Group advantages: MaxRL for verifiable tasks, GRPO for reward models."""

from typing import Literal

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError


def _check_group_size(rewards_QG: Tensor) -> None:
    if rewards_QG.ndim != 2 or rewards_QG.shape[1] < 2:
        raise ConfigError(
            f"rewards have shape {tuple(rewards_QG.shape)}; expected [prompts, rollouts] with at "
            "least 2 rollouts per prompt, because a group of one has no baseline: raise group_size"
        )


def _is_uniform(rewards_QG: Tensor) -> Tensor:
    """Return [Q, 1]: True where every member of the group has exactly the same reward."""
    return rewards_QG.amax(dim=1, keepdim=True) == rewards_QG.amin(dim=1, keepdim=True)


def maxrl_advantages(
    rewards_QG: Tensor,
    bonus_QG: Tensor | None = None,
    baseline: Literal["raw", "shaped"] = "raw",
) -> Tensor:
    """Return (reward + bonus - group mean) / group mean.

    Rewards must be non-negative: a ratio to a mean that may be negative has no meaning. A group
    that never succeeds gets zeros, and so does a group whose members all earned the same without
    a bonus. The denominator is always the mean of the task reward. `baseline` says what the
    numerator subtracts: "raw" that same mean (the paper's wording; with a bonus the advantages
    then do not sum to zero), "shaped" the mean of reward + bonus. Nothing is clipped: one success
    in 16 gets +15.

    Raises ConfigError for groups smaller than two and for negative or non-finite rewards.

    Paper: IV-B1(d).
    Paper: IV-B2.
    Source: arXiv:2602.02710, algorithm 1.
    """
    _check_group_size(rewards_QG)
    if not bool(((rewards_QG >= 0) & rewards_QG.isfinite()).all()):
        raise ConfigError(
            f"MaxRL needs finite rewards >= 0, found a minimum of {rewards_QG.min().item()}; map "
            "the verifier's score into [0, 1] or use advantage='grpo'"
        )
    mean_Q1 = rewards_QG.mean(dim=1, keepdim=True)
    numerator_QG = (rewards_QG - mean_Q1).masked_fill(_is_uniform(rewards_QG), 0.0)
    if bonus_QG is not None:
        numerator_QG = numerator_QG + bonus_QG
        if baseline == "shaped":
            numerator_QG = numerator_QG - bonus_QG.mean(dim=1, keepdim=True)
    return torch.where(mean_Q1 > 0, numerator_QG / mean_Q1, 0.0)


def grpo_advantages(rewards_QG: Tensor, *, epsilon: float = 1e-6, unbiased: bool = True) -> Tensor:
    """Return (reward - group mean) / (group standard deviation + epsilon).

    `unbiased` divides the variance by G - 1, as verl and TRL do; False divides by G. A uniform
    group gets exact zeros, not rounding noise divided by epsilon.

    Raises ConfigError for groups smaller than two.

    Paper: IV-B7.
    Source: arXiv:2402.03300, section 4.1.
    """
    _check_group_size(rewards_QG)
    centered_QG = rewards_QG - rewards_QG.mean(dim=1, keepdim=True)
    std_Q1 = rewards_QG.std(dim=1, keepdim=True, correction=1 if unbiased else 0)
    return (centered_QG / (std_Q1 + epsilon)).masked_fill(_is_uniform(rewards_QG), 0.0)
