"""Turning the engine's tokens into text while they come, for whoever watches a completion."""

from asyncio import AbstractEventLoop
from threading import Lock

from openzaya.core.records import Completion, Watch
from openzaya.engine.request import TokenEvent
from openzaya.text.tokenizer import TextTokenizer

MAX_WINDOW = 64
"""Ids that are decoded again with every new one, at most."""
OVERLAP = 8
"""Ids that stay in the window when it is shortened: a character has at most four bytes."""


class Unrolling:
    """Decodes ids piece by piece; the pieces together are the text of all ids.

    Half a character is held back until the rest of it comes.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Start with nothing."""
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._told = 0
        """Characters of the window's text that were returned."""

    def add(self, ids: list[int]) -> str:
        """Return the text that new ids bring."""
        self._window += ids
        text = self._tokenizer.decode(self._window)
        if text.endswith("\ufffd"):
            return ""
        piece, self._told = text[self._told :], len(text)
        if len(self._window) > MAX_WINDOW:
            self._window = self._window[-OVERLAP:]
            self._told = len(self._tokenizer.decode(self._window))
        return piece


class Follower:
    """Carries one request's tokens from the engine's thread to the watch in its event loop."""

    def __init__(self, tokenizer: TextTokenizer, watch: Watch, loop: AbstractEventLoop) -> None:
        """Tell `watch`, in `loop` only."""
        self._watch = watch
        self._loop = loop
        self._text = Unrolling(tokenizer)
        self._lock = Lock()
        self._fresh: list[int] = []
        self._num_stops = 0
        self._num_chars = 0

    def on_token(self, event: TokenEvent) -> None:
        """Take a token in the engine's thread; tokens wait together until the loop has time."""
        with self._lock:
            is_first = not self._fresh and not self._num_stops
            if event.finish_reason == "stop":
                self._num_stops += 1
            else:
                self._fresh.append(event.token_id)
        if is_first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def finish(self, completion: Completion) -> None:
        """Tell what is left of a completion: half a character at its end, for one."""
        self._tell()
        rest = completion.text[self._num_chars :]
        num_tokens = completion.num_tokens - self._watch.num_tokens
        if rest or num_tokens > 0:
            self._watch.add(rest, max(0, num_tokens))

    def _tell(self) -> None:
        with self._lock:
            ids, self._fresh = self._fresh, []
            num_stops, self._num_stops = self._num_stops, 0
        if ids or num_stops:
            piece = self._text.add(ids)
            self._num_chars += len(piece)
            self._watch.add(piece, len(ids) + num_stops)
