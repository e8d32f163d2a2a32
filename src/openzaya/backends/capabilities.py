"""What a server can do, found out once when it is opened; the only place that knows vendors."""

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from openzaya.backends.chat_call import ChatCall
from openzaya.backends.chat_stream import ChatStream
from openzaya.backends.faults import CallFault
from openzaya.backends.http_server import PROBE_S, HttpConfig, Server
from openzaya.backends.wire import WireError
from openzaya.core.errors import OpenZayaError, UpstreamError

PROBE_TOKENS = 4
LengthField = Literal["max_tokens", "max_completion_tokens"]
PATH = "/v1/chat/completions"
_ASK_ERRORS = (OSError, TimeoutError, WireError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """The record of one server; the defaults are what every OpenAI-compatible server can do."""

    engine: str = ""
    """vllm, sglang, llamacpp, llama-cpp-python, or empty where the server does not tell."""
    version: str = ""
    has_answered: bool = False
    """Whether the server took a call of the probe; what follows is assumed where it did not."""
    extensions: bool = True
    """Fields beyond OpenAI's may be sent; some servers refuse any (HTTP 400 or 422)."""
    length_field: LengthField = "max_tokens"
    reasoning_field: str | None = None
    """Where reasoning comes; None while none was seen."""
    ids_out: bool = False
    """Token ids come with every chunk of a stream when asked for."""
    ids_in: bool = False
    """/v1/completions takes a prompt of token ids."""
    tokenize: bool = False
    """/tokenize and /detokenize exist."""
    continuation: bool = False
    """An open assistant turn can be continued by `continue_final_message`."""
    cached_tokens: bool = False
    """The usage tells how much of the prompt was cached."""
    context_tokens: int | None = None
    priority: Literal["lower", "higher"] | None = None
    """Which `priority` runs first; None where the field is not taken."""
    max_in_flight: int | None = None
    """Calls that the server bears at the same time, where it is known to bear few."""
    honours_n: bool | None = None
    """Whether `n` = 2 gave two choices; None when it was not tried."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)


async def probe(server: Server, config: HttpConfig, *, probes_all: bool = True) -> Capabilities:
    """Find out what a server can do with a few tiny calls; with one, unless `probes_all`.

    A server that answers a question badly cannot do what was asked. Raises UpstreamError for one
    that is known to decode the model wrongly, CallFault when it cannot be reached.
    """
    known = await _identify(server)
    if config.check_engine:
        refuse_unsafe(known.engine, server.model)
    if not config.probe:
        return known
    asking = _Asking(server, config)
    known = await asking.chat_form(known)
    ids = await asking.token_ids()
    known = replace(
        known, tokenize=bool(ids) and await server.cut_tail("probe probe", 1) is not None
    )
    if not probes_all or not known.extensions:
        return replace(known, priority=None)
    ids_in, continuation, honours_n, can_order = await asyncio.gather(
        asking.takes_ids(ids), asking.continues(), asking.honours_n(), asking.takes_priority()
    )
    return replace(
        known,
        ids_in=ids_in,
        continuation=continuation,
        honours_n=honours_n,
        priority=known.priority if can_order else None,
    )


def refuse_unsafe(engine: str, model: str) -> None:
    """Raise UpstreamError for an engine that is known to decode a model wrongly."""
    if engine == "vllm" and "zaya" in model.lower():
        raise UpstreamError(
            f"{model!r} is served by vLLM, whose releases have no ZAYA class and fall back to one "
            "that decodes wrong text; serve it with `openzaya serve --model`, or with SGLang after "
            "`openzaya convert --layout legacy`, or set check_engine=False if this build has one"
        )


async def _identify(server: Server) -> Capabilities:
    """Ask the server for its name by the means of the engine that its list of models names."""
    context = server.context_tokens
    try:
        if server.owner == "vllm":
            version = str((await server.json("GET", "/version"))["version"])
            return Capabilities(
                engine="vllm", version=version, context_tokens=context, priority="lower"
            )
        if server.owner == "sglang":
            told = await _sglang_info(server)
            is_on = bool(told.get("enable_priority_scheduling"))
            is_low = bool(told.get("schedule_low_priority_values_first"))
            return Capabilities(
                engine="sglang",
                version=str(told.get("version", "")),
                context_tokens=context,
                priority=("lower" if is_low else "higher") if is_on else None,
            )
        if server.owner == "llamacpp":
            told = await server.json("GET", "/props")
            slot = told.get("default_generation_settings", {}).get("n_ctx")
            context = slot if type(slot) is int and slot > 0 else context
            return Capabilities(engine="llamacpp", context_tokens=context)
        if server.owner == "me":
            told = await server.json("GET", "/openapi.json")
            if "llama.cpp Python API" in str(told["info"]["title"]):
                # As it comes, any new request makes this server break off the one it works on.
                return Capabilities(engine="llama-cpp-python", max_in_flight=1)
    except _ASK_ERRORS:
        return Capabilities(engine=server.owner, context_tokens=context)
    return Capabilities(context_tokens=context)


async def _sglang_info(server: Server) -> Any:
    """Return what SGLang tells of itself, under the new route's name or the old one's."""
    try:
        return await server.json("GET", "/server_info")
    except _ASK_ERRORS:
        return await server.json("GET", "/get_server_info")


class _Asking:
    """The questions that a probe asks."""

    def __init__(self, server: Server, config: HttpConfig) -> None:
        self._server = server
        self._config = config

    async def chat_form(self, known: Capabilities) -> Capabilities:
        """Find the fields of a chat call that the server takes, and what its stream holds."""
        names: tuple[LengthField, ...] = ("max_tokens", "max_completion_tokens")
        # SGLang refuses the first field in streams, and takes the second like any of its own.
        for extra in ({"return_token_ids": True}, {"ignore_eos": False}, {}):
            for name in names:
                stream = await self._chat({name: PROBE_TOKENS, **extra})
                if stream is not None:
                    return replace(
                        known,
                        has_answered=True,
                        extensions=bool(extra),
                        length_field=name,
                        reasoning_field=stream.reasoning_field,
                        ids_out=bool(stream.token_ids),
                        cached_tokens=stream.cached_tokens is not None,
                    )
        return known

    async def token_ids(self) -> list[int]:
        """Return the ids of a short text; empty where the server has no /tokenize."""
        try:
            return await self._server.tokenize("one two three")
        except _ASK_ERRORS:
            return []

    async def takes_ids(self, ids: list[int]) -> bool:
        """Ask whether a prompt of ids is taken as it is."""
        if not ids:
            return False
        body = {"model": self._server.model, "prompt": ids, "max_tokens": 1}
        try:
            answer = await self._server.json("POST", "/v1/completions", body)
            return bool(answer["usage"]["prompt_tokens"] == len(ids))
        except _ASK_ERRORS:
            return False

    async def continues(self) -> bool:
        """Ask whether an assistant's turn stays open: that makes its prompt shorter."""
        flags = {"continue_final_message": True, "add_generation_prompt": False}
        turns = [
            {"role": "user", "content": "Count."},
            {"role": "assistant", "content": "One, two,"},
        ]
        closed = await self._prompt_tokens(turns, {})
        opened = await self._prompt_tokens(turns, flags)
        return closed is not None and opened is not None and opened < closed

    async def honours_n(self) -> bool:
        """Ask for two choices and count them."""
        body = {"model": self._server.model, "messages": _HI, "max_tokens": 1, "n": 2}
        try:
            answer = await self._server.json("POST", PATH, body)
            return {choice["index"] for choice in answer["choices"]} == {0, 1}
        except _ASK_ERRORS:
            return False

    async def takes_priority(self) -> bool:
        """Ask whether a priority is accepted: without its scheduling policy it is an error."""
        return await self._prompt_tokens(_HI, {"priority": 1}) is not None

    async def _prompt_tokens(
        self, messages: list[dict[str, str]], extra: dict[str, Any]
    ) -> int | None:
        body = {"model": self._server.model, "messages": messages, "max_tokens": 1, **extra}
        try:
            count = (await self._server.json("POST", PATH, body))["usage"]["prompt_tokens"]
            return count if type(count) is int else None
        except _ASK_ERRORS:
            return None

    async def _chat(self, fields: dict[str, Any]) -> ChatStream | None:
        """Return what a tiny streamed call brought; None when the server refuses it."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        content = {"model": self._server.model, "messages": _HI, **options, **fields}
        body = json.dumps(content).encode()
        fault: CallFault | None = None
        for _ in range(self._config.max_attempts):
            call = ChatCall(self._server, self._config, PROBE_TOKENS, None)
            try:
                async with asyncio.timeout(PROBE_S):
                    await call.run(PATH, body)
                return call.stream
            except CallFault as error:
                fault = error
                await asyncio.sleep(min(error.wait_s, PROBE_S))
            except (OpenZayaError, TimeoutError):
                return None
        if fault is not None and fault.kind == "unreachable":
            raise fault
        return None


_HI = [{"role": "user", "content": "Hi"}]
