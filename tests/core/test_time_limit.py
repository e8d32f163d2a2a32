"""A call that would take for ever ends at its limit, and leaves no alarm behind."""

import re
import signal
import threading
import time
from contextlib import suppress

import pytest

from openzaya.core import time_limit
from openzaya.core.errors import ConfigError
from openzaya.core.time_limit import check_limit, within


def wait():
    time.sleep(60)


def loop():
    while True:
        pass


def match_without_end():
    re.fullmatch(r"(a+)+b", "a" * 60)


def clean_up_badly():
    try:
        time.sleep(60)
    except BaseException:  # noqa: BLE001 - as a destructor does
        time.sleep(60)


def go_on_after_errors():
    for _ in range(3):
        with suppress(Exception):
            time.sleep(1)


@pytest.mark.parametrize(
    "call", [wait, loop, match_without_end, clean_up_badly, go_on_after_errors]
)
def test_what_hangs_is_interrupted(monkeypatch, call):
    monkeypatch.setattr(time_limit, "AGAIN_S", 0.05)
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"):
        within(0.05, call)
    assert time.monotonic() - begun < 10


def test_values_errors_and_arguments_go_through():
    assert within(30, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        within(30, divmod, 7, 0)
    with pytest.raises(TimeoutError, match="of its own"):
        within(30, raise_its_own)


def raise_its_own():
    raise TimeoutError("of its own")


def test_the_callers_own_alarm_and_handler_are_back_afterwards():
    heard = []
    handler = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    before = signal.setitimer(signal.ITIMER_REAL, 100.0, 7.0)
    try:
        within(30, time.sleep, 0.0)
        with pytest.raises(TimeoutError):
            within(0.02, wait)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 90 < left <= 100.1
        assert interval == 7.0
        signal.raise_signal(signal.SIGALRM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_another_thread_has_no_limit_and_is_told_so_once(caplog):
    time_limit._warn.cache_clear()
    found = []
    thread = threading.Thread(target=lambda: found.extend(within(0.01, slow) for _ in range(2)))
    thread.start()
    thread.join()
    assert found == ["done", "done"]
    assert [record.message[:33] for record in caplog.records] == [
        "outside the main thread verifiers"
    ]


def slow():
    time.sleep(0.1)
    return "done"


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_no_clock_can_keep_are_refused(limit_s):
    with pytest.raises(ConfigError, match=f"score_limit_s is {limit_s}; choose more than 0"):
        check_limit("score_limit_s", limit_s)
