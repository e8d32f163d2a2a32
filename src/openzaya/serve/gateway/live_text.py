"""The answer of a run as it grows: reasoning and content of its only final candidate."""

from collections.abc import Sequence

from openzaya.serve.scanners import StopScanner, ThinkScanner


class LiveText:
    """Splits a growing text into what was thought and what is answered; listeners take deltas.

    A call that begins again (its server failed) must repeat what was told: deltas that clients
    have seen cannot be taken back. When it does not, `is_torn` says so and nothing more is told.
    """

    def __init__(self, stops: Sequence[str] = (), *, started_in_think: bool = True) -> None:
        self._stops = stops
        self._started_in_think = started_in_think
        self._seen = 0
        self.is_torn = False
        """Whether a repeated call said something else than before."""
        self.reasoning = ""
        """The reasoning that was told."""
        self.content = ""
        """The answer that was told."""
        self._begin()

    @property
    def has_text(self) -> bool:
        """Whether anything was told."""
        return bool(self.reasoning or self.content)

    def _begin(self) -> None:
        self._think = ThinkScanner(self._started_in_think)
        self._stop = StopScanner(self._stops)
        self._now = ["", ""]

    def restart(self) -> None:
        """Take note that the call is tried again."""
        self._begin()

    def feed(self, text: str) -> bool:
        """Take in more of what the model wrote; say whether there is more to tell."""
        reasoning, answer = self._think.feed(text)
        self._now[0] += reasoning
        self._now[1] += self._stop.feed(answer)
        return self._tell()

    def finish(self, reasoning: str, content: str) -> bool:
        """Take in the whole answer that was chosen; say whether there is more to tell."""
        self._now = [reasoning, content]
        return self._tell()

    def _tell(self) -> bool:
        reasoning, content = self._now
        old = (self.reasoning, self.content)
        if self.is_torn:
            return False
        if not _agree(reasoning, old[0]) or not _agree(content, old[1]):
            self.is_torn = True
            return True
        # Content is only told once the reasoning before it is: the order of deltas is the order
        # of the text.
        if len(reasoning) > len(old[0]):
            self.reasoning = reasoning
        if len(content) > len(old[1]):
            self.content = content
        return (self.reasoning, self.content) != old


def _agree(new: str, told: str) -> bool:
    """Say whether one text begins with the other."""
    return new.startswith(told) if len(new) >= len(told) else told.startswith(new)
