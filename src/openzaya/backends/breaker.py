"""Leaving a server alone while it is down, and asking for less while it is overloaded."""

from collections import deque
from collections.abc import Callable

MAX_FAILURES = 5
"""Failures in a row, within `WINDOW_S`, that open the circuit."""
WINDOW_S = 30.0
FIRST_OPEN_S = 1.0
"""How long the circuit stays open the first time; doubled after each failed probe."""
MAX_OPEN_S = 30.0
ASSUMED_TOKENS_PER_S = 20.0
"""Until a whole answer shows the pace."""
PACE_SHARE = 0.2
"""Weight of the last answer in the pace."""

Clock = Callable[[], float]


class Breaker:
    """Opens after five failures in a row within 30 s; then one call at a time probes the server.

    A success closes it. While it is open `is_open` says so; when its time is over, one call is let
    through and decides. A server that is held is called by nobody until it is released.
    """

    def __init__(self, clock: Clock) -> None:
        """Start closed; `clock` gives monotonic seconds."""
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)
        self._open_s = 0.0
        self.reopens_at = 0.0
        """When the next probe may go; meaningless while closed."""
        self.is_closed = True
        self.has_returned = False
        """An answer closed the circuit: the server may have begun anew. Whoever looks clears it."""
        self._is_probing = False
        self._is_held = False

    @property
    def can_call(self) -> bool:
        """Whether a call may go to the server now."""
        return self.is_closed or (not self._is_probing and self._may_probe)

    @property
    def _may_probe(self) -> bool:
        return not self._is_held and self._clock() >= self.reopens_at

    @property
    def state(self) -> str:
        """`up`, `open` or `half-open`."""
        if self.is_closed:
            return "up"
        return "half-open" if self._is_probing or self._may_probe else "open"

    def begin(self) -> None:
        """Take note that a call goes out."""
        if not self.is_closed:
            self._is_probing = True

    def abandon(self) -> None:
        """Take note that a call ended without telling anything of the server."""
        self._is_probing = False

    def succeed(self) -> None:
        """Take note of an answer."""
        self._is_probing = False
        if self._is_held:
            return
        self._failures.clear()
        self._open_s = 0.0
        self.has_returned |= not self.is_closed
        self.is_closed = True

    def hold(self) -> None:
        """Let nobody call the server, whatever it answers, until `release`."""
        self.is_closed = False
        self._is_held = True

    def release(self) -> None:
        """Close the circuit: somebody looked, and the server is as it should be."""
        self._is_held = False
        self.succeed()
        self.has_returned = False

    def fail(self) -> None:
        """Take note of a failure."""
        now = self._clock()
        self._failures.append(now)
        is_full = len(self._failures) == MAX_FAILURES and now - self._failures[0] <= WINDOW_S
        if self.is_closed and not is_full:
            return
        if self.is_closed or self._is_probing:
            self._open_s = min(MAX_OPEN_S, 2 * self._open_s or FIRST_OPEN_S)
            self.reopens_at = now + self._open_s
        self.is_closed = False
        self._is_probing = False

    def open(self) -> None:
        """Open at once: the server could not be reached when the pool opened."""
        self.is_closed = False
        self._open_s = FIRST_OPEN_S
        self.reopens_at = self._clock() + FIRST_OPEN_S


class Limit:
    """How many calls a server takes at once: halved when it is overloaded, regained slowly.

    One overload halves once: answers to calls that left before the last halving say nothing new.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        """Start at the full limit, `most` >= 1."""
        self.most = most
        self.value = float(most)
        self._clock = clock
        self._shrunk_at = float("-inf")
        self.paused_until = float("-inf")

    @property
    def is_paused(self) -> bool:
        """Whether the server asked to be left alone and that time is not over."""
        return self._clock() < self.paused_until

    def shrink(self, call_began_at: float) -> None:
        """Take note that the server is overloaded (multiplicative decrease)."""
        if call_began_at >= self._shrunk_at:
            self.value = max(1.0, self.value / 2)
            self._shrunk_at = self._clock()

    def pause(self, seconds: float) -> None:
        """Send nothing for a while: the server's Retry-After."""
        self.paused_until = max(self.paused_until, self._clock() + seconds)

    def grow(self) -> None:
        """Take note that a call went well (additive increase: one for each round of calls)."""
        self.value = min(float(self.most), self.value + 1 / self.value)


class Pace:
    """How many tokens a second a server writes for one choice, its waiting included."""

    def __init__(self) -> None:
        """Assume a pace until an answer shows it."""
        self._tokens_per_s = ASSUMED_TOKENS_PER_S
        self._is_known = False

    def learn(self, num_tokens: float, seconds: float) -> None:
        """Take note of a whole answer; later ones count more."""
        if seconds > 0:
            share = PACE_SHARE if self._is_known else 1.0
            self._tokens_per_s += share * (num_tokens / seconds - self._tokens_per_s)
            self._is_known = True

    def tokens_in(self, seconds: float) -> float:
        """Return about how many tokens were written in a time."""
        return self._tokens_per_s * seconds
