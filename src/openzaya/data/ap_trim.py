"""Answer-preserving (AP) trimming: fit a conversation into a context by cutting reasoning only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from openzaya.core.errors import ConfigError
from openzaya.text.document import Document, Mask, Segment, Tokens

Rule = Literal["whole", "cut_last", "drop_prior", "split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ApTrimConfig:
    """How the rule's open points are decided; the defaults are its literal reading.

    Paper: III-A.
    """

    min_keep_tokens: int = 0
    """Reasoning that the last turn should keep before the rule turns to the earlier turns."""
    drop_prior: Literal["all", "oldest_first"] = "all"
    """Which earlier think blocks go when the last one is not enough."""
    no_reasoning: Literal["split_text", "split", "drop"] = "split_text"
    """What `fit` does with a document that has no reasoning and is too long: split plain text and
    drop conversations, split both or drop both."""
    newline_ids: frozenset[int] = frozenset()
    """Token ids that end a line, for `snap_tokens`."""
    snap_tokens: int = 0
    """Move a cut back to the last line end within so many tokens. 0 = cut exactly."""
    mask_cut_boundary: bool = False
    """Take the loss off the close marker behind a cut: where to stop was not learnt there."""
    mask_answer_tokens: int = 0
    """With `mask_cut_boundary`: take it off so many answer tokens behind the marker as well."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        for name in ("min_keep_tokens", "snap_tokens", "mask_answer_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, expected 0 or more; use 0 to switch it off"
                )
        if self.snap_tokens and not self.newline_ids:
            raise ConfigError(
                "snap_tokens is set but newline_ids is empty; name the token ids that end a line"
            )


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of the original document that stay."""

    start: int
    """First token in the original."""
    length: int
    """Tokens; at least 1."""
    loss: bool
    """True when they are trained targets."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A document that fits, as spans over the original; nothing is copied or tokenized again."""

    spans: tuple[Span, ...]
    """In order; neighbors differ in loss or have a gap between them."""
    rule: Rule
    """What was done."""
    kept_reasoning_tokens: int
    """Think tokens that stay."""
    cut_reasoning_tokens: int
    """Think tokens that go."""

    @property
    def length(self) -> int:
        """Return the tokens that stay."""
        return sum(span.length for span in self.spans)

    def tokens_of(self, document: Document) -> Tokens:
        """Return int32[length]: what stays of the original document's tokens."""
        return np.concatenate([document.tokens[s.start : s.start + s.length] for s in self.spans])

    def loss_mask(self) -> Mask:
        """Return bool[length]: True for trained targets."""
        lengths = [span.length for span in self.spans]
        return np.repeat(np.array([span.loss for span in self.spans], dtype=np.bool_), lengths)

    def apply(self, document: Document) -> Document:
        """Return the trimmed document with a segment table of its own."""
        segments: list[Segment] = []
        position = 0
        for segment in document.segments:
            for span in self.spans:
                start = max(segment.start, span.start)
                length = min(segment.end, span.start + span.length) - start
                if length > 0:
                    piece = Segment(segment.kind, segment.role, position, length, span.loss)
                    segments.append(piece)
                    position += length
        return Document(self.tokens_of(document), tuple(segments), document.source)


def ap_trim(
    document: Document, context_tokens: int, config: ApTrimConfig | None = None
) -> Trimmed | None:
    """Cut reasoning until the document has at most `context_tokens` tokens; None = drop it.

    1. It fits: untouched ("whole"). 2. Else the end of the last turn's reasoning goes, directly
    before its close marker ("cut_last"). 3. Else the earlier turns' reasoning goes and step 2
    starts again from the original ("drop_prior"). 4. Else, what is not reasoning exceeds the
    budget: None. A document without reasoning that does not fit is None here; `fit` can split it.

    Decided where the rule is silent:
    - Everything but reasoning counts as "the answers": template, questions, tool results, markers.
    - The last turn is all that follows the last user text that was answered; tool results do not
      end it. Of several think blocks in it, the last loses its end first, then those before it.
    - A removed block keeps both markers, as with thinking switched off, but its close marker is
      not trained: it would teach not to think.
    - Below `min_keep_tokens` in the last turn, step 3 comes first; if it cannot help, whatever
      fits is kept, even nothing.
    - The budget is the number of tokens in the document. Shifting by one for targets happens
      inside it, so C tokens need no room for C + 1.

    A larger budget never keeps fewer reasoning tokens in all, nor fewer earlier blocks; the last
    turn alone may keep fewer when earlier blocks come back.

    Paper: III-A.
    Deviation: D-007
    """
    settings = config or ApTrimConfig()
    if context_tokens < 1:
        raise ConfigError(f"context_tokens is {context_tokens}, expected at least 1; raise it")
    thinking = [i for i, segment in enumerate(document.segments) if segment.kind == "think"]
    if len(document) <= context_tokens:
        return _trimmed(document, {}, "whole", settings)
    last_user = _last_question(document.segments)
    # Markup in front of a reply may carry the user's role, its content always does.
    prior = [i for i in thinking if i < last_user]
    last = [i for i in thinking if i > last_user]
    sizes = {i: document.segments[i].length for i in thinking}
    fixed = len(document) - sum(sizes.values())
    if not thinking or fixed > context_tokens:
        return None

    prior_total = sum(sizes[i] for i in prior)
    last_total = sum(sizes[i] for i in last)
    enough = min(settings.min_keep_tokens, last_total)
    if last and context_tokens - fixed - prior_total >= enough:
        keep = _share(document, last, context_tokens - fixed - prior_total, settings)
        return _trimmed(document, keep, "cut_last", settings)
    keep = {}
    room = context_tokens - fixed - prior_total
    for i in prior:
        keep[i] = 0
        room += sizes[i]
        if settings.drop_prior == "oldest_first" and room >= enough:
            break
    keep.update(_share(document, last, room, settings))
    return _trimmed(document, keep, "drop_prior" if prior else "cut_last", settings)


def fit(
    document: Document, context_tokens: int, config: ApTrimConfig | None = None
) -> list[Trimmed]:
    """Return the document as zero, one or (when split) several pieces that fit.

    Only documents without any reasoning are ever split, into pieces of `context_tokens`.
    """
    settings = config or ApTrimConfig()
    trimmed = ap_trim(document, context_tokens, settings)
    if trimmed is not None:
        return [trimmed]
    is_text = all(segment.role == "document" for segment in document.segments)
    may_split = {"split_text": is_text, "split": True, "drop": False}[settings.no_reasoning]
    if not may_split or any(s.kind == "think" for s in document.segments):
        return []
    parts = range(-(-len(document) // context_tokens))
    return [split_part(document, context_tokens, part) for part in parts]


def split_part(document: Document, context_tokens: int, part: int) -> Trimmed:
    """Return one piece, from 0 on, of a document that `fit` splits, without making the others."""
    start = part * context_tokens
    return Trimmed(_clip(document, start, start + context_tokens), "split", 0, 0)


def trim_report(
    documents: Iterable[Document], context_tokens: int, config: ApTrimConfig | None = None
) -> dict[str, dict[str, int]]:
    """Count per source what trimming does: documents by rule, tokens before and after.

    Keys: whole, cut_last, drop_prior, split, dropped (documents); tokens, kept_tokens,
    reasoning_cut_tokens.
    """
    keys = ("whole", "cut_last", "drop_prior", "split", "dropped")
    report: dict[str, dict[str, int]] = {}
    for document in documents:
        counts = report.setdefault(
            document.source,
            dict.fromkeys((*keys, "tokens", "kept_tokens", "reasoning_cut_tokens"), 0),
        )
        pieces = fit(document, context_tokens, config)
        counts[pieces[0].rule if pieces else "dropped"] += 1
        counts["tokens"] += len(document)
        counts["kept_tokens"] += sum(piece.length for piece in pieces)
        counts["reasoning_cut_tokens"] += sum(piece.cut_reasoning_tokens for piece in pieces)
    return report


def _last_question(segments: Sequence[Segment]) -> int:
    """Return the last segment of a user that a reply follows, or -1."""
    reply = max((i for i, s in enumerate(segments) if s.role == "assistant"), default=-1)
    return max((i for i, s in enumerate(segments[: reply + 1]) if s.role == "user"), default=-1)


def _share(
    document: Document, blocks: Sequence[int], room: int, settings: ApTrimConfig
) -> dict[int, int]:
    """Return how many tokens each block of the last turn keeps: the first blocks keep most."""
    keep: dict[int, int] = {}
    for i in blocks:
        segment = document.segments[i]
        kept = min(segment.length, room)
        room -= kept
        if kept < segment.length:
            keep[i] = _snap(document, segment, kept, settings)
    return keep


def _snap(document: Document, segment: Segment, kept: int, settings: ApTrimConfig) -> int:
    """Return the cut moved back to a line end that is near enough, else the cut itself."""
    for length in range(kept, max(0, kept - settings.snap_tokens), -1):
        if int(document.tokens[segment.start + length - 1]) in settings.newline_ids:
            return length
    return kept


def _trimmed(
    document: Document, keep: dict[int, int], rule: Rule, settings: ApTrimConfig
) -> Trimmed:
    """Return the spans when block i keeps keep[i] tokens (all, if it is not named)."""
    spans: list[Span] = []
    mask_next = 0
    for i, segment in enumerate(document.segments):
        length = keep.get(i, segment.length)
        if segment.kind == "answer" and mask_next:
            masked = min(mask_next, length)
            _append(spans, segment.start, masked, loss=False)
            _append(spans, segment.start + masked, length - masked, loss=segment.loss)
            mask_next = 0
            continue
        if segment.kind != "markup":
            mask_next = 0
        previous = keep.get(i - 1)
        behind_cut = previous is not None and segment.kind == "markup"
        masked_marker = behind_cut and (settings.mask_cut_boundary or previous == 0)
        if behind_cut and settings.mask_cut_boundary and segment.loss:
            mask_next = settings.mask_answer_tokens
        _append(spans, segment.start, length, loss=segment.loss and not masked_marker)
    total = sum(s.length for s in document.segments if s.kind == "think")
    cut = sum(document.segments[i].length - length for i, length in keep.items())
    return Trimmed(tuple(spans), rule, total - cut, cut)


def _clip(document: Document, start: int, end: int) -> tuple[Span, ...]:
    spans: list[Span] = []
    for segment in document.segments:
        first = max(segment.start, start)
        _append(spans, first, min(segment.end, end) - first, loss=segment.loss)
    return tuple(spans)


def _append(spans: list[Span], start: int, length: int, *, loss: bool) -> None:
    """Add a span; one that continues its neighbor with the same loss joins it."""
    if length <= 0:
        return
    last = spans[-1] if spans else None
    if last is not None and last.start + last.length == start and last.loss == loss:
        spans[-1] = Span(last.start, last.length + length, loss)
    else:
        spans.append(Span(start, length, loss))
