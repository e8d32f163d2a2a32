"""Chunks of a file hold every record once, whatever their size; damage is named."""

import gzip
import io
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import DataError
from openzaya.core.seeding import stream
from openzaya.data import sources
from openzaya.data.arrow import arrow_batches
from openzaya.data.sources import Fault, chunks_of, file_hash, rows_of

MOST = 1 << 20


def read(place, chunk_bytes=64, most=MOST):
    chunks = chunks_of("s", str(place), chunk_bytes)
    return [row.value for chunk in chunks for row in rows_of(chunk, most)]


@settings(deadline=None, max_examples=80)
@given(
    words=st.lists(st.text(max_size=30), max_size=12),
    chunk_bytes=st.integers(1, 200),
    closed=st.booleans(),
    blank=st.booleans(),
)
def test_every_line_is_read_once_and_in_order(tmp_path_factory, words, chunk_bytes, closed, blank):
    file = tmp_path_factory.mktemp("lines") / "a.jsonl"
    separator = "\n\n" if blank else "\n"
    body = separator.join(json.dumps({"text": word}) for word in words)
    file.write_text(body + "\n" * closed, encoding="utf-8")
    chunks = chunks_of("s", str(file), chunk_bytes)
    assert sum(chunk.weight_bytes for chunk in chunks) == file.stat().st_size
    rows = [row for chunk in chunks for row in rows_of(chunk, MOST)]
    assert [row.value["text"] for row in rows] == words
    raw = file.read_bytes()
    assert all(raw[row.place :].startswith(json.dumps(row.value).encode()) for row in rows)


def test_lines_that_cannot_be_read_are_faults_and_their_neighbors_are_not(tmp_path):
    file = tmp_path / "a.jsonl"
    good = b'{"text": "x"}\n'
    bad = {
        b'{"text": "\xff"}\n': "invalid UTF-8",
        b'{"text": "\\ud800"}\n': "invalid UTF-8",
        b'{"text"\n': "invalid JSON",
        b"[" * 200_000 + b"\n": "invalid JSON",
        b'{"text": "' + b"y" * 300_000 + b'"}\n': "line too long",
    }
    file.write_bytes(good + good.join(bad) + good)
    for chunk_bytes in (10_000, 1 << 30):
        values = read(file, chunk_bytes, most=250_000)
        assert values[::2] == [{"text": "x"}] * 6
        assert [value.reason for value in values[1::2]] == list(bad.values())
        assert all(isinstance(v, Fault) and len(v.excerpt) <= 900 for v in values[1::2])


def test_a_line_longer_than_many_chunks_is_read_once(tmp_path, monkeypatch):
    """A large array that somebody calls jsonl; each chunk looked for its end."""
    file = tmp_path / "a.jsonl"
    line = json.dumps([{"text": "x"}] * 2_000).encode()
    file.write_bytes(line + b'\n{"text": "y"}\n')
    read_bytes = 0

    class Counted(io.BytesIO):
        def readline(self, size=-1):
            nonlocal read_bytes
            found = super().readline(size)
            read_bytes += len(found)
            return found

    monkeypatch.setattr(sources, "_open", lambda name: Counted(Path(name).read_bytes()))
    for most in (100, 1 << 20):
        read_bytes = 0
        values = read(file, chunk_bytes=64, most=most)
        assert values[-1] == {"text": "y"}
        assert len(values) == 2
        assert read_bytes < 3 * len(line)


def test_the_longest_line_allowed_is_read(tmp_path):
    file = tmp_path / "a.jsonl"
    line = json.dumps({"text": "x" * 40})
    file.write_text(line + "\n" + line)
    assert [type(value) for value in read(file, 1 << 20, most=len(line))] == [dict, dict]
    assert [type(value) for value in read(file, 1 << 20, most=len(line) - 1)] == [Fault, Fault]


def test_a_folder_is_read_in_the_order_of_names_and_gzip_like_plain_lines(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jsonl").write_text('{"text": "2"}\n')
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"text": "0"}\n{"text": "1"}\n')
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / "cache-1.arrow").write_text("no data")
    assert [value["text"] for value in read(tmp_path)] == ["0", "1", "2"]


def test_marks_line_ends_and_json_files_of_either_kind_are_read(tmp_path):
    expected = [{"text": "x"}, {"text": "y"}]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n{"text": "y"}\r\n')
    (tmp_path / "b.json").write_text(json.dumps(expected, indent=1), encoding="utf-8-sig")
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(b'{"text": "x"}\n{"text": "y"}\n'))
    for name in ("a.jsonl", "b.json", "c.json.gz"):
        assert read(tmp_path / name) == expected
    (tmp_path / "b.json").write_text('[{"text": "\\ud800"}, {"text": "\\u00e9"}]')
    fault, value = read(tmp_path / "b.json")
    assert (fault.reason, value) == ("invalid UTF-8", {"text": "\u00e9"})
    (tmp_path / "b.json").write_text('[{"text": "x"}, ')
    with pytest.raises(DataError, match=r"b\.json is damaged"):
        read(tmp_path / "b.json")


def test_a_json_file_may_hold_one_record_or_lines_of_which_the_first_is_damaged(tmp_path):
    file = tmp_path / "a.json"
    record = {"messages": [{"role": "user", "content": "\u00e9"}]}
    for body in (json.dumps(record, indent=1), "\n\n" + json.dumps(record)):
        file.write_text(body)
        assert read(file) == [record]
    file.write_text('{"text": "x",\n{"text": "y"}\n')
    fault, value = read(file)
    assert (fault.reason, value) == ("invalid JSON", {"text": "y"})
    file.write_text("")
    assert read(file) == []


def test_zstandard_is_read_like_plain_lines(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    lines = b'{"text": "x"}\n{"text": "y"}\n'
    packed = arrow.compress(lines, codec="zstd", asbytes=True)
    (tmp_path / "a.jsonl.zst").write_bytes(packed + packed)
    assert read(tmp_path) == [{"text": "x"}, {"text": "y"}] * 2
    (tmp_path / "a.jsonl.zst").write_bytes(packed[:-4])
    with pytest.raises(DataError, match="is damaged"):
        read(tmp_path)


def test_patterns_are_expanded_and_hidden_files_and_descriptions_are_no_data(tmp_path):
    no_data = ("x/state.json", "config.json", "x/d.txt", "x/__MACOSX/y.jsonl")
    for name in ("x/a.jsonl", "x/y/b.jsonl", ".ipynb_checkpoints/a.jsonl", *no_data):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    both = [{"text": "x/a.jsonl"}, {"text": "x/y/b.jsonl"}]
    assert read(tmp_path) == both
    assert read(f"{tmp_path}/**/*") == both
    assert read(f"{tmp_path}/x/*.jsonl") == both[:1]


def test_what_is_held_out_is_not_read_along_with_what_is_trained(tmp_path):
    names = ("data/train-0.jsonl", "data/test-0.jsonl", "latest/contest.jsonl", "more/a.jsonl")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    for place in (tmp_path, f"{tmp_path}/data/*"):
        with pytest.raises(DataError, match=r"\(.*train-0\.jsonl and .*test-0\.jsonl\); name what"):
            read(place)
    assert read(f"{tmp_path}/**/*train*") == [{"text": names[0]}]
    assert read(f"{tmp_path}/data/test*") == [{"text": names[1]}]
    (tmp_path / names[1]).rename(tmp_path / "data" / "attest-0.jsonl")
    assert len(read(tmp_path)) == 4


def test_a_file_on_the_web_is_not_listed(monkeypatch):
    class Web:
        protocol = ("http", "https")

    monkeypatch.setattr(sources, "_package", lambda _: Core)

    class Core:
        @staticmethod
        def url_to_fs(place):
            return Web, place

    assert sources._files("https://host/a.jsonl") == ["https://host/a.jsonl"]


def test_a_damaged_file_or_one_that_changed_is_named(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b'{"text": "x"}\n' * 1_000)
    file.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is damaged .*fetch it again"):
        read(file)
    plain = tmp_path / "b.jsonl"
    plain.write_text('{"text": "x"}\n')
    (chunk,) = chunks_of("s", str(plain), 64)
    plain.write_text('{"text": "xy"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl changed since the plan"):
        list(rows_of(chunk, MOST))


def test_flipped_bits_in_a_table_are_told_or_read(tmp_path):
    """Sizes with flipped bits bring about errors of Python itself, such as SystemError."""
    arrow = pytest.importorskip("pyarrow")
    turns = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]
    file = tmp_path / "a.feather"
    pytest.importorskip("pyarrow.feather").write_feather(arrow.table({"messages": turns}), file)
    whole, rng, told = file.read_bytes(), stream(1, "flips"), 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        try:
            read(file)
        except DataError:
            told += 1
    assert 0 < told < 150
    places = arrow.py_buffer(struct.pack("<3i", 0, 1 << 20, 2))  # of two texts of a letter each
    texts = arrow.StringArray.from_buffers(2, places, arrow.py_buffer(b"xy"))
    with arrow.ipc.new_file(file, arrow.schema([("text", arrow.string())])) as writer:
        writer.write_batch(arrow.record_batch([texts], names=["text"]))
    with pytest.raises(DataError, match=r"is damaged .*[Oo]ffset"):
        read(file)


def test_nothing_to_read_and_unknown_formats_are_refused(tmp_path):
    for name in ("none", "."):
        with pytest.raises(DataError, match="has nothing to read"):
            chunks_of("s", str(tmp_path / name), 64)
    with pytest.raises(DataError, match="hf://datasets/openai/gsm8k for a data set of the Hub"):
        chunks_of("s", "openai/gsm8k", 64)
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"a\.csv has no known format"):
        chunks_of("s", str(tmp_path / "a.csv"), 64)


def test_a_url_that_cannot_be_reached_is_named():
    pytest.importorskip("fsspec")
    with pytest.raises(DataError, match=r"nowhere://x/y cannot be reached .*Protocol not known"):
        chunks_of("x", "nowhere://x/y", 100)


def test_a_url_is_read_through_fsspec(tmp_path):
    pytest.importorskip("fsspec")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    for place in (f"file://{tmp_path}", f"file://{tmp_path}/a.jsonl"):
        assert read(place, 5) == [{"text": "x"}, {"text": "y"}]
    hashes = {file_hash(str(tmp_path / "a.jsonl")), file_hash(f"file://{tmp_path}/a.jsonl")}
    assert len(hashes) == 1


def test_a_remote_file_that_changed_but_kept_its_size_is_noticed():
    memory = pytest.importorskip("fsspec").filesystem("memory")
    place = "memory://changing/a.jsonl"
    memory.pipe(place, b'{"text": "x"}\n')
    (chunk,) = chunks_of("s", place, 64)
    assert chunks_of("s", place, 64) == [chunk]
    assert [row.value for row in rows_of(chunk, MOST)] == [{"text": "x"}]
    memory.pipe(place, b'{"text": "y"}\n')
    assert chunks_of("s", place, 64) != [chunk]
    with pytest.raises(DataError, match="changed since the plan"):
        list(rows_of(chunk, MOST))
    memory.rm(place)
    with pytest.raises(DataError, match="cannot be reached"):
        list(rows_of(chunk, MOST))


def test_the_version_of_a_remote_file_is_its_etag_where_there_is_one(monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("memory://tagged/a.jsonl", b"{}\n")
    info = type(memory).info
    tags = {"ETag": '"0f"'}
    monkeypatch.setattr(type(memory), "info", lambda self, path: {**info(self, path), **tags})
    (chunk,) = chunks_of("s", "memory://tagged/a.jsonl", 64)
    assert chunk.version == '"0f"'


@pytest.mark.parametrize("chunk_bytes", [1, 4_000, 1 << 30])
def test_parquet_rows_come_back_whatever_the_chunks(tmp_path, chunk_bytes):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}], "n": i} for i in range(50)]
    parquet.write_table(table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    chunks = chunks_of("s", str(tmp_path), chunk_bytes)
    found = [row for chunk in chunks for row in rows_of(chunk, MOST)]
    assert [row.value for row in found] == rows
    assert [row.place for row in found] == list(range(50))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="no readable parquet file"):
        chunks_of("s", str(tmp_path), chunk_bytes)


def test_a_folder_saved_by_datasets_is_read_and_a_bad_row_spares_its_neighbors(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    texts = arrow.array([b"x", b"\xff", b"z"]).view(arrow.string())
    table = arrow.table({"text": texts})
    with arrow.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "dataset_info.json").write_text("{}")
    assert read(tmp_path) == [{"text": "x"}, Fault("invalid UTF-8", ""), {"text": "z"}]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_files_of_arrow_and_feather_are_read_in_small_batches(tmp_path, compression):
    arrow = pytest.importorskip("pyarrow")
    rows = [{"text": f"{number}"} for number in range(1_000)]
    table = arrow.Table.from_pylist(rows)
    options = arrow.ipc.IpcWriteOptions(compression=compression)
    for name in ("a.arrow", "a.feather"):
        with arrow.ipc.new_file(tmp_path / name, table.schema, options=options) as writer:
            writer.write_table(table)
        assert read(tmp_path / name) == rows
        with (tmp_path / name).open("rb") as stream:
            assert max(batch.num_rows for batch in arrow_batches(stream)) == 256
        (tmp_path / name).write_bytes(b"ARROW1 and nothing else")
        with pytest.raises(DataError, match="is damaged"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_columns_that_nobody_asked_for_are_not_read(tmp_path, name):
    """Dates in nanoseconds or out of Python's range, as pandas writes them, ended the run."""
    arrow = pytest.importorskip("pyarrow")
    ever = arrow.array([1, 1 << 62], arrow.timestamp("us"))
    table = arrow.table({"text": ["x", "y"], "at": ever, "note": ["m", "n"]})
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / name)
    else:
        pytest.importorskip("pyarrow.feather").write_feather(table, tmp_path / name)
    (chunk,) = chunks_of("s", str(tmp_path), MOST)
    rows = [row.value for row in rows_of(chunk, MOST, {"text", "messages"})]
    assert rows == [{"text": "x"}, {"text": "y"}]
    for fields in ((), {"messages"}):  # without a known column, all are shown
        with pytest.raises(DataError, match=r"is damaged or cannot be read .*out of range"):
            list(rows_of(chunk, MOST, fields))
