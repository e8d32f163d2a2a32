"""One OpenAI-compatible server: its address, the key, and what it says it can do."""

import asyncio
import email.utils
import json
import math
import os
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from openzaya.backends.client import Client, Exchange, StaleConnectionError
from openzaya.backends.event_frame import Frames
from openzaya.backends.faults import CallFault, NoUpstreamError
from openzaya.backends.sse import MORE, clip
from openzaya.backends.wire import Head, WireError
from openzaya.core.errors import ConfigError, UpstreamError

PROBE_S = 10.0
"""Longest wait for an answer that only tells what a server can do."""
CONNECT_S = 10.0
"""Longest wait for a connection."""
TOO_LONG = ("context_length_exceeded", "context length", "context size", "maximum context")
"""Words by which servers say that a prompt does not fit."""
NO_MODEL = ("not exist", "not found", "model_not_found")
"""Words by which servers say that they do not serve a model."""
MAX_RETRY_AFTER_S = 300.0
"""Longest wait that a server may ask for."""
HIDDEN = "***"
"""What stands for a key in a text."""
PUBLIC_CHARS = 8
"""So many characters at the beginning of a key say what kind it is, and are no secret."""
MAX_ANSWER_BYTES = 1 << 24
"""A longer answer to a small question is cut, and then is no JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpConfig:
    """How to talk to one server."""

    url: str
    """Base URL, with or without /v1."""
    model: str = ""
    """Model name; empty asks the server and takes the only one."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never stored or logged."""
    max_in_flight: int = 64
    """Most calls at the same time; lowered for a while when the server is overloaded."""
    max_attempts: int = 4
    """Tries of one call."""
    first_token_s: float = 600.0
    """Longest wait for the first token: a long prompt must be read first."""
    between_tokens_s: float = 120.0
    """Longest wait between two tokens; keep-alive comments do not count."""
    min_tokens_per_s: float = 0.02
    """A stream slower than this over `slow_after_s` is given up."""
    slow_after_s: float = 300.0
    """How long a stream may be slow."""
    retry_base_s: float = 0.5
    """Mean wait before the second try; doubled for each further one, at most 30 s."""
    check_model: bool = True
    """Refuse replies that another model than the one asked for signs."""
    probe: bool = True
    """Spend a few tokens when opening to learn what the server can do."""
    check_engine: bool = True
    """Refuse servers that are known to decode the model wrongly."""
    role: str = ""
    """A second name for the model, by which stages and clients may ask for it."""
    weight: float = 1.0
    """Share of the calls relative to other servers of the same model."""

    def __post_init__(self) -> None:
        """Check the address and the limits."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"the URL is {self.url!r}; write it as http://host:port")
        where, mark, _ = self.url.partition("://")[2].replace("#", "?").partition("?")
        if mark or "@" in where.partition("/")[0]:  # it is not shown: that may be a secret
            raise ConfigError(
                "the URL of an upstream holds a user name, a query or a fragment, and no call "
                "carries those; write it as http://host:port/path, and put a key into "
                f"{self.api_key_env}"
            )
        for name in ("max_in_flight", "max_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose at least 1")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"weight is {self.weight}; choose a number above 0")


def server_at(address: str) -> HttpConfig:
    """Return how to talk to the server at URL, or at URL#MODEL where it has several models."""
    url, _, model = address.partition("#")
    return HttpConfig(url=url, model=model)


ASSUMED_CHARS_PER_TOKEN = 4.0
"""Until a reply's usage shows the ratio."""
SHOWN_TOKENS = 32
"""A shorter reply shows nothing."""


class Server:
    """One server: its address, the key, and the connections to it. Close it in the end."""

    def __init__(self, config: HttpConfig) -> None:
        """Keep the settings; nothing is sent yet."""
        base = config.url.rstrip("/")
        self.base = base if base.endswith("/v1") else f"{base}/v1"
        self.root = self.base.removesuffix("/v1")
        self.model = config.model
        self.context_tokens: int | None = None
        self.chars_per_token = ASSUMED_CHARS_PER_TOKEN
        self.frames = Frames()
        """The forms of the events that it sends."""
        self.owner = ""
        """Who owns the model by the list of models; some servers give their own name."""
        self._key = os.environ.get(config.api_key_env, "").strip()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self.client = Client(self.root, headers, CONNECT_S)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()

    def clean(self, text: str) -> str:
        """Remove the key from a text that a server may have echoed, and what `clip` left of it."""
        if not self._key:
            return text
        text = text.replace(self._key, HIDDEN)
        for length in range(len(self._key) - 1, PUBLIC_CHARS, -1):
            text = text.replace(f"{self._key[:length]}{MORE}", f"{HIDDEN}{MORE}")
        return text

    def moved(self, head: Head) -> str:
        """Return where a redirect leads; questions and keys are not carried there."""
        there = self.clean(clip(head.fields.get("location", "")))
        return f"HTTP {head.status} and names {there!r}; name the address that it means"

    async def cleaned(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield a body without the key, wherever it is cut."""
        key, held = self._key.encode(), b""
        async for chunk in chunks:
            found = (held + chunk).replace(key, HIDDEN.encode()) if key else chunk
            cut = max(0, len(found) - max(0, len(key) - 1))
            held = found[cut:]
            if cut:
                yield found[:cut]
        if held:
            yield held

    def learn_ratio(self, num_chars: int, num_tokens: int) -> None:
        """Take note of how long a reply was, for counting the next ones while they come."""
        if is_ratio(num_chars, num_tokens):
            self.chars_per_token = num_chars / num_tokens

    async def find_model(self) -> None:
        """Learn the model's name, unless it was given, and its context.

        Raises UpstreamError for a server that cannot be reached or leaves the choice open.
        """
        try:
            models = (await self.json("GET", "/v1/models"))["data"]
            served = {str(entry["id"]): entry for entry in models}
        except (OSError, TimeoutError, WireError) as error:
            raise NoUpstreamError(
                f"{self.base} cannot be reached ({type(error).__name__}: {error}); {_cure(error)}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if self.model:
                return  # some servers have no list; the first call will tell
            raise UpstreamError(
                f"{self.base}/models holds no list of models ({self.clean(clip(str(error)))}); "
                "is this an OpenAI-compatible server?"
            ) from error
        # A gateway of ours also lists every model with every preset; those are no other models.
        names = [
            name for name in served if name.partition(":mrsa-")[0] not in served.keys() - {name}
        ]
        if not self.model and len(names) == 1:
            self.model = names[0]
        if not self.model or (names and self.model not in served):
            found = (
                f"model {self.model!r} is not among" if self.model else "a choice is needed from"
            )
            example = names[0] if names else "NAME"
            raise UpstreamError(
                f"{found} the {len(names)} models of {self.base} ({', '.join(names[:5])}); name "
                f"one behind the address, as in {self.base}#{example}"
            )
        entry = served.get(self.model, {})
        told = entry.get("max_model_len")
        self.context_tokens = told if type(told) is int and told > 0 else None
        self.owner = str(entry.get("owned_by", ""))

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """Return the parsed answer of a small call.

        Raises ValueError for anything but JSON, OSError, TimeoutError and WireError for a server
        that does not answer.
        """
        sent = None if body is None else json.dumps(body).encode()
        async with asyncio.timeout(PROBE_S):
            answer = await self._ask(method, path, sent)
        content, head = bytes(answer.body), answer.head
        assert head is not None
        if 300 <= head.status < 400:
            raise ValueError(self.moved(head))
        if head.status != 200:
            raise ValueError(f"HTTP {head.status}: {clip(content[:1000].decode(errors='replace'))}")
        return json.loads(content)

    async def _ask(self, method: str, path: str, body: bytes | None) -> "_Answer":
        while True:
            answer = _Answer()
            connection = await self.client.start(method, path, body, answer)
            try:
                await answer.done
            except StaleConnectionError:
                self.client.drop_idle()
                continue
            finally:
                if not answer.is_over:
                    connection.abort()
            return answer

    async def cut_tail(self, text: str, count: int) -> str | None:
        """Return the tail by /tokenize and /detokenize; None where the server has none."""
        try:
            ids = await self.tokenize(text)
            if len(ids) <= count:
                return text
            question = {"model": self.model, "tokens": ids[-count:]}
            answer = await self.json("POST", "/detokenize", question)
            tails = [answer[name] for name in ("prompt", "content", "text") if name in answer]
        except (OSError, TimeoutError, WireError, ValueError, KeyError, TypeError):
            return None
        return tails[0] if tails and isinstance(tails[0], str) else None

    async def count(self, text: str) -> int | None:
        """Return the length of a text by /tokenize; None where the server does not tell."""
        try:
            return len(await self.tokenize(text))
        except (OSError, TimeoutError, WireError, ValueError, KeyError, TypeError):
            return None

    async def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text. Raises what `json` does, KeyError and TypeError."""
        # One name for the text on vLLM and SGLang, another on llama.cpp.
        question = {"model": self.model, "prompt": text, "content": text}
        question["add_special_tokens"] = False  # type: ignore[assignment]
        ids = (await self.json("POST", "/tokenize", question))["tokens"]
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise TypeError("the answer's tokens are no ids")
        return ids


class _Answer(Exchange):
    """Collects a small answer."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.body = bytearray()
        self.is_over = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, head: Head) -> None:
        self.head = head

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > MAX_ANSWER_BYTES and not self.done.done():
            self.done.set_exception(
                ValueError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            )

    def on_end(self) -> None:
        self.is_over = True
        if not self.done.done():
            self.done.set_result(None)

    def on_error(self, error: Exception) -> None:
        self.is_over = True
        if not self.done.done():
            self.done.set_exception(error)


def _cure(error: Exception) -> str:
    """Return what helps against a server that cannot be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name its authority's certificate with SSL_CERT_FILE, and the server as it does"
    return "check the address and that the server runs"


def check_coding(head: Head) -> None:
    """Raise CallFault for a body in a coding: none was asked for, and none is read."""
    coding = head.fields.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise CallFault("garbage", f"the answer is encoded as {clip(coding)!r}, unasked")


def is_ratio(num_chars: int, num_tokens: int) -> bool:
    """Say whether a reply shows how long a token is: a short or half hidden one does not."""
    return num_tokens >= SHOWN_TOKENS and num_tokens <= num_chars <= 16 * num_tokens


def is_same_model(asked: str, told: str) -> bool:
    """Accept the name asked for, a dated version or a revision of it, and a path without folders.

    `transformers serve` signs with `NAME@REVISION`.
    """
    if not told or told == asked or told.startswith((f"{asked}-", f"{asked}@")):
        return True
    return told.rpartition("/")[2] == asked.rpartition("/")[2]


def retry_after_s(header: str) -> float:
    """Return the seconds that a Retry-After header asks for; 0 when it does not say."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def says_other_model(status: int, body: str) -> bool:
    """Say whether a refusal means that the server has no such model."""
    told = body.lower()
    is_named = "model" in told and any(words in told for words in NO_MODEL)
    return status == 404 or (status == 400 and is_named)


def says_too_long(body: str) -> bool:
    """Say whether an error body means that the prompt does not fit the context."""
    return any(words in body.lower() for words in TOO_LONG)
