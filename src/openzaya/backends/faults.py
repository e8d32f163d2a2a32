"""What can go wrong with a call to another server, sorted by what it means for the next call."""

from openzaya.core.errors import UpstreamError

RETRIED_STATUS = frozenset({408, 409, 425, 429, *range(500, 600)} - {501, 505})
"""Proxies in front of servers have numbers of their own from 520 on."""
OVERLOADED = frozenset({"http_429", "http_503", "http_529"})
BREAKING = frozenset({"unreachable", "http_500", "http_502", "http_504", "cut", "silent"})
BREAKING |= {f"http_{status}" for status in range(520, 525)}


class CallFault(Exception):
    """A call that failed, and that another try may cure.

    Kinds: `unreachable` (no connection), `http_<status>`, `silent` (no token in time), `slow`,
    `cut` (ended before it said why), `garbage` (not what the protocol allows), `gave_up` (the
    server says that it failed).
    """

    def __init__(self, kind: str, message: str, wait_s: float = 0.0) -> None:
        """Name the kind; `wait_s` is how long the server asks to be left alone."""
        super().__init__(message)
        self.kind = kind
        self.wait_s = wait_s

    @property
    def is_overload(self) -> bool:
        """Whether fewer calls at once would help."""
        return self.kind in OVERLOADED

    @property
    def breaks_circuit(self) -> bool:
        """Whether it counts towards leaving the server alone for a while."""
        return self.kind in BREAKING


class OtherModelError(UpstreamError):
    """The server does not serve the model, now at least."""


class NoUpstreamError(UpstreamError):
    """No server of the model can be reached."""
