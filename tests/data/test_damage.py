"""Damage to any table of a prepared folder is told with a cure; nothing else ever comes out."""

import json
from contextlib import suppress
from copy import deepcopy

import pytest
from text.tiny_tokenizers import BARE

from openzaya.core.errors import DataError, OpenZayaError
from openzaya.core.seeding import stream
from openzaya.data.prepare import PrepareConfig, prepare
from openzaya.data.shards import load_prepared, planned_contexts
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer

CONFIG = PrepareConfig(chunk_bytes=300, contexts=(60,))
TABLES = ("plan.json", "manifest.json", "shards/00001/shard.json", "shards/00001/corpus.json")
TEXTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WRONG = (None, -1, 1 << 70, 0.5, "x", [], {}, [[]], {"name": []})


@pytest.fixture
def out(tmp_path):
    BARE.save(tmp_path / "model")
    lines = [json.dumps({"question": "q", "answer": f"a{n}", "reasoning": "r"}) for n in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "{"]))
    again(tmp_path / "out")
    return tmp_path / "out"


def again(out):
    return prepare(out, {"a": str(out.parent / "a.jsonl")}, out.parent / "model", CONFIG)


def everything(out):
    """Return all that training and `inspect` read of a folder."""
    TextTokenizer.load(out / "tokenizer")
    with suppress(DataError):  # the template may be what is damaged
        ChatTemplate.load(out / "tokenizer").render([{"role": "user", "content": "x"}])
    found = [(d.tokens.tolist(), d.segments, d.source) for d in load_prepared(out)]
    return found, planned_contexts(out)


def damaged(raw, rng):
    """Return a file with a flipped bit, bytes of no text, an end that is missing, or nothing."""
    at = rng.randrange(len(raw))
    flipped = raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    return rng.choice([flipped] * 12 + [raw[:at] + b"\xff" + raw[at:], raw[:at], b"", b"\0" * 9])


def wrongly_typed(value):
    """Go through copies of a JSON value in which one place holds something else or is gone."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        for wrong in WRONG:
            copy = deepcopy(value)
            copy[key] = wrong
            yield copy
        copy = deepcopy(value)
        del copy[key]
        yield copy
        for inner in wrongly_typed(value[key]) if isinstance(value[key], dict | list) else ():
            copy = deepcopy(value)
            copy[key] = inner
            yield copy


@pytest.mark.parametrize("name", [*TABLES, *(f"tokenizer/{name}" for name in TEXTS)])
def test_flipped_bits_are_told_or_change_nothing(out, name):
    expected, card = everything(out), again(out)
    file, rng = out / name, stream(7, name)
    raw = file.read_bytes()
    for _ in range(8 if "tokenizer" in name else 40):
        file.write_bytes(damaged(raw, rng))
        for read, whole in ((everything, expected), (again, card)):
            with suppress(OpenZayaError):
                assert read(out) == whole
    file.write_bytes(raw)
    assert (everything(out), again(out)) == (expected, card)


@pytest.mark.parametrize("name", TABLES)
def test_values_of_another_kind_are_told(out, name):
    expected, file = everything(out), out / name
    whole = json.loads(file.read_text())
    rng = stream(7, name)
    for value in rng.choices([*wrongly_typed(whole), *WRONG], k=60):
        file.write_text(json.dumps(value))
        for read in (everything, again):
            with suppress(OpenZayaError):
                found = read(out)
                assert read is again or found == expected


def test_a_damaged_record_of_a_shard_is_named_with_the_way_to_make_it_anew(out):
    card, record = again(out), out / "shards" / "00001" / "shard.json"
    record.write_text(record.read_text().replace('"documents"', '"dokuments"'))
    with pytest.raises(DataError, match=r"shard\.json is damaged.* delete \S*00001 and run it"):
        again(out)
    for file in record.parent.iterdir():
        file.unlink()
    record.parent.rmdir()
    assert again(out) == card


def test_a_folder_of_an_earlier_version_is_trained_on_but_not_continued(out):
    plan = json.loads((out / "plan.json").read_text())
    del plan["sha256"]
    (out / "plan.json").write_text(json.dumps({**plan, "format": 1}))
    for record in out.glob("shards/*/shard.json"):
        table = json.loads(record.read_text())
        del table["sha256"]
        record.write_text(json.dumps(table))
    assert len(load_prepared(out)) == 8
    assert planned_contexts(out) == [60]
    with pytest.raises(DataError, match=r"begun with other format; .* delete this one"):
        again(out)
