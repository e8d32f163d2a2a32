"""How long traces are: what a preview needs to know of a model.

A law is a list of equally likely lengths, so that the mean of min(X, beta), which is not
min(mean, beta), is a plain sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

from openzaya.core.errors import ConfigError

NUM_QUANTILES = 1_000
NUM_DRAWS = 400
"""Simulated rounds behind the expected length of a round that ends with its quorum, at most."""
NUM_DRAWN = 20_000
"""Traces in all of them: wide rounds differ little from each other."""


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """Equally likely lengths of a trace without a cut, in tokens."""

    values: tuple[float, ...]

    @staticmethod
    def of_sample(lengths: Sequence[float]) -> "LengthLaw":
        """Return the law of lengths that were seen."""
        if not lengths or not all(math.isfinite(x) and x >= 0 for x in lengths):
            raise ConfigError("lengths must hold at least one number of tokens, none below 0")
        return LengthLaw(tuple(map(float, lengths)))

    @staticmethod
    def of_traces(ended: Sequence[int], cut: Sequence[int]) -> "LengthLaw":
        """Return the law behind traces of which some were cut: those would have gone on.

        The share of a cut trace goes to all longer ones alike; where there is none it stays. Raises
        ConfigError without any trace. Source: Kaplan and Meier, 1958.
        """
        seen = sorted([*((n, False) for n in ended), *((n, True) for n in cut)])
        if not seen:
            raise ConfigError("no trace was seen, expected at least one")
        longer, reached = 1.0, 0.0
        values: list[float] = []
        for at, (length, is_cut) in enumerate(seen, 1):
            is_last = at == len(seen)
            if is_cut and not is_last:
                continue
            share = longer if is_last else longer / (len(seen) - at + 1)
            longer, reached = longer - share, reached + share
            values += [float(length)] * (round(reached * NUM_QUANTILES) - len(values))
        return LengthLaw(tuple(values))

    @staticmethod
    def log_normal(mean_tokens: float, variation: float = 0.0) -> "LengthLaw":
        """Return the log-normal law of a mean and a coefficient of variation (deviation / mean).

        0 stands for traces that are all as long as the mean.
        """
        if not (math.isfinite(mean_tokens) and mean_tokens >= 0):
            raise ConfigError(f"mean_tokens is {mean_tokens}; choose a number of tokens >= 0")
        if not (math.isfinite(variation) and 0 <= variation <= 10):
            raise ConfigError(f"variation is {variation}; choose a number from 0 to 10")
        if variation == 0 or mean_tokens == 0:
            return LengthLaw((mean_tokens,))
        sigma_squared = math.log(1 + variation**2)
        law = NormalDist(math.log(mean_tokens) - sigma_squared / 2, math.sqrt(sigma_squared))
        steps = range(NUM_QUANTILES)
        return LengthLaw(tuple(math.exp(law.inv_cdf((i + 0.5) / NUM_QUANTILES)) for i in steps))

    def mean_within(self, limit: float) -> float:
        """Return the mean length of traces that are cut at `limit`."""
        return sum(min(x, limit) for x in self.values) / len(self.values)

    def round_within(self, limit: float, count: int, quorum: int) -> float:
        """Return the mean tokens of a round of `count` that ends when `quorum` traces have.

        All traces of a round are taken to grow equally fast.
        """
        if quorum >= count or len(self.values) == 1:
            return count * self.mean_within(limit)
        rng = Random(0)
        total, num_draws = 0.0, min(NUM_DRAWS, NUM_DRAWN // count)
        for _ in range(num_draws):
            lengths = sorted(min(x, limit) for x in rng.choices(self.values, k=count))
            total += sum(min(x, lengths[quorum - 1]) for x in lengths)
        return total / num_draws
