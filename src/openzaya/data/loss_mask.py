"""Seeing what is trained: counts by role and kind, and a sample with its mask in color."""

from collections.abc import Iterable
from dataclasses import dataclass

from openzaya.text.document import Document
from openzaya.text.tokenizer import TextTokenizer

_TRAINED = "bold green"
_CONTEXT = "dim"


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of one role and kind."""

    total: int
    """All of them."""
    trained: int
    """Those that are targets."""


def count_trained_tokens(documents: Iterable[Document]) -> dict[str, TokenCount]:
    """Return counts by "role/kind", for example "assistant/think", in the order of appearance."""
    counts: dict[str, TokenCount] = {}
    for document in documents:
        for segment in document.segments:
            key = f"{segment.role}/{segment.kind}"
            before = counts.get(key, TokenCount(0, 0))
            trained = segment.length if segment.loss else 0
            counts[key] = TokenCount(before.total + segment.length, before.trained + trained)
    return counts


def colored(document: Document, tokenizer: TextTokenizer) -> str:
    """Return the document's text as markup for `rich`: trained parts green, the rest dim.

    A character whose bytes lie in two differently trained segments shows as two replacements.
    """
    parts: list[str] = []
    for segment in document.segments:
        ids = document.tokens[segment.start : segment.end].tolist()
        style = _TRAINED if segment.loss else _CONTEXT
        parts.append(f"[{style}]{_escape(tokenizer.decode(ids))}[/{style}]")
    return "".join(parts)


def _escape(text: str) -> str:
    """Keep brackets in the text from being read as markup."""
    from rich.markup import escape

    # Backslashes directly before our closing tag would escape it; doubled, they stand for one.
    body = text.rstrip("\\")
    return escape(body) + "\\\\" * (len(text) - len(body))
