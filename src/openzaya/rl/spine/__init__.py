"""The formulas of the RL cascade: pure functions over tensors and token ids.

Letters: Q prompts, G rollouts of one prompt, T packed response tokens, V vocabulary.

Paper: IV-B1.
"""

from openzaya.rl.spine.advantage import grpo_advantages, maxrl_advantages
from openzaya.rl.spine.aggregate import smtsn
from openzaya.rl.spine.canary import (
    CanaryConfig,
    CanaryReport,
    rare_token_share,
    repetition_canary,
)
from openzaya.rl.spine.filters import informative_groups
from openzaya.rl.spine.length_reward import LengthRewardConfig, SolveRateRecord, length_reward
from openzaya.rl.spine.objective import Objective, policy_objective
from openzaya.rl.spine.trust_region import DppoConfig, dppo_keep_mask, dppo_token_losses

__all__ = [
    "CanaryConfig",
    "CanaryReport",
    "DppoConfig",
    "LengthRewardConfig",
    "Objective",
    "SolveRateRecord",
    "dppo_keep_mask",
    "dppo_token_losses",
    "grpo_advantages",
    "informative_groups",
    "length_reward",
    "maxrl_advantages",
    "policy_objective",
    "rare_token_share",
    "repetition_canary",
    "smtsn",
]
