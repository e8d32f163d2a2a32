"""Tokens as bytes, and text that was made to waste time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, FRAGMENTED
from tokenizers import AddedToken, Tokenizer, decoders, models

from openzaya.text.chat import ChatTemplate
from openzaya.text.markers import THINK_OPEN, strip_markers
from openzaya.text.tokenizer import TextTokenizer


def gemma_like() -> TextTokenizer:
    """Return a tokenizer that writes spaces as U+2581 and rare characters as bytes."""
    names = ["<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581the", "a", "\n"]
    backend = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=[]))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    return TextTokenizer(backend, {"eos_token": "<eos>"})


@given(text=st.text())
@pytest.mark.parametrize("tokenizer", [BARE, FRAGMENTED], ids=["bare", "fragments"])
def test_the_bytes_of_all_tokens_are_the_text(tokenizer, text):
    ids = [*tokenizer.encode_plain(text), *tokenizer.encode("<think>\n</think>\n\n")]
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert joined == tokenizer.decode(ids) == text + "<think>\n</think>\n\n"


def test_spaces_and_byte_tokens_of_sentencepiece_vocabularies():
    tokenizer = gemma_like()
    ids = [tokenizer.token_id(t) for t in ("a", "\u2581the", "<0xE2>", "<0x82>", "<0xAC>", "\n")]
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert joined == tokenizer.decode(ids) == "a the\u20ac\n"


def test_an_id_without_a_token_adds_nothing():
    assert BARE.token_bytes(100_000) == b""


def test_deeply_nested_markers_go_in_linear_time():
    """Unbounded, this many passes take minutes."""
    depth = 20_000
    text = "<thi" * depth + THINK_OPEN + "nk>" * depth
    began = time.process_time()
    assert "<think>" not in strip_markers(text)
    assert time.process_time() - began < 1
    assert strip_markers("a <thi<think>nk> < b") == "a  < b"


def test_private_use_characters_in_tools_break_nothing():
    wicked = "\ue0f0" + "9" * 5000 + "\ue0f1 \ue0f00\ue0f1"
    tools = [{"type": "function", "function": {"name": "f", "description": wicked}}]
    messages = [{"role": "user", "content": "hello <think>"}]
    ids = ChatTemplate.pinned().encode_prompt(messages, BARE, tools=tools)
    assert ids.count(BARE.token_id("<think>")) == 1  # the template's own
