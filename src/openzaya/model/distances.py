"""How far each expert's balancing bias is from an even load, measured on the step's own tokens.

An expert's distance from a token is what its bias would have to rise by, the others left alone,
for the token to go to it; it is negative where the token goes to it already. The distances of a
step are kept as a histogram: histograms of microbatches and ranks add up, as counts do, so it
does not matter how a step is divided. The distance below which an even share of the tokens lies is
the one that the bias is from an even load.

Letters: T tokens, X classes with the skip class last, E experts, H bins of one histogram.

Paper: II (the bias is moved by the load alone; this is another way to).
Deviation: D-044.
"""

import math

import torch
from torch import Tensor

SMALLEST, LARGEST = 1e-5, 4.0
"""Distances told apart; two probabilities and the biases between them are seldom further apart."""
BINS_PER_SIGN = 64
"""Each bin is a fifth wider than the one before it: a router that has just been made tells experts
apart by a thousandth, a trained one by nearly one."""
NUM_BINS = 2 * BINS_PER_SIGN


def distances(probs_TX: Tensor, balance_X: Tensor) -> Tensor:
    """Return every expert's distance from every token, [T, E] in fp32."""
    scores_TX = probs_TX.float() + balance_X
    best_T1, at_T1 = scores_TX.max(dim=-1, keepdim=True)
    second_T1 = scores_TX.scatter(-1, at_T1, -math.inf).amax(dim=-1, keepdim=True)
    rival_TX = best_T1.expand_as(scores_TX).scatter(-1, at_T1, second_T1)
    return (rival_TX - scores_TX)[:, :-1]


def histograms(distance_TE: Tensor) -> Tensor:
    """Return how many tokens lie in each bin for each expert, [E, H] in int64."""
    experts = distance_TE.shape[1]
    width = math.log(LARGEST / SMALLEST) / BINS_PER_SIGN
    steps_TE = (distance_TE.abs().clamp(SMALLEST, LARGEST) / SMALLEST).log() / width
    steps_TE = steps_TE.to(torch.int64).clamp_max(BINS_PER_SIGN - 1)
    bins_TE = BINS_PER_SIGN + torch.where(distance_TE < 0, -1 - steps_TE, steps_TE)
    bins_TE += torch.arange(experts, device=distance_TE.device) * NUM_BINS
    return bincount(bins_TE.flatten(), experts * NUM_BINS).view(experts, NUM_BINS)


def bincount(values_N: Tensor, length: int) -> Tensor:
    """Return how often each of the numbers below `length` occurs, without waiting for a device."""
    if values_N.device.type == "cpu":
        return values_N.bincount(minlength=length)
    zeros = values_N.new_zeros(length)
    return zeros.scatter_add(0, values_N, torch.ones_like(values_N))


def edges(device: torch.device) -> Tensor:
    """Return the bounds of the bins in rising order, one more than there are bins."""
    ratio = LARGEST / SMALLEST
    powers = [SMALLEST * ratio ** (k / BINS_PER_SIGN) for k in range(1, BINS_PER_SIGN + 1)]
    return torch.tensor([-x for x in reversed(powers)] + [0.0] + powers, device=device)


def even_distances(histogram_LEH: Tensor, share_L: Tensor) -> Tensor:
    """Return the distance below which `share_L` tokens of each layer lie, [L, E] in fp32.

    Inside a bin tokens count as spread evenly.
    """
    below_LEH = histogram_LEH.double().cumsum(dim=-1)
    wanted_LE1 = share_L.double().view(-1, 1, 1).expand(-1, histogram_LEH.shape[1], 1).contiguous()
    bin_LE1 = torch.searchsorted(below_LEH, wanted_LE1).clamp_max(NUM_BINS - 1)
    inside_LE1 = histogram_LEH.double().gather(-1, bin_LE1)
    before_LE1 = below_LEH.gather(-1, bin_LE1) - inside_LE1
    part_LE1 = ((wanted_LE1 - before_LE1) / inside_LE1.clamp_min(1)).clamp(0, 1)
    bounds = edges(histogram_LEH.device)
    low_LE1, high_LE1 = bounds[bin_LE1], bounds[bin_LE1 + 1]
    return torch.lerp(low_LE1, high_LE1, part_LE1.float()).squeeze(-1)
