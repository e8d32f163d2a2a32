"""A limit on the time of a call that nobody else bounds, such as a verifier that hangs.

An alarm of the kernel interrupts what waits (a server that does not answer), what loops, and
regular expressions without end. A thread of ours could not: they hold the interpreter. C code that
never looks for signals goes on; what evaluates model text belongs into `sandbox.pool`, whose
processes are killed.
"""

import logging
import signal
import threading
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import ParamSpec, TypeVar

from openzaya.core.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

MOST_S = 1e6
"""Longest limit."""
AGAIN_S = 1.0
"""Seconds until the next alarm, for calls that swallow one while they clean up."""

log = logging.getLogger(__name__)


class _Expired(BaseException):
    """No Exception, so that `except Exception` in the call does not take it for its own."""


def within(limit_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `call` returns; raise TimeoutError when that takes more than `limit_s` seconds.

    Signals reach the main thread only: in another one there is no limit, and a warning says so
    once. An alarm that was set before is set again afterwards, as much later as the call took.
    """
    if threading.current_thread() is not threading.main_thread():
        _warn()
        return call(*args, **kwargs)
    handler = signal.signal(signal.SIGALRM, _expire)
    alarm = signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
    try:
        try:
            return call(*args, **kwargs)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    except _Expired:
        raise TimeoutError(f"it took more than {limit_s:g} s") from None
    finally:
        # Once more: an alarm in the `finally` above may have kept it from stopping the clock.
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, *alarm)


def check_limit(name: str, limit_s: float) -> None:
    """Raise ConfigError for a limit that no call can keep."""
    if not 0 < limit_s <= MOST_S:
        raise ConfigError(f"{name} is {limit_s}; choose more than 0 and at most {MOST_S:g} seconds")


@cache
def _warn() -> None:
    log.warning(
        "outside the main thread verifiers have no time limit: one that hangs stops everything; "
        "call RL and evaluations in the main thread, or bound the verifier yourself"
    )


def _expire(_number: int, _frame: FrameType | None) -> None:
    raise _Expired
