"""One call on its way: the queue, the wait for the first token, the tokens, and what goes wrong."""

import asyncio
from collections.abc import Callable

from openzaya.backends.mock.config import MockConfig
from openzaya.backends.mock.faults import MIDWAY_FAULTS
from openzaya.backends.mock.http import Connection
from openzaya.backends.mock.records import CallRecord, Ending, Records
from openzaya.backends.mock.slots import Slots
from openzaya.backends.mock.wire import DONE, Wire

MAX_EVENTS = 64
"""Events in one go: a client that does not read is noticed after them."""
HTML = b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"
HALF_EVENT = b'data: {"id":"chatcmpl-x","choices":[{"index":0,"del'
HALF_CHARACTER = b'data: {"choices":[{"index":0,"delta":{"content":"\xc3'
OTHER_SCHEMA = b'data: {"result":"fine","choices":"none"}\n\n'


class Play:
    """Plays one reply on a connection by timers of the event loop; needs no task."""

    __slots__ = (
        "_arrival",
        "_config",
        "_connection",
        "_due",
        "_is_over",
        "_loop",
        "_num_tokens",
        "_records",
        "_sent",
        "_slots",
        "_strikes_at",
        "_timer",
        "_wire",
        "priority",
        "record",
    )

    def __init__(
        self,
        config: MockConfig,
        connection: Connection,
        wire: Wire,
        record: CallRecord,
        slots: Slots,
        records: Records,
    ) -> None:
        """Prepare; `enqueue` begins."""
        self._config = config
        self._connection = connection
        self._wire = wire
        self.record = record
        self._slots = slots
        self._records = records
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._num_tokens = max((reply.num_tokens for reply in wire.replies), default=0)
        self._sent = 0
        self._due = 0.0
        self._is_over = False
        midway = wire.fault in MIDWAY_FAULTS
        self._strikes_at = max(1, self._num_tokens // 2) if midway else None
        told = wire.body.get("priority")
        self.priority = told if type(told) is int else 0
        self._arrival = 0

    def enqueue(self) -> None:
        """Wait for a slot."""
        self._connection.exchange = self
        self._arrival = self._slots.enter(self)

    def start(self) -> None:
        """Begin to generate."""
        self.record.state = "running"
        now = self._loop.time()
        self.record.started_at = now
        if self._wire.fault == "hang":
            return
        self._due = now + self._config.ttft_s * self._config.time_scale
        if self._wire.body.get("stream"):
            self._at(self._due, self._first)
        else:
            self._due += self._seconds(self._num_tokens)
            self._at(self._due, self._whole)

    def client_left(self) -> None:
        """Stop: nobody listens."""
        self._end("aborted")

    def resume(self) -> None:
        """Go on where a slow client stopped us."""
        if self._sent and self._timer is None and not self._is_over:
            self._tokens()

    def _seconds(self, num_tokens: int) -> float:
        """Return how long some tokens take at the present load."""
        others = max(0, self._slots.active - 1)
        each = self._config.token_s + self._config.batch_token_s * others
        if self._wire.fault == "drip":
            each = self._config.drip_s
        return num_tokens * each * self._config.time_scale

    def _at(self, due: float, step: Callable[[], None]) -> None:
        self._timer = self._loop.call_at(due, step)

    def _first(self) -> None:
        self._connection.begin_stream()
        self._tokens()

    def _tokens(self) -> None:
        """Send what is due, then sleep until the next event is."""
        self._timer = None
        parts: list[bytes] = []
        now = self._loop.time()
        while (self._due <= now or not self._sent) and len(parts) < MAX_EVENTS:
            if self._sent >= self._num_tokens:
                self._finish(b"".join(parts))
                return
            size = self._config.chunk_tokens if self._sent and self._wire.fault != "drip" else 1
            until = min(self._num_tokens, self._sent + size)
            if self._strikes_at is not None and until >= self._strikes_at:
                parts.append(self._wire.tokens(self._sent, self._strikes_at))
                self._sent = self._strikes_at
                self._connection.send(b"".join(parts))
                self._strike()
                return
            parts.append(self._wire.tokens(self._sent, until))
            self._sent = until
            self._due += self._seconds(min(size, self._num_tokens - until))
        self._connection.send(b"".join(parts))
        self._count()
        if self._connection.is_writable:
            self._at(self._due, self._tokens)

    def _count(self) -> None:
        replies = self._wire.replies
        self.record.num_tokens = (
            self._sent
            if len(replies) == 1
            else sum(min(self._sent, reply.num_tokens) for reply in replies)
        )

    def _finish(self, pending: bytes) -> None:
        self._count()
        self._connection.send(pending + self._wire.ending(), is_last=True)
        self._end("finished")

    def _strike(self) -> None:
        """Play the fault in the middle of a stream."""
        self._count()
        fault = self._wire.fault
        if fault == "hang_mid":
            return
        if fault == "wrong_schema":
            self._connection.send(OTHER_SCHEMA + DONE, is_last=True)
        else:
            broken = {"half_json": HALF_EVENT, "half_utf8": HALF_CHARACTER, "cut": b""}
            line = b"data: " + b"x" * self._config.giant_line_bytes
            self._connection.send(broken.get(str(fault), line))
            self._connection.close()
        self._end("faulted")

    def _whole(self) -> None:
        """Send the reply as one JSON, or what the fault makes of it."""
        self._timer = None
        fault = self._wire.fault
        self._sent = self._num_tokens
        body = self._wire.whole()
        half = len(body) // 2
        if fault == "hang_mid":
            return
        self._count()
        if fault == "cut":
            self._connection.answer(200, body[:half], promised_bytes=len(body))
        elif fault == "half_json":
            self._connection.answer(200, body[:half])
        elif fault == "half_utf8":
            self._connection.answer(200, body[:-2] + b',"x":"\xc3"}')
        elif fault == "giant_line":
            padding = b"x" * self._config.giant_line_bytes
            self._connection.answer(200, body[:-1] + b',"padding":"' + padding + b'"}')
        elif fault == "wrong_schema":
            self._connection.answer(200, b'{"result":"fine","choices":"none"}')
        elif fault == "crlf":
            self._connection.answer(200, body.replace(b",", b",\r\n", 1))
        else:
            self._connection.answer(200, body)
        self._end("faulted" if fault in MIDWAY_FAULTS else "finished")

    def _end(self, ending: Ending) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._records.close(self.record, ending)
        if self.record.started_at is None:
            self._slots.give_up(self._arrival)
        else:
            self._slots.leave()
