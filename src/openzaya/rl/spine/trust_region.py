"""DPPO with the binary total-variation trust region."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before exp, so that no ratio overflows fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DppoConfig:
    """Trust region of the policy update; defaults are the paper's, except `ratio_cap`.

    Paper: IV-B1(b).
    """

    delta_low: float = 0.1
    """Most probability a token of negative advantage may have lost before it is masked."""
    delta_high: float = 0.1
    """Most probability a token of positive advantage may have gained before it is masked."""
    ratio_cap: float = 1e4
    """Truncation of the importance ratio: a safety net that is not part of the method."""

    def __post_init__(self) -> None:
        """Refuse thresholds that mask everything or nothing."""
        if not (0 < self.delta_low < 1 and 0 < self.delta_high < 1 and self.ratio_cap >= 1):
            raise ConfigError(
                f"delta_low={self.delta_low}, delta_high={self.delta_high}, "
                f"ratio_cap={self.ratio_cap}; expected 0 < delta < 1 (a total variation) and "
                "ratio_cap >= 1; the paper uses delta 0.1"
            )


def _fp32(values_T: Tensor) -> Tensor:
    """Promote to at least fp32: probabilities in bf16 are too coarse to compare with delta."""
    return values_T.to(torch.promote_types(values_T.dtype, torch.float32))


def dppo_keep_mask(
    logprobs_T: Tensor, sampler_logprobs_T: Tensor, advantages_T: Tensor, config: DppoConfig
) -> Tensor:
    """Return which tokens take part in the update.

    The vocabulary is collapsed to {sampled token, rest}, so the total variation between the
    policy and the sampler is |pi - mu|. A token is masked only when it moved farther than delta
    in the direction its advantage would push it again; one that moved the other way is kept so
    that the update can pull it back. Exactly delta is kept. Advantage 0 contributes nothing.

    Paper: IV-B1(b).
    Source: arXiv:2602.04879, binary total variation.
    """
    moved_T = _fp32(logprobs_T.detach()).exp() - _fp32(sampler_logprobs_T).exp()
    up_T = (advantages_T > 0) & (moved_T <= config.delta_high)
    down_T = (advantages_T < 0) & (moved_T >= -config.delta_low)
    return up_T | down_T


def importance_ratios(
    logprobs_T: Tensor, sampler_logprobs_T: Tensor, ratio_cap: float = float("inf")
) -> Tensor:
    """Return pi / mu without gradient, truncated at `ratio_cap`."""
    log_ratio_T = _fp32(logprobs_T.detach()) - _fp32(sampler_logprobs_T)
    return log_ratio_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=ratio_cap)


def dppo_token_losses(
    logprobs_T: Tensor, sampler_logprobs_T: Tensor, advantages_T: Tensor, config: DppoConfig
) -> Tensor:
    """Return -advantage * ratio * log pi per token, 0 with zero gradient where masked.

    The ratio is a constant for the gradient, which then equals that of -advantage * pi / mu
    (while the cap is inactive) and that of the plain policy gradient where pi == mu. The anchor
    is the recorded log-probability of the weights that sampled the token, never a recomputed one.

    Paper: IV-B1(b).
    Source: arXiv:2602.04879, section 4.
    """
    keep_T = dppo_keep_mask(logprobs_T, sampler_logprobs_T, advantages_T, config)
    ratio_T = importance_ratios(logprobs_T, sampler_logprobs_T, config.ratio_cap)
    # where() and not a product: a masked token of log-probability -inf must not become NaN.
    return torch.where(keep_T, -advantages_T * ratio_T * _fp32(logprobs_T), 0.0)
