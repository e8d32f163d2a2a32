"""The chat template and the one encoding of conversations that training and inference share."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

from openzaya.core.errors import CheckpointError, DataError
from openzaya.core.records import Message
from openzaya.text.document import Document, DocumentBuilder, Kind, SegmentRole
from openzaya.text.jinja import compile_template, pinned_source
from openzaya.text.markers import IM_END, THINK_CLOSE, TOOL_MARKERS
from openzaya.text.sentinels import (
    Content,
    as_mapping,
    clean_conversation,
    clean_strings,
    name_functions,
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
    calls: str | None = None
    """Where the template writes on a reply: the turn's calls as text, else None."""


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
    eos_token: str = ""
    """What ends a reply in templates that do not write `<|im_end|>`."""

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
        source = config.get("chat_template")
        try:
            if isinstance(source, list):  # one for every purpose, as older folders have it
                source = {entry["name"]: entry["template"] for entry in source}.get("default")
            if (root / "chat_template.jinja").is_file():
                source = (root / "chat_template.jinja").read_text(encoding="utf-8")
        except (OSError, UnicodeError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"the chat template of {root} cannot be read ({error!r}); expected jinja in "
                "chat_template.jinja or tokenizer_config.json: copy the file again"
            ) from error
        if not isinstance(source, str):
            return cls.pinned(bos)
        return cls(source=source, bos_token=bos, eos_token=token_text(config.get("eos_token")))

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

        Trained are an assistant's reasoning, its markers, the answer and the stop token: what the
        model writes itself. What a prompt ends with (the turn's opening, and what the template
        adds to it with thinking on or off) and all other turns are not, nor is a turn whose
        reasoning the template leaves out, as some do with earlier turns. `loss="last"` trains only
        the last assistant turn. The newline after the final stop token is left out: the stop token
        ends a document. Its text is otherwise what `render` returns.

        Raises DataError when the template leaves out a text, calls, tools or all reasoning.
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
                "the chat template rewrites what messages contain, expected one that writes them "
                "as they are or trimmed, or reasoning and answers cannot be found in its text; "
                "put such a chat_template.jinja into the tokenizer's folder (docs/guides/data.md)"
            )
        if lost := self._left_out(turns, tools, pieces):
            raise DataError(
                f"the chat template leaves out {lost}, expected one that writes all that a record "
                "holds; put such a chat_template.jinja into the tokenizer's folder "
                "(docs/guides/data.md), or take it out of the records"
            )
        openings = _openings(self)
        pieces = [part for piece in pieces for part in _split_opening(piece, openings)]
        first = 0
        if loss == "last":
            assistants = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
            first = max(assistants, default=0)
        shown = {piece.message for piece in pieces if piece.kind == "think"}
        rewritten = {i for i, turn in enumerate(turns) if turn.get("reasoning")} - shown
        return [
            (piece, piece.generated and piece.message >= first and piece.message not in rewritten)
            for piece in pieces
        ]

    def _left_out(
        self, turns: list[dict[str, Any]], tools: Tools | None, pieces: Sequence[Piece]
    ) -> str:
        """Return what a record holds and the template never writes, empty when it writes all."""
        if any(turn.get("reasoning") for turn in turns) and not _writes_reasoning(self):
            return "reasoning"
        written = {(piece.message, piece.text.strip()) for piece in pieces}
        generated = {piece.message for piece in pieces if piece.generated}
        for number, turn in enumerate(turns):
            content = turn["content"].strip()
            if content and (number, content) not in written:
                return f"the text of the {turn['role']}"
            if turn.get("tool_calls") and number not in generated:
                return "the text beside tool_calls (where a reply begins, even if it is empty)"
        named, named_tools, names = name_functions(turns, tools)
        text = self._render(named, False, True, named_tools) if names else ""
        return next((kind for name, kind in names.items() if name not in text), "")

    def _render(
        self, turns: list[dict[str, Any]], generate: bool, thinking: bool, tools: Tools | None
    ) -> str:
        return compile_template(self.source).render(
            messages=turns,
            add_generation_prompt=generate,
            enable_thinking=thinking,
            tools=clean_strings(list(tools)) if tools else None,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
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
        whole = self._render(turns, add_generation_prompt, thinking, tools)
        # Some templates trim contents, as Llama's and Gemma's do.
        trimmed = [replace(content, text=content.text.strip()) for content in contents]
        for own, line_ends in product((contents, trimmed), ("", "\n", "\n\n")):
            found = without_line_ends(split_at_sentinels(text, own), line_ends)
            if "".join(part if isinstance(part, str) else part.text for part in found) == whole:
                return _label(found, turns, not add_generation_prompt, self.eos_token)
        return None


def _label(
    parts: list[str | Content], turns: list[dict[str, Any]], is_document: bool, eos_token: str
) -> list[Piece]:
    """Say of every part what it is and who writes it. A document's replies must stop."""
    roles: list[SegmentRole] = [turn["role"] for turn in turns]
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
        stop = next((token for token in (IM_END, eos_token) if token and token in part), "")
        if stop or (after is not None and after.message == before.message):
            calls = str(turns[before.message].get("tool_calls") or "")
            own, rest = _after_assistant(part, before, stop, calls)
        elif is_document:
            raise _no_stop(eos_token)
        else:
            own, rest = [], part
        pieces.extend(own)
        if rest and not (last and is_document and rest == "\n"):
            pieces.append(Piece(rest, "markup", role, False, owner))
    if is_document and parts and isinstance(parts[-1], Content) and parts[-1].role == "assistant":
        raise _no_stop(eos_token)
    return pieces


def _no_stop(eos_token: str) -> DataError:
    return DataError(
        f"the chat template ends a reply without {IM_END} and without the tokenizer's eos_token "
        f"({eos_token or 'none'}), so the model would not learn to stop; name the token that ends "
        "a turn as eos_token in tokenizer_config.json, or train with another template"
    )


def _after_assistant(text: str, before: Content, stop: str, calls: str) -> tuple[list[Piece], str]:
    """Take apart what follows an assistant's text: its own close marker, calls and stop token.

    Also returns the rest, the next turn's opening, which the model does not write.
    """
    body = text.partition(stop)[0] if stop else text
    rest = text[len(body) + len(stop) :]
    close = ""
    if before.kind == "think" and THINK_CLOSE in body:
        end = body.find(THINK_CLOSE) + len(THINK_CLOSE)
        while body[end : end + 1] == "\n":
            end += 1
        close = body[:end]
    parts: list[tuple[str, Kind, str | None]] = [
        (close, "markup", None),
        (body[len(close) :], "answer", calls),
        (stop, "markup", None),
    ]
    return [
        Piece(part, kind, "assistant", True, before.message, own)
        for part, kind, own in parts
        if part
    ], rest


@lru_cache(maxsize=64)
def _openings(chat: ChatTemplate) -> tuple[str, ...]:
    """Return what prompts end with, thinking and not: what the template adds to ask for a reply."""
    turns = (Message("user", "U"),)
    try:
        told = chat.render(turns, add_generation_prompt=False)
        asked = {chat.render(turns, enable_thinking=thinking) for thinking in (True, False)}
    except DataError:  # it wants other turns first
        return ()
    added = {text.removeprefix(told) for text in asked if text.startswith(told)}
    return tuple(sorted(added - {""}))


@lru_cache(maxsize=64)
def _writes_reasoning(chat: ChatTemplate) -> bool:
    """Say whether the reasoning of a conversation's last turn is written, if only there."""
    try:
        text = chat.render((Message("user", "U"), Message("assistant", "A", "\ue0f0")), False)
    except DataError:  # it wants other turns first
        return True
    return "\ue0f0" in text


def _split_opening(piece: Piece, openings: Sequence[str]) -> list[Piece]:
    """Take off what stands between a prompt and the reply, such as `<think>`: the model writes it.

    Not where another prompt ends behind it.
    """
    if piece.kind != "markup" or piece.role != "assistant" or piece.generated:
        return [piece]
    found = [(piece.text.rfind(opening), opening) for opening in openings]
    end = max((at + len(opening) for at, opening in found if at >= 0), default=len(piece.text))
    parts = (piece.text[:end], False), (piece.text[end:], True)
    return [replace(piece, text=text, generated=own) for text, own in parts if text]


def encoded_parts(piece: Piece, tokenizer: TextTokenizer) -> list[str]:
    """Return the texts whose ids, joined, are the piece's ids: no part lets a marker in."""
    if piece.text == IM_END and piece.kind == "markup" and tokenizer.token_id(IM_END) is None:
        raise DataError(
            f"the chat template ends a reply with {IM_END}, which the tokenizer has no token for; "
            "give the model folder its own chat_template.jinja, or the tokenizer that token"
        )
    if piece.kind == "markup":
        return [piece.text]
    allowed = list(TOOL_MARKERS if piece.role == "assistant" else ())
    if piece.calls is not None:  # the template's own markers, but none that a call brings along
        allowed += [token for token in tokenizer.special_tokens if token not in piece.calls]
    return tokenizer.plain_parts(piece.text, allowed)


def _encode(piece: Piece, tokenizer: TextTokenizer) -> list[int]:
    return [token for part in encoded_parts(piece, tokenizer) for token in tokenizer.encode(part)]
