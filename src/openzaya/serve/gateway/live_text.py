"""The answer of a run as it grows: reasoning and content of its only final candidate."""

from collections.abc import Callable, Sequence

from openzaya.serve.scanners import StopScanner, ThinkScanner


class LiveText:
    """Splits a growing text into what was thought and what is answered; listeners take deltas.

    A call that begins again (its server failed) must repeat what was told: deltas that clients
    have seen cannot be taken back. When it does not, `is_torn` says so and nothing more is told.
    """

    def __init__(
        self,
        on_news: Callable[[], None],
        stops: Sequence[str] = (),
        *,
        started_in_think: bool = True,
    ) -> None:
        """`on_news` is called when there is more to tell."""
        self._on_news = on_news
        self._stops = stops
        self._started_in_think = started_in_think
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

    def restart(self, before: str = "") -> None:
        """Take note that a call begins, perhaps again; `before` is what an earlier one wrote."""
        self._begin()
        if before:
            self.feed(before)

    def feed(self, text: str) -> None:
        """Take in more of what the model wrote."""
        reasoning, answer = self._think.feed(text)
        self._now[0] += reasoning
        self._now[1] += self._stop.feed(answer)
        self._tell()

    def finish(self, reasoning: str, content: str) -> None:
        """Take in the whole answer that was chosen."""
        self._now = [reasoning, content]
        self._tell()

    def _tell(self) -> None:
        reasoning, content = self._now
        old = (self.reasoning, self.content)
        if self.is_torn:
            return
        if not _agree(reasoning, old[0]) or not _agree(content, old[1]):
            self.is_torn = True
            self._on_news()
            return
        # Content is only told once the reasoning before it is: the order of deltas is the order
        # of the text.
        if len(reasoning) > len(old[0]):
            self.reasoning = reasoning
        if len(content) > len(old[1]):
            self.content = content
        if (self.reasoning, self.content) != old:
            self._on_news()


def _agree(new: str, told: str) -> bool:
    """Say whether one text begins with the other."""
    return new.startswith(told) if len(new) >= len(told) else told.startswith(new)
