"""Reading HTTP/1.1 responses, strictly: what is not clearly one response is refused.

The parser does no input or output of its own, so that every way of cutting the bytes can be tested.

Source: RFC 9112 (framing), RFC 9110 section 5 (fields).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_HEAD_BYTES = 32 * 1024
"""Longest status line and header block, and longest trailer."""
MAX_CHUNK_LINE_BYTES = 256
KEPT_HEADS = 64
"""Heads that are kept: those of a server differ once a second, by their date."""
MAX_INTERIM_RESPONSES = 8
"""Most 1xx responses before the real one."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x21-\x7e\x80-\xff]"
    rb"(?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*\r\n"
)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_LENGTH = re.compile(r"[0-9]{1,15}")


class WireError(Exception):
    """Bytes that are no HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header fields of a response."""

    status: int
    fields: Mapping[str, str]
    """By lower-case name; several fields of one name are joined by commas."""
    can_stay: bool
    """The connection may serve another request afterwards."""


_Read = Callable[["ResponseParser", bytes, int, list[bytes]], int]


class ResponseParser:
    """Reads one response; `on_head` once, `on_body` for each stretch, then `is_over`."""

    def __init__(self, on_head: Callable[[Head], None], on_body: Callable[[bytes], None]) -> None:
        """Name who is told of the parts."""
        self._on_head = on_head
        self._on_body = on_body
        # Functions rather than bound methods: those would keep the parser alive.
        self._read: _Read | None = ResponseParser._read_head
        """Reads the next element; None once the response is complete."""
        self._after: _Read | None = None
        """Reads what follows the bytes that are counted now."""
        self._rest = b""
        self._left = 0
        self._interim = 0
        self._head: Head | None = None

    @property
    def is_over(self) -> bool:
        """Whether the response is complete."""
        return self._read is None

    @property
    def can_stay(self) -> bool:
        """Whether the response is complete and the connection fit for the next request."""
        return self.is_over and not self._rest and self._head is not None and self._head.can_stay

    def feed(self, data: bytes) -> None:
        """Take in bytes as they come. Raises WireError for what is no response."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        body: list[bytes] = []
        position, end = 0, len(data)
        while position < end and self._read is not None:
            before, read = position, self._read
            position = read(self, data, position, body)
            if position == before and self._read is read:
                break  # more bytes are needed
        if position < end:
            self._rest = data[position:]
        if body:
            self._on_body(body[0] if len(body) == 1 else b"".join(body))

    def finish(self) -> None:
        """Take note that the connection ended. Raises WireError when the response is not whole."""
        if self._read is ResponseParser._read_to_the_end:
            self._read = None
        elif self._read is not None:
            raise WireError("the connection ended in the middle of a response")

    # Each of these reads one element and returns where the next one begins, or `position` to ask
    # for more bytes.

    def _read_to_the_end(self, data: bytes, position: int, body: list[bytes]) -> int:
        body.append(data[position:])
        return len(data)

    def _read_counted(self, data: bytes, position: int, body: list[bytes]) -> int:
        taken = data[position : position + self._left]
        self._left -= len(taken)
        body.append(taken)
        if not self._left:
            self._read = self._after
        return position + len(taken)

    def _read_chunk_line(self, data: bytes, position: int, body: list[bytes]) -> int:
        end = data.find(b"\r\n", position, position + MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(data) - position >= MAX_CHUNK_LINE_BYTES:
                raise WireError(f"a chunk's size has more than {MAX_CHUNK_LINE_BYTES} bytes")
            return position
        size = _CHUNK.fullmatch(data, position, end)
        if size is None:
            raise WireError(f"{data[position:end][:40]!r} is no size of a chunk")
        begin, length = end + 2, int(size[1], 16)
        if length and data.startswith(b"\r\n", begin + length):  # as a rule all of it is here
            body.append(data[begin : begin + length])
            return begin + length + 2
        self._left = length
        cls = ResponseParser
        self._after = cls._read_chunk_end
        self._read = cls._read_counted if length else cls._read_trailer
        return begin

    def _read_chunk_end(self, data: bytes, position: int, _body: list[bytes]) -> int:
        if len(data) - position < 2:
            return position
        if data[position : position + 2] != b"\r\n":
            raise WireError("a chunk is longer than its size says")
        self._read = ResponseParser._read_chunk_line
        return position + 2

    def _read_trailer(self, data: bytes, position: int, _body: list[bytes]) -> int:
        if data.startswith(b"\r\n", position):
            self._read = None
            return position + 2
        end = data.find(b"\r\n\r\n", position, position + MAX_HEAD_BYTES)
        if end < 0:
            if len(data) - position >= MAX_HEAD_BYTES:
                raise WireError(f"the trailer has more than {MAX_HEAD_BYTES} bytes")
            return position
        _read_fields(data, position, end + 2)
        self._read = None
        return end + 4

    def _read_head(self, data: bytes, position: int, _body: list[bytes]) -> int:
        end = data.find(b"\r\n\r\n", position, position + MAX_HEAD_BYTES)
        if end < 0:
            if len(data) - position >= MAX_HEAD_BYTES:
                raise WireError(f"the header has more than {MAX_HEAD_BYTES} bytes")
            if not b"HTTP/1.".startswith(data[position : position + 7]):
                raise WireError(f"{data[position : position + 40]!r} is no HTTP/1.1 response")
            return position
        start = _start_of(data[position : end + 2])
        if start.head.status < 200:
            self._skip_interim(start.head.status)
            return end + 4
        self._read, self._left, self._head = start.read, start.body_bytes, start.head
        self._on_head(self._head)
        return end + 4

    def _skip_interim(self, status: int) -> None:
        self._interim += 1
        if status == 101 or self._interim > MAX_INTERIM_RESPONSES:
            raise WireError(f"the server sends interim responses that nobody asked for ({status})")


@dataclass(frozen=True, slots=True)
class _Start:
    """What a status line and the fields below it say."""

    head: Head
    read: _Read | None
    """Reads the beginning of the body; None where there is none."""
    body_bytes: int


@lru_cache(maxsize=KEPT_HEADS)
def _start_of(block: bytes) -> _Start:
    """Read a status line and its fields. Raises WireError."""
    line = _STATUS.match(block)
    if line is None:
        raise WireError(f"{block[:40]!r} is no HTTP/1.1 status line")
    status, is_new = int(line[2]), line[1] == b"1"
    fields = _read_fields(block, line.end(), len(block))
    if status < 200:
        return _Start(Head(status, fields, False), None, 0)
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
    can_stay = is_new and "close" not in options
    body_bytes = 0
    if coding is not None:
        if coding.lower() != "chunked" or length is not None or not is_new:
            raise WireError(f"the body's framing is unclear (transfer-encoding {coding[:40]!r})")
        read: _Read | None = ResponseParser._read_chunk_line
    elif length is not None:
        lengths = {part.strip() for part in length.split(",")}
        told = lengths.pop()
        if lengths or not _LENGTH.fullmatch(told):
            raise WireError(f"the content-length is {length[:40]!r}, not one number")
        body_bytes = int(told)
        read = ResponseParser._read_counted
    else:
        can_stay = False
        read = ResponseParser._read_to_the_end
    if status in (204, 304) or (read is ResponseParser._read_counted and not body_bytes):
        read = None
        can_stay = can_stay and (length is None or not body_bytes)
    return _Start(Head(status, fields, can_stay), read, body_bytes)


def _read_fields(data: bytes, position: int, end: int) -> dict[str, str]:
    """Return the fields between two positions. Raises WireError unless every line is one."""
    fields: dict[str, str] = {}
    while position < end:
        field = _FIELD.match(data, position, end)
        if field is None:
            raise WireError(f"{data[position : position + 40]!r} is no header field")
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
        position = field.end()
    return fields
