"""One choice as it grows: tokens to reasoning, answer and tool calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from openzaya.engine.request import TokenEvent
from openzaya.serve.scanners import StopScanner, ThinkScanner
from openzaya.serve.stream import Detokenizer
from openzaya.serve.tool_calls import Call, Schemas, ToolScanner
from openzaya.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRules:
    """How the text of a reply is read."""

    stop_ids: tuple[int, ...]
    """Tokens that end it and are no text."""
    stops: Sequence[str] = ()
    """Strings that end the answer; they are not looked for in the reasoning."""
    splits: bool = True
    """False for plain completions: everything is answer."""
    thinks: bool = True
    """Whether the prompt opened a thought."""
    schemas: Schemas | None = None
    """The tools that may be called."""
    has_form: bool = False
    """Whether a grammar wrote the answer: it may quote markers, and its calls are exact."""


@dataclass(slots=True)
class Delta:
    """What one token adds; any of it may be empty."""

    reasoning: str = ""
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    event: TokenEvent | None = None
    """The token."""
    text_at: int = 0
    """Characters that the tokens before it completed."""
    is_last: bool = False
    """Whether the reply ends with it."""

    @property
    def has_text(self) -> bool:
        """Whether anything can be seen."""
        return bool(self.reasoning or self.content or self.calls)


class Reply:
    """The text of one choice, told token by token and kept whole."""

    def __init__(self, tokenizer: TextTokenizer, rules: ReplyRules) -> None:
        self._rules = rules
        self._detokenizer = Detokenizer(tokenizer)
        self._think = ThinkScanner(rules.thinks, once=rules.has_form) if rules.splits else None
        self._stop = StopScanner(rules.stops)
        self._tools = ToolScanner(rules.schemas, rules.has_form)
        self._reason: str | None = None
        self.events: list[TokenEvent] = []
        """Every token that counts."""
        self.offsets: list[int] = []
        """Characters that the tokens before each of them completed."""
        self._num_chars = 0
        self.num_reasoning = 0
        """Tokens that came inside the reasoning."""
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self.calls: list[Call] = []
        """The tool calls so far."""

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def content(self) -> str:
        """The answer so far."""
        return "".join(self._content)

    @property
    def finish_reason(self) -> str | None:
        """The reason in the words of the OpenAI API, None while it goes on."""
        if self._reason == "stop" and self.calls:
            return "tool_calls"
        return self._reason

    @property
    def is_done(self) -> bool:
        """True when no more tokens are wanted."""
        return self._reason is not None

    @property
    def hit_stop_string(self) -> bool:
        """True when a stop string ended the reply: the engine need not go on."""
        return self._stop.is_hit

    def feed(self, event: TokenEvent) -> Delta:
        """Take in the next token; return what it adds, all that was held back with the last one."""
        self.events.append(event)
        self.num_reasoning += self._think is not None and self._think.inside
        is_stop = event.finish_reason == "stop" and event.token_id in self._rules.stop_ids
        text = "" if is_stop else self._detokenizer.feed(event.token_id)
        delta = self._read(text)
        delta.event, delta.text_at = event, self._num_chars
        self.offsets.append(self._num_chars)
        self._num_chars += len(text)
        self._reason = event.finish_reason
        if self._stop.is_hit:
            self._reason = "stop"
        if self._reason is not None:
            self._finish(delta)
            delta.is_last = True
        self._keep(delta)
        return delta

    def _read(self, text: str) -> Delta:
        reasoning, answer = self._think.feed(text) if self._think is not None else ("", text)
        content, calls = self._tools.feed(self._stop.feed(answer))
        return Delta(reasoning, content, calls)

    def _finish(self, delta: Delta) -> None:
        """Add what was held back."""
        last = self._read(self._detokenizer.finish()) if not self._stop.is_hit else Delta()
        held = self._think.finish() if self._think is not None else ("", "")
        answer = "" if self._stop.is_hit else self._stop.feed(held[1])
        answer += self._stop.finish()
        content, calls = self._tools.feed(answer)
        rest, _ = self._tools.finish()
        delta.reasoning += last.reasoning + held[0]
        delta.content += last.content + content + rest
        delta.calls += last.calls + calls

    def _keep(self, delta: Delta) -> None:
        self._reasoning.append(delta.reasoning)
        self._content.append(delta.content)
        self.calls += delta.calls
