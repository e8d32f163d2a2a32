"""How sure a vote is, from the counts alone.

Source: arXiv:2305.11860 (adaptive consistency), with the leader against all others together.
Deviation: D-051.
"""

from collections.abc import Mapping
from math import comb


def certainty(counts: Mapping[str, int]) -> float:
    """Return the probability that the leading answer's share is above one half; 0 without votes.

    The share has a uniform prior, so after a votes for the leader and b for all other answers it
    is Beta(a + 1, b + 1), whose upper half is a binomial sum. Candidates without an answer do not
    vote. Four that agree give 0.97.
    """
    if not counts:
        return 0.0
    leader = max(counts.values())
    draws = sum(counts.values()) + 1
    return float(sum(comb(draws, k) for k in range(leader + 1)) / 2**draws)
