"""What a key may still use: token buckets that refill with time.

A request takes from every bucket of its key before any work; what it reserved and did not generate
goes back when it ends. The amounts live in the process: a restart begins with full buckets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.keys import Allowance, Key

MINUTE_S = 60.0
DAY_S = 86_400.0
MAX_RETRY_S = 3600


class Bucket:
    """An amount that refills at a steady rate up to its capacity."""

    def __init__(self, capacity: float, period_s: float, now: float) -> None:
        """Begin full; `period_s` refills it from empty."""
        self.capacity = capacity
        self._rate = capacity / period_s
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """Return what may be taken now."""
        if math.isinf(self.capacity):
            return self.capacity
        self._level = min(self.capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level

    def add(self, amount: float, now: float) -> None:
        """Take (negative) or give back."""
        self._level = min(self.capacity, self.level(now) + amount)

    def wait_s(self, amount: float, now: float) -> float:
        """Return how long it takes until `amount` is there; 0 when it is."""
        missing = amount - self.level(now)
        return 0.0 if missing <= 0 else missing / self._rate


@dataclass(frozen=True, slots=True)
class Need:
    """What one request takes."""

    requests: int = 1
    prompt_tokens: int = 0
    output_tokens: int = 0
    """The most that it may generate."""


class Purse:
    """The buckets of one key."""

    def __init__(self, allowance: Allowance, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        now = clock()
        self._buckets = {
            "requests_per_minute": Bucket(allowance.requests_per_minute, MINUTE_S, now),
            "prompt_tokens_per_minute": Bucket(allowance.prompt_tokens_per_minute, MINUTE_S, now),
            "output_tokens_per_minute": Bucket(allowance.output_tokens_per_minute, MINUTE_S, now),
            "output_tokens_per_day": Bucket(allowance.output_tokens_per_day, DAY_S, now),
        }

    def take(self, need: Need) -> "Hold":
        """Take what a request needs, all or nothing.

        Raises ApiError 429 with Retry-After when it is not there yet, 400 when it never will be.
        """
        now = self._clock()
        amounts = {
            "requests_per_minute": need.requests,
            "prompt_tokens_per_minute": need.prompt_tokens,
            "output_tokens_per_minute": need.output_tokens,
            "output_tokens_per_day": need.output_tokens,
        }
        for name, amount in amounts.items():
            if amount > self._buckets[name].capacity:
                raise bad_request(
                    f"this request needs {amount} of {name}, and the key's limit is "
                    f"{self._buckets[name].capacity:g}; ask for less",
                    code="budget_exceeded",
                )
        waits = {name: self._buckets[name].wait_s(n, now) for name, n in amounts.items()}
        name = max(waits, key=lambda key: waits[key])
        if waits[name] > 0:
            wait_s = min(MAX_RETRY_S, math.ceil(waits[name]))
            raise ApiError(
                429,
                f"the key has used up its {name}; ask again in {wait_s} s",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(wait_s)},
            )
        for key, amount in amounts.items():
            self._buckets[key].add(-amount, now)
        return Hold(self, need.output_tokens)

    def give_back(self, output_tokens: int) -> None:
        """Return output tokens that were reserved and not generated; a negative amount takes."""
        now = self._clock()
        for name in ("output_tokens_per_minute", "output_tokens_per_day"):
            self._buckets[name].add(output_tokens, now)


class Hold:
    """What a request has reserved; settle it once, when it ends."""

    def __init__(self, purse: Purse, output_tokens: int) -> None:
        self._purse = purse
        self._reserved = output_tokens
        self._settled = False

    def settle(self, generated_tokens: int) -> None:
        """Give back what was not generated, or take what came on top; once."""
        if not self._settled:
            self._settled = True
            self._purse.give_back(self._reserved - generated_tokens)


class Purses:
    """The buckets of all keys."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._purses: dict[bytes, Purse] = {}

    def of(self, key: Key) -> Purse:
        """Return the buckets of a key."""
        if key.digest not in self._purses:
            self._purses[key.digest] = Purse(key.allowance, self._clock)
        return self._purses[key.digest]
