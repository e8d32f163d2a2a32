"""A prepared folder depends on sources and settings alone: not on processes, not on kills."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from text.tiny_tokenizers import BARE

from openzaya.core.errors import ConfigError, DataError, OpenZayaError
from openzaya.core.seeding import stream
from openzaya.data.ap_trim import ap_trim
from openzaya.data.documents import Corpus, save_corpus
from openzaya.data.prepare import PrepareConfig, prepare
from openzaya.data.shards import load_prepared
from openzaya.text.chat import ChatTemplate
from openzaya.text.document import DocumentBuilder

SMALL = PrepareConfig(chunk_bytes=2_000, contexts=(60, 4_096))
SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def model(tmp_path):
    BARE.save(tmp_path / "model")
    return tmp_path / "model"


def turns(rng):
    letters = "abcdefgh \n"
    messages = []
    for _ in range(rng.randint(1, 3)):
        text, thought, reply = ("".join(rng.choices(letters, k=rng.randint(3, 60))) for _ in "abc")
        messages.append({"role": "user", "content": f"q{text}"})
        reasoning = f"r{thought}r" if rng.random() < 0.7 else ""
        messages.append({"role": "assistant", "content": f"a{reply}", "reasoning": reasoning})
    return messages


def write_sources(folder, count=60):
    rng = stream(3, "sources")
    conversations = [turns(rng) for _ in range(count)]
    texts = [f"text {i} {'x' * rng.randint(0, 90)}" for i in range(count)]
    chat, web = folder / "chat.jsonl", folder / "web.jsonl"
    chat.write_text("".join(json.dumps({"messages": m}) + "\n" for m in conversations))
    web.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return {"chat": str(chat), "web": str(web)}, conversations, texts


def result(folder):
    """Return the bytes of every file but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_documents_come_back_in_order_with_their_masks_and_sources(tmp_path, model):
    sources, conversations, texts = write_sources(tmp_path)
    prepare(tmp_path / "out", sources, model, SMALL)
    prepared = load_prepared(tmp_path / "out", verify=True)
    assert len(prepared) == len(conversations) + len(texts) == 120
    assert len(prepared.shards) > 10
    chat = ChatTemplate.pinned()
    for document, messages in zip(prepared, conversations, strict=False):
        expected = chat.encode_turns(messages, BARE, "chat")
        assert document.tokens.dtype == np.int32
        assert document.tokens.tolist() == expected.tokens.tolist()
        assert document.segments == expected.segments
        assert document.source == "chat"
        assert document.loss_mask().tolist() == expected.loss_mask().tolist()
    assert prepared[-1].source == "web"
    assert BARE.decode(prepared[-1].tokens.tolist()) == texts[-1] + "<|im_end|>"
    assert [len(document) for document in prepared[60:]] == prepared.lengths()[60:].tolist()
    assert prepared.shards[0].tokens.dtype == np.uint16
    with pytest.raises(IndexError):
        prepared[120]


def test_the_number_of_processes_changes_no_byte(tmp_path, model):
    sources, *_ = write_sources(tmp_path, 20)
    for out, workers in (("one", 1), ("two", 2)):
        prepare(tmp_path / out, sources, model, SMALL, workers=workers)
    assert result(tmp_path / "one") == result(tmp_path / "two")


CHILD = """
import json, sys
from openzaya.data.prepare import PrepareConfig, prepare
if __name__ == "__main__":
    out, sources, model, workers = sys.argv[1:]
    config = PrepareConfig(chunk_bytes=2_000, contexts=(60, 4_096))
    prepare(out, json.loads(sources), model, config, workers=int(workers),
            report=lambda progress: print(progress.done_bytes, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_any_moment_continues_to_the_same_bytes(tmp_path, model, workers):
    sources, *_ = write_sources(tmp_path, 240)  # so much that no kill comes after the end
    prepare(tmp_path / "whole", sources, model, SMALL)
    child, out = tmp_path / "child.py", tmp_path / "out"
    child.write_text(CHILD)
    command = [sys.executable, str(child), str(out), json.dumps(sources), str(model), str(workers)]
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    rng = stream(workers, "kill")
    kept = {}
    for lines in (1, 2, 4):
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(len(kept) + lines):
                process.stdout.readline()
            time.sleep(rng.random() * 0.01)
            process.send_signal(signal.SIGKILL)
        assert not (out / "manifest.json").exists()
        finished = {p: p.stat().st_ino for p in out.glob("shards/[0-9]*/tokens.npy")}
        assert len(finished) > len(kept)
        assert kept.items() <= finished.items()  # not made again
        kept = finished
    (out / "shards" / ".00099.1").mkdir()  # what a kill in the middle of a write leaves behind
    wait_until_unlocked(out, sources, model)
    assert kept.items() <= {p: p.stat().st_ino for p in out.glob("shards/*/tokens.npy")}.items()
    assert result(out) == result(tmp_path / "whole")


@pytest.mark.parametrize(
    ("numbers", "code"), [([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGTERM], 143)]
)
def test_a_stopped_run_ends_its_busy_workers_and_says_how_to_go_on(tmp_path, model, numbers, code):
    """`timeout` sends its signal twice: to the process and to its group."""
    sources, *_ = write_sources(tmp_path, 20)
    out, places = tmp_path / "out", [f"{name}={place}" for name, place in sources.items()]
    command = [sys.executable, "-m", "openzaya", "data", "prepare", str(out), *places, "-j", "2"]
    command += ["--tokenizer", str(model), "--set", "chunk_bytes=2000", "--set", "contexts=60,4096"]
    stuck = out / "shards" / "00001"  # a worker waits in it for ever
    stuck.mkdir(parents=True)
    os.mkfifo(stuck / "shard.json")
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            with (stuck / "shard.json").open("w"):  # opens when the worker does
                for number in numbers:
                    process.send_signal(number)
                _, told = process.communicate(timeout=60)  # its workers have stderr open as well
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code
    assert f"finished chunks are kept in {out}: the same command goes on" in told
    assert "Traceback" not in told
    assert "leaked" not in told
    (stuck / "shard.json").unlink()
    stuck.rmdir()
    prepare(out, sources, model, SMALL)
    prepare(tmp_path / "whole", sources, model, SMALL)
    assert result(out) == result(tmp_path / "whole")


def wait_until_unlocked(out, sources, model):
    """Prepare; workers of a killed run may need a moment to notice."""
    for _ in range(100):
        try:
            prepare(out, sources, model, SMALL)
            return
        except DataError as error:
            if "another run" not in str(error):
                raise
            time.sleep(0.1)
    pytest.fail("the lock was never given back")


def test_bad_records_are_counted_quarantined_and_beyond_a_share_stop_the_run(tmp_path, model):
    file = tmp_path / "a.jsonl"
    lines = [b'{"text": "fine"}', b"{", b'{"text": "\xff"}', b'{"text": ""}', b'{"id": 1}'] * 6
    file.write_bytes(b"\n".join([*lines, b'{"text": "%s"}' % (b"y" * 99)]))
    strict = PrepareConfig(max_tokens=50)
    with pytest.raises(DataError, match=r"25 of 31 records are bad, expected at most 20: .*\(6\)"):
        prepare(tmp_path / "out", {"a": str(file)}, model, strict)
    assert not (tmp_path / "out" / "manifest.json").exists()
    done = (tmp_path / "out" / "shards" / "00000").stat().st_ino
    loose = PrepareConfig(max_tokens=50, max_bad_share=0.9)
    card = prepare(tmp_path / "out", {"a": str(file)}, model, loose)
    assert (tmp_path / "out" / "shards" / "00000").stat().st_ino == done
    reasons = {reason.partition(":")[0]: n for reason, n in card["sources"]["a"]["bad"].items()}
    assert reasons == {
        "empty text": 6,
        "invalid JSON": 6,
        "invalid UTF-8": 6,
        "unknown shape": 6,
        "too many tokens": 1,
    }
    bad = [
        json.loads(line)
        for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert len(bad) == 25
    (tmp_path / "out" / "shards" / "00000" / "bad.jsonl").write_bytes(b"\xff")  # bit rot
    assert prepare(tmp_path / "out", {"a": str(file)}, model, loose) == card
    assert [entry["place"] for entry in bad] == sorted(entry["place"] for entry in bad)
    assert bad[0] == {
        "source": "a",
        "file": str(file),
        "place": 17,
        "reason": "invalid JSON",
        "excerpt": "{",
    }
    assert len(load_prepared(tmp_path / "out")) == 6


def test_the_card_counts_what_the_documents_say(tmp_path, model):
    sources, *_ = write_sources(tmp_path)
    card = prepare(tmp_path / "out", sources, model, SMALL)
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card
    prepared = load_prepared(tmp_path / "out")
    chats = [document for document in prepared if document.source == "chat"]
    found = card["sources"]["chat"]
    assert found["documents"] == len(chats)
    assert found["tokens"] == sum(map(len, chats))
    assert found["trained_tokens"] == sum(int(d.loss_mask().sum()) for d in chats)
    assert found["length_quantiles"]["1"] == max(map(len, chats))
    assert found["length_quantiles"]["0"] == min(map(len, chats))
    trimmed = [ap_trim(document, 60) for document in chats]
    counts = found["trim"]["60"]
    for rule in ("whole", "cut_last", "drop_prior"):
        assert counts[rule] == sum(t is not None and t.rule == rule for t in trimmed)
    assert counts["dropped"] == sum(t is None for t in trimmed) > 0
    assert counts["kept_tokens"] == sum(t.length for t in trimmed if t)
    assert card["sources"]["web"]["trim"]["60"]["split"] > 0
    shown = (tmp_path / "out" / "DATA_CARD.md").read_text()
    assert f"{found['tokens']:,} tokens" in shown
    assert found["files"][sources["chat"]] in shown


def test_the_card_trims_only_what_is_too_long(tmp_path, model):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 20 + '{"text": "%s"}\n' % ("y" * 70))
    numbers = []

    def document(corpus, number, original=Corpus.document):
        numbers.append(number)
        return original(corpus, number)

    with patch.object(Corpus, "document", document):
        prepare(tmp_path / "out", {"a": str(tmp_path / "a.jsonl")}, model, SMALL)
    assert sorted(numbers) == [*range(21), 20]


def test_other_settings_a_changed_source_and_a_second_run_are_refused(tmp_path, model):
    sources, *_ = write_sources(tmp_path, 10)
    out = tmp_path / "out"
    first = prepare(out, sources, model, SMALL)
    before = result(out)
    assert prepare(out, sources, model, SMALL) == first
    assert result(out) == before
    with pytest.raises(DataError, match="begun with other settings"):
        prepare(out, sources, model, PrepareConfig(chunk_bytes=2_000, loss="last"))
    with pytest.raises(DataError, match="begun with other chunks"):
        prepare(out, {"chat": sources["chat"]}, model, SMALL)
    Path(sources["web"]).write_text('{"text": "other"}\n')
    with pytest.raises(DataError, match=r"begun with other chunks \(.*: [^,]*web\.jsonl\)"):
        prepare(out, sources, model, SMALL)
    code = f"import fcntl; file = open({str(out / '.lock')!r}); fcntl.flock(file, 1)\n"
    code += "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        with pytest.raises(DataError, match="another run is writing"):
            prepare(out, sources, model, SMALL)
        holder.communicate(b"\n")


def test_damage_and_unfinished_folders_are_noticed(tmp_path, model):
    sources, *_ = write_sources(tmp_path, 10)
    out = tmp_path / "out"
    prepare(out, sources, model, SMALL)
    tokens = out / "shards" / "00001" / "tokens.npy"
    damaged = bytearray(tokens.read_bytes())
    damaged[-1] ^= 4
    tokens.write_bytes(damaged)
    load_prepared(out)
    with pytest.raises(DataError, match="does not match its fingerprint"):
        load_prepared(out, verify=True)
    (out / "shards" / "00000").rename(out / "shards" / "was")
    (out / "shards" / "00001").rename(out / "shards" / "00000")
    (out / "shards" / "was").rename(out / "shards" / "00001")
    with pytest.raises(DataError, match="not the one in the manifest"):
        load_prepared(out)
    manifest = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(manifest.replace('"documents"', '"dokuments"'))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        load_prepared(out)
    (out / "manifest.json").unlink()
    with pytest.raises(DataError, match="it continues where it stopped"):
        load_prepared(out)


def test_a_full_disk_and_a_folder_within_the_source_are_told_with_a_cure(tmp_path, model):
    sources, *_ = write_sources(tmp_path, 10)
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        patch("openzaya.data.prepare.save_corpus", side_effect=full),
        pytest.raises(DataError, match=r"No space left .*it continues"),
    ):
        prepare(tmp_path / "out", sources, model, SMALL)
    prepare(tmp_path / "out", sources, model, SMALL)
    with pytest.raises(DataError, match="lies in the source"):
        prepare(tmp_path / "other", {"all": str(tmp_path)}, model, SMALL)


def test_only_what_a_killed_run_left_is_deleted_in_a_folder_that_holds_more(tmp_path, model):
    """Somebody's project, prepared into as `.`."""
    out = tmp_path / "out"
    kept = (".git/config", ".env", ".00099.1.txt", "shards/.cache/x", ".plan.json.old")
    left = (".plan.json.12", ".DATA_CARD.md.7", "shards/.00099.12/tokens.npy")
    for name in (*kept, *left):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    prepare(out, write_sources(tmp_path, 4)[0], model, SMALL)
    assert [(out / name).exists() for name in kept] == [True] * len(kept)
    assert [(out / name).exists() for name in left] == [False] * len(left)


def test_what_cannot_begin_leaves_nothing_behind(tmp_path, model):
    sources, *_ = write_sources(tmp_path, 10)
    out, damaged = tmp_path / "new" / "out", tmp_path / "damaged"
    for folder in (damaged, damaged / "chat"):
        folder.mkdir()
    (damaged / "tokenizer.json").write_text("{")
    for wrong, tokenizer, told in (
        ({**sources, "x": str(tmp_path / "none.jsonl")}, model, "nothing to read"),
        ({"x": str(model / "tokenizer.json.txt")}, model, "nothing to read"),
        ({"x": str(tmp_path)}, model, "lies in the source"),
        (sources, damaged, "cannot be read as a tokenizer"),
    ):
        with pytest.raises(OpenZayaError, match=told):
            prepare(out, wrong, tokenizer, SMALL)
        assert not out.parent.exists()
    prepare(out, sources, model, SMALL)


def test_documents_of_a_chunk_are_not_held_in_memory(tmp_path, model):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{n}"}}\n' for n in range(50)))
    built: list[None] = []

    def build(builder, original=DocumentBuilder.build):
        built.append(None)
        return original(builder)

    def save(folder, documents, dtype):
        def watched():
            for number, document in enumerate(documents, 1):
                assert len(built) == number
                yield document

        return save_corpus(folder, watched(), dtype)

    with (
        patch.object(DocumentBuilder, "build", build),
        patch("openzaya.data.prepare.save_corpus", save),
    ):
        prepare(tmp_path / "out", {"a": str(tmp_path / "a.jsonl")}, model)
    assert len(built) == 50


def test_a_source_without_any_document_and_impossible_settings_are_refused(tmp_path, model):
    file = tmp_path / "a.jsonl"
    file.write_text("\n\n{\n")
    with pytest.raises(DataError, match=r"no documents .*: invalid JSON \(1\); see"):
        prepare(tmp_path / "out", {"a": str(file)}, model)
    for wrong in ({"chunk_bytes": 0}, {"max_bad_share": 1.5}, {"contexts": (0,)}):
        with pytest.raises(ConfigError, match="correct it"):
            PrepareConfig(**wrong)


def test_a_template_that_writes_no_reasoning_stops_the_run_with_the_cure(tmp_path, model):
    body = "{% for m in messages %}{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}"
    (model / "chat_template.jinja").write_text(body)
    sources, conversations, _ = write_sources(tmp_path)
    lost = sum(any(turn.get("reasoning") for turn in talk) for talk in conversations)
    with pytest.raises(DataError, match=rf"leaves out reasoning, .* \({lost}\)\. They"):
        prepare(tmp_path / "out", sources, model, PrepareConfig())


def test_columns_of_a_table_that_mean_nothing_here_may_hold_anything(tmp_path, model):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"text": ["x"], "at": arrow.array([1 << 62], arrow.timestamp("us"))})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    card = prepare(tmp_path / "out", {"a": str(tmp_path / "a.parquet")}, model)
    assert (card["documents"], card["sources"]["a"]["bad"]) == (1, {})


def test_a_large_vocabulary_is_stored_in_four_bytes():
    from openzaya.data.documents import token_dtype

    assert [token_dtype(size) for size in (1, 65_536, 65_537, 262_272)] == ["<u2"] * 2 + ["<i4"] * 2
