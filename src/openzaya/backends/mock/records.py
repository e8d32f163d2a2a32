"""What the mock saw: counters for /stats and the list of calls for /calls."""

import resource
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_ABORTS = 10_000

Ending = Literal["finished", "aborted", "faulted", "refused"]


@dataclass(slots=True)
class CallRecord:
    """One call of a completion route; times on the system's monotonic clock."""

    call: int
    """Counted from 1."""
    seed: int | None
    prompt_crc: int
    """CRC-32 of the last message: tells prompts apart."""
    at: float
    started_at: float | None = None
    """When it got a slot."""
    ended_at: float | None = None
    state: str = "queued"
    """queued, running, finished, aborted (the client left), faulted or refused (an error)."""
    fault: str | None = None
    num_tokens: int = 0
    """Tokens sent so far, of all choices."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as /calls shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Records:
    """The books of one server."""

    kept_calls: int
    kept_requests: int
    began: float = field(default_factory=time.monotonic)
    calls: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    aborts: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MAX_ABORTS))
    log: deque[CallRecord] = field(init=False)
    requests: deque[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        """Size the lists."""
        self.log = deque(maxlen=max(1, self.kept_calls))
        self.requests = deque(maxlen=self.kept_requests)

    def open(self, seed: int | None, prompt_crc: int) -> CallRecord:
        """Take note of a new call."""
        self.calls += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        record = CallRecord(self.calls, seed, prompt_crc, time.monotonic())
        self.log.append(record)
        return record

    def close(self, record: CallRecord, ending: Ending) -> None:
        """Take note of its end."""
        record.ended_at = time.monotonic()
        record.state = ending
        self.in_flight -= 1
        self.ended[ending] += 1
        self.completion_tokens += record.num_tokens
        if ending == "aborted":
            self.aborts.append((record.call, record.ended_at))

    def to_json(self) -> dict[str, Any]:
        """Return the counters as /stats shows them."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            **{name: self.ended[name] for name in ("finished", "aborted", "faulted", "refused")},
            "faults": dict(self.faults),
            "routes": dict(self.routes),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "aborts": [{"call": call, "at": at} for call, at in self.aborts],
            "now": time.monotonic(),
            "uptime_s": time.monotonic() - self.began,
            "cpu_s": used.ru_utime + used.ru_stime,
        }
