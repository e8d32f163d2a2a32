"""What the gateway needs of whatever generates: our engine in this process, or other servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import ASGIApp

from openzaya.core.protocols import WatchedSampler
from openzaya.serve.errors import bad_request
from openzaya.serve.form import Form
from openzaya.serve.gateway.choice import Choice
from openzaya.serve.gateway.conversation import Conversation
from openzaya.serve.gateway.live_text import LiveText
from openzaya.serve.keys import Key
from openzaya.serve.tool_calls import Schemas
from openzaya.ttc import MarkovianRSAConfig


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks."""

    key: Key
    tenant: str
    """The same for all requests of a key, and no secret; empty where nobody needs a key."""

    @property
    def is_admin(self) -> bool:
        """Whether the bearer may see the runs of others."""
        return "admin" in self.key.rights


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A checked request for test-time compute."""

    conversation: Conversation
    config: MarkovianRSAConfig
    """The preset with what the request's own fields say of it."""
    n: int = 1
    """Choices of the answer."""
    stream: bool = False
    include_usage: bool = False
    seed: int | None = None
    stops: Sequence[str] = ()
    tools: Schemas | None = None
    """The tools that the last stage may call."""
    wants_json: bool = False
    """Whether the answer must be JSON."""
    form: Form | None = None
    """What the calls of the last stage keep on our own engine."""
    priority: int = 0
    question_tokens: int = 0
    """Length of the prompt that the client sent, an estimate in front of some servers."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the calls of every stage carry beside ours."""
    final_fields: Mapping[str, Any] = field(default_factory=dict)
    """What the calls of the last stage carry on top."""
    body: Any = None
    """The request as the backend's schema read it."""

    def is_final(self, stage: int) -> bool:
        """Say whether answers of a stage may be given to the client."""
        return stage == self.config.rounds or not self.config.aggregate


class RunSampler(WatchedSampler, Protocol):
    """The calls of one run."""

    @property
    def has_begun(self) -> bool:
        """Whether any call got a place at a server, or in the engine."""
        ...


class Backend(Protocol):
    """Whatever generates."""

    @property
    def models(self) -> Sequence[str]:
        """Names of the models, the default one first."""
        ...

    def card(self, model: str) -> dict[str, Any]:
        """Return what GET /v1/models says of a model."""
        ...

    async def check(self, body: dict[str, Any], choice: Choice) -> Wish:
        """Return the wish in a body with test-time compute. Raises ApiError for what is refused."""
        ...

    def sampler(
        self, wish: Wish, model: str, run: int, who: Who, live: LiveText | None
    ) -> RunSampler:
        """Return the sampler of one run.

        `run` counts up: the smaller one is the older one. `live` hears the last stage's text.
        """
        ...

    async def pass_through(
        self, request: Request, body: dict[str, Any], choice: Choice, who: Who
    ) -> ASGIApp:
        """Answer a chat without test-time compute; `body` holds no `ttc`."""
        ...

    async def complete(self, request: Request, body: dict[str, Any], who: Who) -> ASGIApp:
        """Answer a plain completion."""
        ...

    def status(self) -> dict[str, Any]:
        """Return `{status: ok|degraded|failed, upstreams: [...]}` in plain JSON."""
        ...

    def drain(self) -> None:
        """Take note that the server is about to end."""
        ...

    @property
    def posts(self) -> Mapping[str, tuple[type[BaseModel], str]]:
        """The schemas of POST requests by path, with a summary of each."""
        ...


ALONE = (
    ("logprobs", "log-probabilities belong to one call"),
    ("continue_final_message", "a run begins its turns itself"),
    ("return_token_ids", "token ids belong to one call"),
)


def check_alone(body: Any) -> None:
    """Refuse what has a meaning for a single call only. Raises ApiError 400."""
    for name, why in ALONE:
        if getattr(body, name, None):
            raise bad_request(f'{name}: {why}; leave it out or send "ttc": false', name)
