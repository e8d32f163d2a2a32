"""All servers of one model: their queue, their tails, and whether any of them is there."""

import asyncio
import logging
from collections.abc import Callable

from openzaya.backends.chat_call import OVERRUN_TOKENS, ChatCall
from openzaya.backends.faults import NoUpstreamError
from openzaya.backends.scheduler import Route, Scheduler
from openzaya.backends.tails_http import TailCutter
from openzaya.backends.upstream import Upstream
from openzaya.core.protocols import Tokenizer

TOLERATED_MISCOUNT = 0.02

_log = logging.getLogger(__name__)


class ModelPool:
    """The servers of one model."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        patience_s: float,
        tokenizer: Tokenizer | None,
        on_doubt: Callable[[Upstream], None],
    ) -> None:
        """Belong to a scheduler; `on_doubt` is told of servers that may serve something else."""
        self.name = name
        self.upstreams: list[Upstream] = []
        self.route = Route(name, self.upstreams)
        self.tails = TailCutter(tokenizer)
        self._scheduler = scheduler
        self._patience_s = patience_s
        self._on_doubt = on_doubt
        self._dead_since: float | None = None
        scheduler.routes.append(self.route)

    @property
    def names(self) -> set[str]:
        """The model's name and its roles."""
        return {self.name, *(u.config.role for u in self.upstreams if u.config.role)}

    @property
    def context_tokens(self) -> int | None:
        """The smallest context of the servers, where they tell it."""
        known = [u.capabilities.context_tokens or u.server.context_tokens for u in self.upstreams]
        return min((tokens for tokens in known if tokens is not None), default=None)

    @property
    def can_continue(self) -> bool:
        """Whether every server continues an assistant's turn that is left open."""
        return all(u.capabilities.continuation for u in self.upstreams)

    async def ask_tail(self, text: str, count: int) -> str | None:
        """Return the tail by a server's /tokenize; None where no server has one that answers."""
        for upstream in self.upstreams:
            if upstream.capabilities.tokenize and upstream.is_up:
                tail = await upstream.server.cut_tail(text, count)
                if tail is not None:
                    self.tails.method = "exact (the server's /tokenize)"
                    return tail
        return None

    def count(self, upstream: Upstream, call: ChatCall, most: int) -> int:
        """Return the tokens to bill: own ids, else a plausible usage, else an estimate."""
        state = call.stream
        num_characters = state.num_chars
        told = state.usage.get("completion_tokens")
        own = state.token_ids.size
        if own:
            if told is not None and abs(told - own) > TOLERATED_MISCOUNT * own:
                self.alarm(upstream, f"its usage says {told} tokens, its ids are {own}")
            self._measure(call, own)
            return own
        if told is not None and self.believes(upstream, told, most, num_characters):
            self._measure(call, told)
            return told
        estimate = int(num_characters / self.tails.chars_per_token)
        return min(max(state.num_chunks, estimate), most + OVERRUN_TOKENS)

    def _measure(self, call: ChatCall, num_tokens: int) -> None:
        """Learn how long a token is, where a reply shows what it counts.

        Some servers think unseen: what they say of that is taken off, and a reply of more tokens
        than bytes shows nothing.
        """
        state = call.stream
        reasoning, content = state.reasoning.text, state.content.text
        shown = num_tokens if reasoning else num_tokens - state.reasoning_tokens
        if state.num_chars < shown and len(f"{reasoning}{content}".encode()) < shown:
            return
        both = f"{reasoning}\n\n{content}" if reasoning and content else ""
        self.tails.measure(state.num_chars, shown, reasoning, content, both)

    def believes(self, upstream: Upstream, told: int, most: int | None, num_chars: int) -> bool:
        """Say whether a usage can be true: at most `most` tokens, and some for a text; else report.

        `most` is None where the request sets no limit.
        """
        if (most is None or told <= most * (1 + TOLERATED_MISCOUNT)) and (told or not num_chars):
            return True
        self.alarm(upstream, f"its usage says {told} tokens for {num_chars} characters")
        return False

    async def count_text(self, upstream: Upstream, text: str) -> int | None:
        """Return the tokens of a text by a tokenizer, here or the server's; None without one."""
        if self.tails.has_tokenizer:
            return self.tails.count(text)
        return await upstream.server.count(text) if upstream.capabilities.tokenize else None

    def alarm(self, upstream: Upstream, message: str) -> None:
        """Report a server whose figures cannot be true: every time counted, logged once."""
        upstream.alarms += 1
        if upstream.alarms == 1:
            _log.warning("%s does not keep its own count: %s", upstream.server.base, message)

    def can_do_without(self, upstream: Upstream | None) -> bool:
        """Say whether another server of the model may be called."""
        return any(other.breaker.can_call for other in self.upstreams if other is not upstream)

    def refuse_if_dead(self) -> None:
        """Raise NoUpstreamError when no server was there for long and none may be tried now."""
        is_dead = self._dead_since is not None and self._is_given_up
        if is_dead and not any(u.breaker.can_call for u in self.upstreams):
            raise self._nobody()

    def settle(self, upstream: Upstream) -> None:
        """Draw the consequences of a call that ended at one of the servers."""
        if upstream.is_doubtful:
            self._on_doubt(upstream)
        if upstream.is_up and not upstream.limit.is_paused:
            self._dead_since = None
            return
        loop = asyncio.get_running_loop()
        if any(u.is_up for u in self.upstreams):
            self._dead_since = None
        elif self._dead_since is None:
            self._dead_since = loop.time()
            loop.call_later(self._patience_s, self._give_up)
        elif self._is_given_up:
            self._give_up()
        now = loop.time()
        for until in (upstream.breaker.reopens_at, upstream.limit.paused_until):
            if until > now:
                loop.call_at(until + 0.001, self._scheduler.admit)

    @property
    def _is_given_up(self) -> bool:
        since, now = self._dead_since, asyncio.get_running_loop().time()
        return since is not None and now - since >= self._patience_s

    def _give_up(self) -> None:
        if self._is_given_up:
            self._scheduler.fail_waiting(self.route, self._nobody())

    def _nobody(self) -> NoUpstreamError:
        faults = "; ".join(f"{u.server.base}: {u.last_fault}" for u in self.upstreams)
        return NoUpstreamError(
            f"no server of {self.name!r} could be reached for {self._patience_s:.0f} s ({faults}); "
            "check the addresses, that the servers run, and their logs"
        )
