"""The chat template and the one encoding of conversations that training and inference share."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from openzaya.core.errors import DataError
from openzaya.core.records import Message
from openzaya.text.document import Document, DocumentBuilder, Kind, SegmentRole
from openzaya.text.jinja import compile_template, pinned_source
from openzaya.text.markers import IM_END, THINK_CLOSE, TOOL_MARKERS
from openzaya.text.sentinels import (
    Content,
    as_mapping,
    clean_conversation,
    clean_strings,
    place_sentinels,
    split_at_sentinels,
    without_line_ends,
)
from openzaya.text.tokenizer import TextTokenizer, read_json, token_text

PINNED_TEMPLATE_SHA256 = "113d2f11fb34b6f7172f9c6140760ccf78184d512a57e7f617834e39d9d86353"
"""Hash of text/templates/zaya1.jinja: models are trained on this very text."""

ChatMessage = Message | Mapping[str, Any]
"""A turn: our record, or a mapping in the shape of the OpenAI API (it may carry tool_calls)."""
Tools = Sequence[Mapping[str, Any]]
"""Functions in the shape of the OpenAI API."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of rendered text that is tokenized on its own."""

    text: str
    """Never empty."""
    kind: Kind
    """As in `Segment`."""
    role: SegmentRole
    """As in `Segment`."""
    generated: bool
    """True for what the model itself writes: reasoning, close marker, answer, stop token."""
    message: int
    """Index of the message that the piece belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A jinja chat template, and the token ids of the conversations that it renders.

    The ids of a conversation are defined piece by piece: template text, user text, reasoning and
    answer are tokenized apart, so a prompt's ids are always a prefix of the training document's,
    and text cannot inject markers: only the template's own become special tokens (an assistant
    turn may also hold the markers of tool calls).
    """

    source: str
    """The jinja text."""
    bos_token: str = ""
    """What the template may write first; empty when the tokenizer has none."""

    @classmethod
    def pinned(cls, bos_token: str = "") -> Self:
        """Return the template that ships with openzaya."""
        return cls(source=pinned_source("zaya1.jinja"), bos_token=bos_token)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the template of a model folder, else the pinned one with the folder's BOS."""
        root = Path(folder)
        config = read_json(root / "tokenizer_config.json")
        bos = "" if config.get("add_bos_token") is False else token_text(config.get("bos_token"))
        own = root / "chat_template.jinja"
        if own.is_file():
            return cls(source=own.read_text(encoding="utf-8"), bos_token=bos)
        inline = config.get("chat_template")
        if isinstance(inline, str):
            return cls(source=inline, bos_token=bos)
        return cls.pinned(bos)

    def save(self, folder: str | Path) -> None:
        """Write chat_template.jinja into a model folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "chat_template.jinja").write_text(self.source, encoding="utf-8")

    @property
    def sha256(self) -> str:
        """Return the hash of the template's text, a part of every data fingerprint."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def render(
        self,
        messages: Sequence[ChatMessage],
        add_generation_prompt: bool = True,
        enable_thinking: bool = True,
        tools: Tools | None = None,
    ) -> str:
        """Return the conversation as text. Raises DataError when the template refuses it."""
        turns = [as_mapping(message) for message in messages]
        return self._render(turns, add_generation_prompt, enable_thinking, tools)

    def encode_prompt(
        self,
        messages: Sequence[ChatMessage],
        tokenizer: TextTokenizer,
        enable_thinking: bool = True,
        tools: Tools | None = None,
    ) -> list[int]:
        """Return the ids of a prompt: everything up to where the model starts to write.

        A folder's own template that rewrites contents is encoded as one text, after all markers
        were removed from the contents.
        """
        turns = [as_mapping(message) for message in messages]
        pieces = self._pieces(turns, tools, add_generation_prompt=True, thinking=enable_thinking)
        if pieces is None:
            cleaned = [clean_conversation(turn) for turn in turns]
            return tokenizer.encode(self._render(cleaned, True, enable_thinking, tools))
        return [token for piece in pieces for token in _encode(piece, tokenizer)]

    def encode_turns(
        self,
        messages: Sequence[ChatMessage],
        tokenizer: TextTokenizer,
        source: str = "chat",
        loss: Literal["all", "last"] = "all",
        tools: Tools | None = None,
    ) -> Document:
        """Return a conversation as a training document.

        Trained are an assistant's reasoning, its close marker, the answer and the stop token:
        what the model writes itself. The turn's opening, an empty think block (thinking switched
        off) and all other turns are not. `loss="last"` trains only the last assistant turn. The
        newline after the final stop token is left out: the stop token ends a document. Its text
        is otherwise what `render` returns.
        """
        builder = DocumentBuilder(source)
        for piece, trained in self.document_pieces(messages, loss, tools):
            builder.add(_encode(piece, tokenizer), piece.kind, piece.role, loss=trained)
        return builder.build()

    def document_pieces(
        self,
        messages: Sequence[ChatMessage],
        loss: Literal["all", "last"] = "all",
        tools: Tools | None = None,
    ) -> list[tuple[Piece, bool]]:
        """Return the pieces of `encode_turns` before they are tokenized, each with its loss flag.

        For those who tokenize many documents at once: a piece's ids are those of its
        `encoded_parts`, joined.
        """
        turns = [as_mapping(message) for message in messages]
        pieces = self._pieces(turns, tools, add_generation_prompt=False, thinking=True)
        if pieces is None:
            raise DataError(
                "the chat template rewrites what messages contain, so reasoning and answers cannot "
                "be found in its text; train with the pinned template (ChatTemplate.pinned())"
            )
        first = 0
        if loss == "last":
            assistants = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
            first = max(assistants, default=0)
        return [(piece, piece.generated and piece.message >= first) for piece in pieces]

    def _render(
        self, turns: list[dict[str, Any]], generate: bool, thinking: bool, tools: Tools | None
    ) -> str:
        return compile_template(self.source).render(
            messages=turns,
            add_generation_prompt=generate,
            enable_thinking=thinking,
            tools=clean_strings(list(tools)) if tools else None,
            bos_token=self.bos_token,
        )

    def _pieces(
        self,
        turns: list[dict[str, Any]],
        tools: Tools | None,
        *,
        add_generation_prompt: bool,
        thinking: bool,
    ) -> list[Piece] | None:
        """Return the pieces of the rendered text, or None when they do not add up to it."""
        marked, contents = place_sentinels(turns)
        text = self._render(marked, add_generation_prompt, thinking, tools)
        parts = split_at_sentinels(text, contents)
        whole = self._render(turns, add_generation_prompt, thinking, tools)
        for found in (parts, without_line_ends(parts)):
            if "".join(part if isinstance(part, str) else part.text for part in found) == whole:
                return _label(found, [turn["role"] for turn in turns], not add_generation_prompt)
        return None


def _label(parts: list[str | Content], roles: list[SegmentRole], is_document: bool) -> list[Piece]:
    """Say of every part what it is and who writes it."""
    pieces: list[Piece] = []
    before: Content | None = None
    for index, part in enumerate(parts):
        if isinstance(part, Content):
            before = part
            if part.text:
                model = part.kind in ("think", "answer")
                pieces.append(Piece(part.text, part.kind, part.role, model, part.message))
            continue
        after = next((p for p in parts[index + 1 :] if isinstance(p, Content)), None)
        last = after is None
        owner = after.message if after is not None else len(roles) - 1
        role: SegmentRole = roles[owner] if roles else "document"
        if last and not is_document:
            role = "assistant"
        if before is None or before.role != "assistant":
            pieces.append(Piece(part, "markup", role, False, owner))
            continue
        own, rest = _after_assistant(part, before)
        pieces.extend(own)
        if rest and not (last and is_document and rest == "\n"):
            pieces.append(Piece(rest, "markup", role, False, owner))
    return pieces


def _after_assistant(text: str, before: Content) -> tuple[list[Piece], str]:
    """Take apart what follows an assistant's text: its own close marker, calls and stop token.

    Also returns the rest, the next turn's opening, which the model does not write.
    """
    end = text.find(IM_END)
    body, stop = (text, "") if end < 0 else (text[:end], IM_END)
    rest = text[len(body) + len(stop) :]
    close = ""
    if before.kind == "think" and THINK_CLOSE in body:
        end = body.find(THINK_CLOSE) + len(THINK_CLOSE)
        while body[end : end + 1] == "\n":
            end += 1
        close = body[:end]
    parts: list[tuple[str, Kind]] = [
        (close, "markup"),
        (body[len(close) :], "answer"),
        (stop, "markup"),
    ]
    return [Piece(t, kind, "assistant", True, before.message) for t, kind in parts if t], rest


def encoded_parts(piece: Piece, tokenizer: TextTokenizer) -> list[str]:
    """Return the texts whose ids, joined, are the piece's ids: no part lets a marker in."""
    if piece.kind == "markup":
        return [piece.text]
    return tokenizer.plain_parts(piece.text, TOOL_MARKERS if piece.role == "assistant" else ())


def _encode(piece: Piece, tokenizer: TextTokenizer) -> list[int]:
    return [token for part in encoded_parts(piece, tokenizer) for token in tokenizer.encode(part)]
