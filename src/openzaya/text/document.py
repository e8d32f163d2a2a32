"""The record that text becomes: token ids and a table that says what each stretch of them is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import DataError

Kind = Literal["text", "think", "answer", "markup", "tool"]
SegmentRole = Literal["system", "user", "assistant", "tool", "document"]
Tokens = NDArray[np.int32]
Mask = NDArray[np.bool_]

KINDS: tuple[Kind, ...] = ("text", "think", "answer", "markup", "tool")
ROLES: tuple[SegmentRole, ...] = ("system", "user", "assistant", "tool", "document")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a document's tokens with one meaning."""

    kind: Kind
    """think = reasoning, answer = what follows it, markup = template, tool = a tool's result."""
    role: SegmentRole
    """Whose turn it is; "document" for text outside a conversation."""
    start: int
    """First token."""
    length: int
    """Tokens; at least 1."""
    loss: bool
    """True when the model is trained to produce these tokens."""

    @property
    def end(self) -> int:
        """Return the index after the last token."""
        return self.start + self.length


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """Tokens of one training example; the segments cover them exactly, in order.

    Raises DataError when they do not.
    """

    tokens: Tokens
    """int32, one dimension. May be a view into a memory map."""
    segments: tuple[Segment, ...]
    """In order, without gaps or overlaps."""
    source: str
    """Name of the data set; the mixture weighs by it."""

    def __post_init__(self) -> None:
        """Check that the table covers the tokens."""
        position = 0
        for segment in self.segments:
            if segment.start != position or segment.length < 1:
                raise DataError(
                    f"document of {self.source!r}: a segment starts at {segment.start} with "
                    f"{segment.length} tokens, expected start {position} and at least 1 token; "
                    "build documents with DocumentBuilder"
                )
            position = segment.end
        if self.tokens.ndim != 1 or position != len(self.tokens):
            raise DataError(
                f"document of {self.source!r}: segments cover {position} tokens, the array has "
                f"shape {self.tokens.shape}; build documents with DocumentBuilder"
            )

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    def loss_mask(self) -> Mask:
        """Return bool[tokens]: True where the token is a trained target."""
        mask = np.zeros(len(self.tokens), dtype=np.bool_)
        for segment in self.segments:
            mask[segment.start : segment.end] = segment.loss
        return mask


class DocumentBuilder:
    """Collects pieces and makes the `Document`; empty pieces leave no segment."""

    def __init__(self, source: str) -> None:
        """Start an empty document of the data set `source`."""
        self._source = source
        self._ids: list[int] = []
        self._segments: list[Segment] = []

    def add(self, ids: Sequence[int], kind: Kind, role: SegmentRole, *, loss: bool) -> None:
        """Append one piece; a piece like its neighbor in kind, role and loss joins it."""
        if not ids:
            return
        start = len(self._ids)
        self._ids.extend(ids)
        last = self._segments[-1] if self._segments else None
        if last is not None and (last.kind, last.role, last.loss) == (kind, role, loss):
            self._segments[-1] = Segment(kind, role, last.start, last.length + len(ids), loss)
        else:
            self._segments.append(Segment(kind, role, start, len(ids), loss))

    def build(self) -> Document:
        """Return the document. Raises DataError when nothing was added."""
        if not self._ids:
            raise DataError(
                f"a document of {self._source!r} has no tokens, expected at least one; "
                "leave empty examples out"
            )
        tokens = np.asarray(self._ids, dtype=np.int32)
        return Document(tokens, tuple(self._segments), self._source)


def text_document(ids: Sequence[int], source: str) -> Document:
    """Return plain text as a document of one segment in which every token is trained."""
    builder = DocumentBuilder(source)
    builder.add(ids, "text", "document", loss=True)
    return builder.build()
