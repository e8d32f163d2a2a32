"""One server of a pool: its calls, what it takes, whether it is up, and its figures."""

import asyncio
import math
import time
from collections import Counter
from typing import Any

from openzaya.backends.breaker import Breaker, Limit, Pace
from openzaya.backends.capabilities import Capabilities
from openzaya.backends.chat_call import ChatCall
from openzaya.backends.faults import CallFault, OtherModelError
from openzaya.backends.http_server import HttpConfig, Server, is_same_model
from openzaya.backends.json_text import body_with_messages
from openzaya.backends.sse import clip
from openzaya.core.errors import ContextLengthError, UpstreamError
from openzaya.core.records import SampleRequest, Watch

CHAT_PATH = "/v1/chat/completions"


class Upstream:
    """A server and everything that is known of it."""

    def __init__(self, config: HttpConfig) -> None:
        """Keep the settings; nothing is sent yet."""
        self.config = config
        self.server = Server(config)
        self.capabilities = Capabilities()
        self.limit = Limit(config.max_in_flight, time.monotonic)
        self.breaker = Breaker(time.monotonic)
        self.pace = Pace()
        self.in_flight = 0
        self.calls = 0
        self.good = 0
        self.retries = 0
        self.aborted = 0
        self.failures: Counter[str] = Counter()
        self.tokens = {"generated": 0, "prompt": 0, "cached": 0}
        self.alarms = 0
        self.last_fault = ""
        self.has_doubt = False
        """It was asked for its model and knew none of that name."""
        self.looked_at = -math.inf
        """When somebody looked at what it serves, in monotonic seconds."""

    @property
    def is_up(self) -> bool:
        """Whether the circuit is closed."""
        return self.breaker.is_closed

    @property
    def is_doubtful(self) -> bool:
        """Whether it may serve something else than when it was learned."""
        return self.has_doubt or self.breaker.has_returned

    def learn(self, capabilities: Capabilities) -> None:
        """Take note of what the server can do, and how much of it at once.

        A server that is too busy to answer can do what it could.
        """
        if self.capabilities.has_answered and not capabilities.has_answered:
            return
        self.capabilities = capabilities
        most = capabilities.max_in_flight
        if most is not None and most < self.limit.most:
            self.limit = Limit(most, time.monotonic)

    def load(self) -> float:
        """Return how full it is in relation to its weight; infinite when it takes no call now."""
        is_full = self.in_flight >= int(self.limit.value)
        if is_full or self.limit.is_paused or not self.breaker.can_call:
            return math.inf
        return self.in_flight / (self.limit.value * self.config.weight)

    def enter(self) -> None:
        """Take a place."""
        self.in_flight += 1
        self.breaker.begin()

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1

    def call(self, request: SampleRequest, watch: Watch | None) -> ChatCall:
        """Return a call, to be made by `complete`."""
        return ChatCall(self.server, self.config, request.max_tokens, watch)

    async def complete(self, call: ChatCall, request: SampleRequest) -> None:
        """Make one call and settle what it says of the server.

        Raises CallFault, ContextLengthError, UpstreamError.
        """
        began = time.monotonic()
        self.calls += 1
        try:
            await call.run(CHAT_PATH, self.body(request))
            self._check_model(call)
            told = call.stream.usage.get("completion_tokens", 0)
            self.server.learn_ratio(call.stream.num_chars, told)
        except CallFault as fault:
            self.settle_fault(fault, began)
            raise
        except (ContextLengthError, UpstreamError) as error:
            self.failures["refused"] += 1
            self.has_doubt |= isinstance(error, OtherModelError)
            self.breaker.succeed()
            raise
        except asyncio.CancelledError:
            self.aborted += 1
            self.breaker.abandon()
            raise
        self._settle_good(call)

    def body(self, request: SampleRequest) -> bytes:
        """Return the body of a call: what the request brings, and what we ask of every call."""
        fields = {**request.fields, **self.fields(request)}
        messages = fields.pop("messages", None)
        if messages is None:
            messages = [{"role": m.role, "content": m.content} for m in request.messages]
        return body_with_messages(fields, messages)

    def fields(self, request: SampleRequest) -> dict[str, Any]:
        """Return the fields of a request as this server understands them, all but the messages."""
        can = self.capabilities
        body: dict[str, Any] = {
            "model": self.server.model,
            can.length_field: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % (1 << 31),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if can.ids_out:
            body["return_token_ids"] = True
        if can.priority is not None:
            body["priority"] = request.priority if can.priority == "lower" else -request.priority
        return body

    def settle_fault(self, fault: CallFault, began: float) -> None:
        """Draw the consequences of a call that failed; `began` is its monotonic start."""
        self.failures[fault.kind] += 1
        self.last_fault = str(fault)
        if fault.is_overload:
            self.limit.shrink(began)
            self.limit.pause(fault.wait_s)
        if fault.breaks_circuit:
            self.breaker.fail()
        elif fault.kind.startswith("http_"):
            self.breaker.succeed()
        else:
            self.breaker.abandon()

    def _settle_good(self, call: ChatCall) -> None:
        stream = call.stream
        self.breaker.succeed()
        if call.is_cut:
            self.aborted += 1
        else:
            self.good += 1
            self.limit.grow()
        self.tokens["prompt"] += stream.usage.get("prompt_tokens", 0)
        self.tokens["cached"] += stream.cached_tokens or 0

    def _check_model(self, call: ChatCall) -> None:
        asked, told = self.server.model, call.stream.model
        if self.config.check_model and not is_same_model(asked, told):
            told = clip(self.server.clean(told))
            raise OtherModelError(
                f"{self.server.base} was asked for model {asked!r} and answered as {told!r}; name "
                f"the model that you mean behind the address, as in {self.server.base}#NAME"
            )

    def status(self) -> dict[str, Any]:
        """Return the figures of this server for /health and /metrics."""
        state = "paused" if self.is_up and self.limit.is_paused else self.breaker.state
        return {
            "url": self.server.base,
            "model": self.server.model,
            "role": self.config.role,
            "state": state,
            "limit": int(self.limit.value),
            "in_flight": self.in_flight,
            "calls": self.calls,
            "ok": self.good,
            "failures": dict(self.failures),
            "last_failure": self.last_fault,
            "retries": self.retries,
            "aborted": self.aborted,
            "tokens": dict(self.tokens),
            "alarms": self.alarms,
            "connections": self.server.client.num_connections,
            "capabilities": self.capabilities.as_dict(),
        }
