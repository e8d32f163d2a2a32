"""Tokenizing by cached words gives the ids of tokenizing whole texts."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, MARKERS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from openzaya.text import bulk
from openzaya.text.bulk import BulkTokenizer
from openzaya.text.tokenizer import TextTokenizer

TRAINING = [
    "the cat's tail!\n\nIt  was 1234 long,\n\tsaid  the\u00a0dog... \u00e9t\u00e9 \u4e2d"
] * 3
PATTERNS = sorted(bulk._LATER_PATTERNS)


def learnt(pattern=None, tokens=()):
    """Return a tokenizer with merges over white space, letters, numbers and punctuation."""
    backend = Tokenizer(models.BPE())
    if pattern is None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    glued = ["!\n\n", ".\n \n", "a!\n", " !\n", "  \n", "\n  ", " \n\n", "\x1c!", "!\x1c", "a\x85 "]
    glued += ["\u3002\n", "\u3002\n\n", "f\u00e9", "1\u0663", "!\n \n"]
    backend.train_from_iterator(TRAINING + [f"x{g}y{g}" * 99 for g in glued], trainer)
    backend.add_tokens(list(tokens))
    return TextTokenizer(backend)


TOKENIZERS = [learnt(), *(learnt(pattern) for pattern in PATTERNS)]
WHITE = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\x85", "\x1c", "\u2028", "\u3000", "\n    "]
MARKS = ["!", "...", "'s", "'", "(", "_", "\u3002", "\u0301", "\x00", "<think>", "\U0001f600"]
WORDS = [
    "a",
    "the",
    " caf\u00e9",
    "cat",
    "A",
    "1",
    "2345",
    "\u00e9",
    "e\u0301",
    "\u4e2d",
    "\u0663",
    "\u00b2",
]
letters = st.sampled_from([*WHITE, *MARKS, *WORDS])
texts = st.lists(letters, max_size=14).map("".join)


@pytest.mark.parametrize("number", range(len(TOKENIZERS)))
@settings(deadline=None, max_examples=300)
@given(batches=st.lists(st.lists(texts, max_size=4), min_size=1, max_size=3))
def test_known_patterns_are_cut_without_changing_an_id(number, batches):
    tokenizer = TOKENIZERS[number]
    together = BulkTokenizer(tokenizer)
    assert together.cuts
    for batch in batches:  # the later ones find words in the cache
        assert together.encode_batch(batch) == [tokenizer.encode(text) for text in batch]


@settings(deadline=None, max_examples=200)
@given(text=st.lists(letters | st.sampled_from(["a b", "x", "<m>"]), max_size=10).map("".join))
def test_added_tokens_are_found_where_the_tokenizer_finds_them(text):
    tokens = [AddedToken("a b"), AddedToken("!\n a"), AddedToken("<m>", lstrip=True, rstrip=True)]
    tokens.append(AddedToken("x", single_word=True))
    tokenizer = ADDED.setdefault("it", learnt(None, tokens))
    assert BulkTokenizer(tokenizer).encode_batch([text]) == [tokenizer.encode(text)]


ADDED = {}


def test_other_tokenizers_get_whole_texts():
    assert not BulkTokenizer(BARE).cuts
    assert BulkTokenizer(BARE).encode_batch(["a b", ""]) == [BARE.encode("a b"), []]
    known = learnt().definition()
    assert bulk.safe_pieces(known)
    byte_level = known["pre_tokenizer"]
    for change in (
        {"normalizer": {"type": "Lowercase"}},
        {"model": {**known["model"], "dropout": 0.1}},
        {"model": {**known["model"], "type": "Unigram"}},
        {"model": {**known["model"], "end_of_word_suffix": "</w>"}},
        {"pre_tokenizer": {**byte_level, "add_prefix_space": True}},
        {"pre_tokenizer": {**byte_level, "use_regex": False}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
    ):
        assert bulk.safe_pieces({**known, **change}) is None
    split = learnt(PATTERNS[0]).definition()
    assert bulk.safe_pieces(split)
    split["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": ".+"}
    assert bulk.safe_pieces(split) is None


def test_the_cache_stays_small(monkeypatch):
    monkeypatch.setattr(bulk, "_CACHED_PIECES", 40)
    tokenizer = TOKENIZERS[0]
    together = BulkTokenizer(tokenizer)
    for start in range(0, 300, 20):
        batch = [f"w{number} {'y' * 99}" for number in range(start, start + 20)]
        assert together.encode_batch(batch) == [tokenizer.encode(text) for text in batch]
        assert len(together._ids) <= 40
    assert not any(len(piece) > 48 for piece in together._ids)
    assert sys.getsizeof(together._ids) < 10_000
