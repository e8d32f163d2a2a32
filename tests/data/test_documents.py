"""Documents cover their tokens; a corpus on disk gives them back and notices damage."""

import json
from pathlib import Path

import numpy as np
import pytest
from data.made_documents import conversation, conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import DataError
from openzaya.data.documents import load_corpus, save_corpus
from openzaya.text.document import Document, DocumentBuilder, Segment, text_document


def same(left, right):
    return (
        left.segments == right.segments
        and left.source == right.source
        and left.tokens.tolist() == right.tokens.tolist()
    )


def test_a_segment_table_that_does_not_cover_the_tokens_is_refused():
    tokens = np.arange(4, dtype=np.int32)
    for table in ([(0, 3)], [(0, 2), (3, 1)], [(0, 3), (2, 2)], [(0, 4), (4, 0)], []):
        segments = tuple(Segment("text", "document", start, n, True) for start, n in table)
        with pytest.raises(DataError, match="DocumentBuilder"):
            Document(tokens, segments, "web")


def test_the_builder_joins_like_pieces_and_skips_empty_ones():
    builder = DocumentBuilder("chat")
    builder.add([1], "text", "user", loss=False)
    builder.add([], "think", "assistant", loss=True)
    builder.add([2, 3], "text", "user", loss=False)
    builder.add([4], "text", "user", loss=True)
    document = builder.build()
    assert [(s.start, s.length, s.loss) for s in document.segments] == [(0, 3, False), (3, 1, True)]
    assert document.loss_mask().tolist() == [False] * 3 + [True]
    with pytest.raises(DataError, match="no tokens"):
        DocumentBuilder("chat").build()


@settings(deadline=None, max_examples=20)
@given(documents=st.lists(conversations, min_size=1, max_size=4))
def test_a_corpus_gives_its_documents_back(tmp_path_factory, documents):
    documents.append(text_document([7, 8], "web"))
    folder = tmp_path_factory.mktemp("corpus")
    fingerprint = save_corpus(folder, documents)
    corpus = load_corpus(folder, verify=True)
    assert len(corpus) == len(documents)
    assert all(same(a, b) for a, b in zip(corpus, documents, strict=True))
    assert same(corpus[0], documents[0])
    assert same(corpus[-1], documents[-1])
    assert same(corpus[-len(documents)], documents[0])
    assert len(corpus[1:]) == len(documents) - 1
    with pytest.raises(IndexError):
        corpus[len(documents)]
    with pytest.raises(IndexError):
        corpus[-len(documents) - 1]
    assert corpus.fingerprint == fingerprint
    assert isinstance(corpus.tokens, np.memmap)
    assert save_corpus(tmp_path_factory.mktemp("again"), documents) == fingerprint


def test_the_fingerprint_sees_tokens_loss_and_source(tmp_path):
    def fingerprint(name, ids=(1, 2), loss=True, source="web"):
        builder = DocumentBuilder(source)
        builder.add(ids, "text", "document", loss=loss)
        return save_corpus(tmp_path / name, [builder.build()])

    prints = [
        fingerprint("a"),
        fingerprint("b", ids=(1, 3)),
        fingerprint("c", loss=False),
        fingerprint("d", source="code"),
    ]
    assert len(set(prints)) == 4


def test_many_corpora_do_not_hold_as_many_files_open(tmp_path):
    save_corpus(tmp_path, [text_document([7, 8], "web")])
    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    corpora = [load_corpus(tmp_path) for _ in range(200)]
    assert all(corpus[0].tokens.tolist() == [7, 8] for corpus in corpora)
    assert len(list(files.iterdir())) < before + 100


def test_damage_is_noticed_and_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "corpus"
    save_corpus(folder, [conversation([(1, [3], 2)])])
    with pytest.raises(DataError, match="already holds"):
        save_corpus(folder, [text_document([1], "web")])
    tokens = bytearray((folder / "tokens.npy").read_bytes())
    tokens[-4] ^= 1
    (folder / "tokens.npy").write_bytes(tokens)
    load_corpus(folder)
    with pytest.raises(DataError, match="does not match its fingerprint"):
        load_corpus(folder, verify=True)
    np.save(folder / "tokens.npy", np.arange(2, dtype=np.int32))
    with pytest.raises(DataError, match="do not describe its 2 tokens"):
        load_corpus(folder)
    meta = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        load_corpus(folder)
    (folder / "segments.npy").unlink()
    with pytest.raises(DataError, match="cannot be read as a corpus"):
        load_corpus(folder)
    with pytest.raises(DataError, match="no documents"):
        save_corpus(tmp_path / "empty", [])


def flip(path, at, bit=1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= bit
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "at", "bit"),
    [
        ("segments.npy", 128, 64),  # a kind that there is not
        ("segments.npy", 128 + 4, 64),  # a role
        ("segments.npy", 128 + 8, 1),  # a length
        ("segments.npy", 128 + 12, 2),  # neither trained nor not
        ("documents.npy", 128 + 24, 1),  # where the second document begins
        ("documents.npy", 128 + 32, 1),  # its first segment
        ("documents.npy", 128 + 34, 1),  # the same, far behind the last
        ("documents.npy", 128 + 16, 1),  # a data set that there is not
        ("documents.npy", 62, 1),  # the header: numpy's own errors are of many kinds
        ("tokens.npy", 10, 1),
        ("corpus.json", 4, 1),  # the name of a field
    ],
)
def test_a_flipped_bit_in_what_tells_documents_apart_is_noticed_at_once(tmp_path, name, at, bit):
    save_corpus(tmp_path, [conversation([(1, [3], 2)]), text_document([7, 8], "chat")])
    load_corpus(tmp_path)
    flip(tmp_path / name, at, bit)
    with pytest.raises(DataError, match="prepare the data again"):
        load_corpus(tmp_path)


def test_a_corpus_that_is_replaced_while_it_is_read_is_noticed(tmp_path):
    for number in range(2):
        save_corpus(tmp_path / f"{number}", [text_document([number, 8], "web")])
    corpus, read_before = load_corpus(tmp_path / "0"), load_corpus(tmp_path / "0")
    assert read_before[0].tokens.tolist() == [0, 8]
    (tmp_path / "0").rename(tmp_path / "gone")
    (tmp_path / "1").rename(tmp_path / "0")
    with pytest.raises(DataError, match="was replaced while it was read"):
        corpus[0]
    assert read_before[0].tokens.tolist() == [0, 8]  # it holds the old file
    (tmp_path / "0" / "tokens.npy").unlink()
    with pytest.raises(DataError, match="was replaced while it was read"):
        corpus[0]
