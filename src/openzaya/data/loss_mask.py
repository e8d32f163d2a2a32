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


def colored(document: Document, tokenizer: TextTokenizer, most_tokens: int | None = None) -> str:
    """Return the document's text as markup for `rich`: trained parts green, the rest dim.

    Of segments with more than `most_tokens` only both ends are shown. A character whose bytes lie
    in two differently trained segments shows as two replacements; control characters, which a
    terminal would obey, as one.
    """
    parts: list[str] = []
    for segment in document.segments:
        ids = document.tokens[segment.start : segment.end].tolist()
        style = _TRAINED if segment.loss else _CONTEXT
        if most_tokens is not None and len(ids) > most_tokens:
            half = max(1, most_tokens // 2)
            note = f"\n[... {len(ids) - 2 * half:,} tokens ...]\n"
            text = f"{tokenizer.decode(ids[:half])}{note}{tokenizer.decode(ids[-half:])}"
        else:
            text = tokenizer.decode(ids)
        parts.append(f"[{style}]{_escape(text)}[/{style}]")
    return "".join(parts)


def _escape(text: str) -> str:
    """Keep brackets in the text from being read as markup."""
    from rich.markup import escape

    shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    # Backslashes directly before our closing tag would escape it; doubled, they stand for one.
    body = shown.rstrip("\\")
    return escape(body) + "\\\\" * (len(shown) - len(body))
