"""The policy objective of one microbatch: DPPO token losses, SMTSN, and their health figures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.rl.spine.aggregate import smtsn
from openzaya.rl.spine.trust_region import (
    DppoConfig,
    dppo_keep_mask,
    dppo_token_losses,
    importance_ratios,
)


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss of a microbatch and sums that add up over microbatches."""

    loss: Tensor
    """Scalar with gradient; the batch's loss is the sum over its microbatches."""
    sums: dict[str, float]
    """Token counts and totals; `health_figures` turns their sum into means."""


def policy_objective(
    logprobs_T: Tensor,
    sampler_logprobs_T: Tensor,
    advantages_T: Tensor,
    config: DppoConfig,
    *,
    num_rollouts: int,
    length_norm: float,
) -> Objective:
    """Return the loss of response tokens that lie in one microbatch.

    There is no KL term, in the loss or in the reward: with a sampler that lags, the expected
    sampled log-ratio is negative, and summed over a sequence it would reward length.

    Paper: IV-B1.
    Paper: IV-F.
    """
    losses_T = dppo_token_losses(logprobs_T, sampler_logprobs_T, advantages_T, config)
    loss = smtsn(losses_T, num_rollouts, length_norm)
    with torch.no_grad():
        keep_T = dppo_keep_mask(logprobs_T, sampler_logprobs_T, advantages_T, config)
        sums = _token_sums(logprobs_T.detach(), sampler_logprobs_T, advantages_T, keep_T)
        ratio_T = importance_ratios(logprobs_T, sampler_logprobs_T)
        sums["over_cap"] = float((ratio_T > config.ratio_cap).sum())
    return Objective(loss, sums)


def _token_sums(
    logprobs_T: Tensor, sampler_logprobs_T: Tensor, advantages_T: Tensor, keep_T: Tensor
) -> dict[str, float]:
    ratio_T = importance_ratios(logprobs_T, sampler_logprobs_T)
    log_ratio_T = ratio_T.log()
    # k3: an unbiased, never negative estimate of KL(sampler || policy) from sampled tokens.
    k3_T = ratio_T - 1.0 - log_ratio_T
    up_T, down_T = advantages_T > 0, advantages_T < 0
    masked_T = ~keep_T & (up_T | down_T)
    totals = {
        "tokens": torch.ones_like(ratio_T).sum(),
        "up": up_T.sum(),
        "down": down_T.sum(),
        "masked_up": (masked_T & up_T).sum(),
        "masked_down": (masked_T & down_T).sum(),
        "masked": masked_T.sum(),
        "moved": (logprobs_T.float().exp() - sampler_logprobs_T.float().exp()).abs().sum(),
        "k3": k3_T.sum(),
        "k3_masked": k3_T[masked_T].sum(),
        "surprise": -logprobs_T.float().sum(),
        "ratio": ratio_T.double().sum(),
        "ratio_squared": ratio_T.double().square().sum(),
    }
    values = torch.stack([value.double() for value in totals.values()]).tolist()
    return dict(zip(totals, values, strict=True))


def health_figures(sums: dict[str, float]) -> dict[str, float]:
    """Turn token sums of a whole batch into the figures that are logged.

    Source: arXiv:2602.04879, section 5.
    """

    def share(part: str, whole: str) -> float:
        return sums[part] / sums[whole] if sums[whole] else 0.0

    tokens = max(sums["tokens"], 1.0)
    kept = max(sums["tokens"] - sums["masked"], 1.0)
    squared = sums["ratio_squared"]
    return {
        "rl/masked_share_positive": share("masked_up", "up"),
        "rl/masked_share_negative": share("masked_down", "down"),
        "rl/mean_abs_prob_change": sums["moved"] / tokens,
        "rl/mismatch_kl": sums["k3"] / tokens,
        "rl/mismatch_kl_kept": (sums["k3"] - sums["k3_masked"]) / kept,
        "rl/mismatch_kl_masked": share("k3_masked", "masked"),
        "rl/entropy_estimate": sums["surprise"] / tokens,
        "rl/ratio_ess": sums["ratio"] ** 2 / (tokens * squared) if squared else 1.0,
        "rl/ratio_over_cap_share": sums["over_cap"] / tokens,
    }
