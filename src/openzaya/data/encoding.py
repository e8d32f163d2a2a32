"""Records to documents, many at a time: one call of the tokenizer for hundreds of texts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from openzaya.core.errors import DataError
from openzaya.data.recognize import Conversation, recognize
from openzaya.data.sources import Fault, Row
from openzaya.text.bulk import BulkTokenizer
from openzaya.text.chat import ChatTemplate, encoded_parts
from openzaya.text.document import Document, DocumentBuilder, Kind, SegmentRole
from openzaya.text.tokenizer import TextTokenizer

_BATCH_CHARS = 1 << 21


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that was left out."""

    place: int
    """As in `Row`."""
    reason: str
    """Short, without values."""
    excerpt: str
    """The beginning of the record."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Texts whose ids, joined, are one piece of a document."""

    texts: list[str]
    kind: Kind
    role: SegmentRole
    trained: bool


@dataclass(frozen=True, slots=True)
class _Draft:
    """A document before its texts are tokenized."""

    row: Row
    parts: list[_Part]


class Encoder:
    """Turns rows into documents; the ids are those of `encode_turns` and `encode_plain`."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        chat: ChatTemplate,
        *,
        loss: Literal["all", "last"] = "all",
        most_tokens: int = 1 << 20,
    ) -> None:
        """Keep the settings; documents of more than `most_tokens` are left out."""
        self._tokenizer = tokenizer
        self._chat = chat
        self._loss = loss
        self._most_tokens = most_tokens
        self._bulk = BulkTokenizer(tokenizer)
        self.bad: list[BadRecord] = []
        """What was left out so far, in order."""

    def documents(self, rows: Iterable[Row], source: str) -> Iterator[Document]:
        """Go through the documents of the rows in order; bad rows are added to `bad`."""
        drafts: list[_Draft] = []
        chars = 0
        for row in rows:
            try:
                draft = _Draft(row, self._parts(row.value))
            except (DataError, RecursionError) as error:
                is_known = isinstance(error, DataError)
                self._leave_out(row, str(error) if is_known else "nested too deeply")
                continue
            drafts.append(draft)
            chars += sum(len(text) for part in draft.parts for text in part.texts)
            if chars >= _BATCH_CHARS:
                yield from self._encode(drafts, source)
                drafts, chars = [], 0
        yield from self._encode(drafts, source)

    def reasons(self) -> dict[str, int]:
        """Return how many records were left out for each reason, the most frequent first."""
        counts = Counter(record.reason for record in self.bad)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _parts(self, value: object) -> list[_Part]:
        if isinstance(value, Fault):
            raise DataError(value.reason)
        found = recognize(value)
        if isinstance(found, Conversation):
            return self._turns(found)
        # The stop token ends a text as it ends a reply; no other marker gets in.
        texts = [*self._tokenizer.plain_parts(found), self._tokenizer.eos_token]
        return [_Part(texts, "text", "document", True)]

    def _turns(self, found: Conversation) -> list[_Part]:
        pieces = self._chat.document_pieces(found.messages, self._loss, found.tools)
        return [
            _Part(encoded_parts(piece, self._tokenizer), piece.kind, piece.role, trained)
            for piece, trained in pieces
        ]

    def _encode(self, drafts: list[_Draft], source: str) -> Iterator[Document]:
        """Tokenize all texts in one call, equal ones once, and put the documents together."""
        texts = list({text: 0 for d in drafts for part in d.parts for text in part.texts})
        ids = dict(zip(texts, self._bulk.encode_batch(texts), strict=True))
        for draft in drafts:
            builder = DocumentBuilder(source)
            for part in draft.parts:
                for text in part.texts:
                    builder.add(ids[text], part.kind, part.role, loss=part.trained)
            document = builder.build()
            if len(document) > self._most_tokens:
                self._leave_out(draft.row, "too many tokens")
            else:
                yield document

    def _leave_out(self, row: Row, reason: str) -> None:
        excerpt = row.value.excerpt if isinstance(row.value, Fault) else repr(row.value)[:200]
        self.bad.append(BadRecord(row.place, reason, excerpt))
