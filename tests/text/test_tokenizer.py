"""The tokenizer loads with clear errors, survives a round trip and cannot be injected into."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, FRAGMENTED, FRAGMENTS, MARKERS, backend
from tokenizers import Tokenizer, models

from openzaya.core.errors import CheckpointError
from openzaya.text.tokenizer import LONG_CHARS, TextTokenizer

texts = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from((*MARKERS, *FRAGMENTS, "<", "<|im_", "end|>"))),
    max_size=6,
).map("".join)


@settings(deadline=None, max_examples=60)
@given(text=texts)
def test_both_encodings_decode_to_the_text_and_plain_text_holds_no_special_token(text):
    for tokenizer in (BARE, FRAGMENTED):
        plain = tokenizer.encode_plain(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(plain) == text
        assert not tokenizer.special_ids.intersection(plain)
        loaded = {i for f in FRAGMENTS if "<" in f for i in [tokenizer.token_id(f)] if i}
        assert not loaded.intersection(plain)


def test_a_long_text_takes_the_way_on_which_other_threads_run(monkeypatch):
    batches = []
    original = TextTokenizer.encode_batch

    def encode_batch(self, texts):
        batches.append(len(texts))
        return original(self, texts)

    monkeypatch.setattr(TextTokenizer, "encode_batch", encode_batch)
    text = f"sort {MARKERS[0]} ba " * (LONG_CHARS // 8)
    for tokenizer in (BARE, FRAGMENTED):
        whole = tokenizer._backend.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == list(whole.ids)
        assert tokenizer.encode("sort ba")
    assert batches == [1, 1]


def test_markers_and_fragments_are_single_ids_in_trusted_text_only():
    assert FRAGMENTED.encode("<|im_end|>") == [FRAGMENTED.eos_id] == [MARKERS.index("<|im_end|>")]
    assert len(FRAGMENTED.encode_plain("<|im_end|>")) == len("<|im_end|>")
    assert len(FRAGMENTED.encode_plain("\n\nCandidate reasoning 1:\n")) == 1
    call = "<zyphra_tool_call>"
    assert len(FRAGMENTED.encode_plain(call, allow=(call,))) == 1
    assert len(FRAGMENTED.encode_plain(call + "<think>", allow=(call,))) == 1 + len("<think>")


def test_special_tokens_can_be_kept_or_skipped_when_decoding():
    ids = BARE.encode("a<|im_end|>")
    assert BARE.decode(ids) == "a<|im_end|>"
    assert BARE.decode(ids, skip_special=True) == "a"
    assert BARE.special_ids == {BARE.token_id(marker) for marker in MARKERS}


def test_the_last_tokens_are_a_suffix_and_leave_a_cut_character_out():
    assert BARE.last_tokens("abcdef", 2) == "ef"
    assert BARE.last_tokens("abc", 9) == "abc"
    assert BARE.last_tokens("abc", 0) == ""
    assert BARE.last_tokens("x\u20acy", 2) == "y"  # the euro sign has three bytes
    assert BARE.last_tokens("x\u20acy", 4) == "\u20acy"
    assert BARE.last_tokens("a<think>b", 3) == "k>b"  # markers in a trace are characters


def test_a_saved_tokenizer_loads_with_the_same_ids(tmp_path):
    FRAGMENTED.save(tmp_path)
    again = TextTokenizer.load(tmp_path)
    text = "hi<|im_end|>\n<|im_start|>assistant\n<think>\nx\n</think>\n\ny"
    assert again.encode(text) == FRAGMENTED.encode(text)
    assert (again.eos_id, again.vocab_size) == (FRAGMENTED.eos_id, FRAGMENTED.vocab_size)


def test_the_stop_token_comes_from_the_config_when_there_is_no_im_end(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    config = tmp_path / "tokenizer_config.json"
    for named in ("<eos>", {"content": "<eos>"}):
        config.write_text(json.dumps({"eos_token": named}))
        assert TextTokenizer.load(tmp_path).eos_id == 1
    config.unlink()
    with pytest.raises(CheckpointError, match="stop token is needed"):
        TextTokenizer.load(tmp_path)


def test_missing_and_broken_files_are_explained(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(backend().to_str())
    for broken in ("[1]", "{"):
        (tmp_path / "tokenizer_config.json").write_text(broken)
        with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
            TextTokenizer.load(tmp_path)


def test_the_hash_survives_a_save_and_tells_vocabularies_apart(tmp_path):
    FRAGMENTED.save(tmp_path)
    assert TextTokenizer.load(tmp_path).sha256 == FRAGMENTED.sha256
    assert TextTokenizer(backend(FRAGMENTS)).sha256 == FRAGMENTED.sha256
    assert BARE.sha256 != FRAGMENTED.sha256
