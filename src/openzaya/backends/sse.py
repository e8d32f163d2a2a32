"""Server-sent events, read strictly and without a task: bytes in, the data of whole events out."""

from openzaya.core.errors import UpstreamError

MAX_LINE_BYTES = 1 << 20
"""A longer line is no event of a chat stream."""
CLIPPED = 200
"""Characters of a foreign text that an error message quotes."""
MORE = "..."
"""Follows a text that was cut."""


class StreamError(UpstreamError):
    """A stream that breaks its own rules; another try may bring a sound one."""


class EventReader:
    """Puts events together; lines may end in CRLF and data may span several lines.

    A character that is split between stretches is put together again: lines are decoded whole. An
    event that the end of the stream cuts off is dropped.
    """

    def __init__(self) -> None:
        """Start before the first byte."""
        self._pending = bytearray()
        self._data: list[str] = []

    def feed(self, stretch: bytes) -> list[str]:
        """Return the data of the events that `stretch` completes.

        Raises StreamError for a line above 1 MiB, for an event of lines that go on for ever, and
        for what is not UTF-8.
        """
        end = stretch.rfind(b"\n") + 1
        if not end:
            self._pending += stretch
            self._check_length(len(self._pending))
            return []
        whole = bytes(self._pending) + stretch[:end] if self._pending else stretch[:end]
        self._pending[:] = stretch[end:]
        self._check_length(len(self._pending))
        try:
            text = whole.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StreamError(f"the stream is not UTF-8 ({error.reason})") from error
        if not self._data and len(whole) <= MAX_LINE_BYTES:
            plain = _plain_events(text)
            if plain is not None:
                return plain
        lines = text.split("\n")
        lines.pop()  # what follows the last line
        if "\r" in text:
            lines = [line.removesuffix("\r") for line in lines]
        if len(whole) > MAX_LINE_BYTES:
            self._check_length(max(len(line.encode()) for line in lines))
        return self._events(lines)

    def _events(self, lines: list[str]) -> list[str]:
        found: list[str] = []
        data = self._data
        for line in lines:
            if line.startswith("data: "):
                data.append(line[6:])
            elif line.startswith("data:"):
                data.append(line[5:])
            elif not line and data:
                found.append(data[0] if len(data) == 1 else "\n".join(data))
                data.clear()
        self._check_length(sum(map(len, data)))
        return found

    @staticmethod
    def _check_length(length: int) -> None:
        if length > MAX_LINE_BYTES:
            raise StreamError(f"the stream has a line or an event above {MAX_LINE_BYTES} bytes")


def _plain_events(text: str) -> list[str] | None:
    """Return the data of events of one line each; None where there is anything else.

    Nearly all streams are such, and to split them takes less than looking at every line.
    """
    if not (text.startswith("data: ") and text.endswith("\n\n")) or "\r" in text:
        return None
    events = text[6:-2].split("\n\ndata: ")
    return None if "\n" in "".join(events) else events


def clip(text: str) -> str:
    """Return the beginning of a foreign text, fit for an error message."""
    return text if len(text) <= CLIPPED else text[:CLIPPED] + MORE
