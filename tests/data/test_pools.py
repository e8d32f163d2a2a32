"""Pools of attempts from files become aggregation examples."""

import gzip
import json

import pytest
from text.tiny_tokenizers import BARE

from openzaya.cli import main as cli
from openzaya.core.errors import DataError
from openzaya.core.records import Message
from openzaya.data.pools import read_pools, to_example
from openzaya.data.recognize import Conversation, recognize
from openzaya.text.markers import THINK_CLOSE, THINK_OPEN

RIGHT = {"reasoning": "sure", "content": "42", "right": True}


def test_texts_and_objects_are_attempts_and_the_target_is_the_experts():
    raw = f"{THINK_OPEN}\nfirst\n{THINK_CLOSE}\n41"
    record = {
        "id": "p",
        "question": "Q",
        "attempts": [raw, {"reasoning": "cut off"}],
        "aggregated": ["plain"],
        "target": {"reasoning": "expert", "content": "42"},
    }
    example = to_example(record)
    assert example.pool.key == "p"
    assert example.pool.messages == (Message("user", "Q"),)
    assert [(t.reasoning, t.answer) for t in example.pool.first_round] == [
        ("first", "41"),
        ("cut off", ""),
    ]
    assert [t.answer for t in example.pool.second_round] == ["plain"]
    assert example.target == Message("assistant", "42", reasoning="expert")


def test_without_a_target_a_right_attempt_of_a_later_round_is_learnt_and_not_shown():
    early = {"reasoning": "early", "content": "42", "right": True}
    unsure = {"reasoning": "luck", "content": "42", "right": "yes"}
    record = {"question": "Q", "attempts": [early, "x"], "aggregated": [unsure, RIGHT]}
    example = to_example(record)
    assert example.target.reasoning == "sure"
    assert [t.reasoning for t in example.pool.second_round] == ["luck"]
    assert [t.reasoning for t in example.pool.first_round] == ["early", ""]
    example = to_example({**record, "aggregated": []})
    assert example.target.reasoning == "early"
    assert len(example.pool.first_round) == 1


def test_a_conversation_keeps_its_earlier_turns():
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    example = to_example({"messages": turns, "attempts": [RIGHT]}, "a:1")
    assert example.pool.messages == (Message("system", "S"), Message("user", "Q"))
    assert example.pool.key == "a:1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": " "}, "neither question nor messages"),
        ({"question": None, "messages": [{"role": "assistant", "content": "x"}]}, "end with assi"),
        ({"question": None, "messages": [{"role": "king", "content": "x"}]}, "role 'king'"),
        ({"attempts": "x"}, "attempts is str"),
        ({"attempts": [7]}, "attempts holds int"),
        ({"attempts": [{"content": 7}]}, "without texts"),
        ({"attempts": ["x"]}, "no target and no attempt that is right"),
        ({"target": {"reasoning": "open"}}, "target has no answer"),
    ],
)
def test_a_record_of_another_shape_is_refused_with_the_reason(change, words):
    with pytest.raises(DataError, match=words):
        to_example({"question": "Q", "attempts": [RIGHT], **change})


def test_broken_lines_are_named_and_the_others_used(tmp_path):
    path = tmp_path / "pools.jsonl"
    good = json.dumps({"question": "Q", "attempts": ["x", RIGHT]})
    path.write_text(f"{good}\n\n{{\n[1]\n{good}\n")
    found = list(read_pools([path]))
    assert [place.rsplit(":", 1)[1] for place, _ in found] == ["1", "3", "4", "5"]
    assert [isinstance(example, str) for _, example in found] == [False, True, True, False]
    with pytest.raises(DataError, match="cannot be read"):
        list(read_pools([tmp_path / "none"]))


def test_packed_pools_and_those_with_a_mark_are_read(tmp_path):
    good = json.dumps({"question": "Q", "attempts": ["x", RIGHT]}) + "\n"
    marked, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    marked.write_text(good + '{"question": "\\ud800"}\n', encoding="utf-8-sig")
    packed.write_bytes(gzip.compress(good.encode()))
    (_, first), (place, reason), (_, last) = read_pools([marked, packed])
    assert first.pool.messages == last.pool.messages == (Message("user", "Q"),)
    assert (place, reason) == (f"{marked}:2", "invalid UTF-8")
    packed.write_bytes(packed.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz cannot be read"):
        list(read_pools([packed]))


def test_the_command_writes_conversations_that_prepare_reads(tmp_path, capsys):
    BARE.save(tmp_path / "model")
    pools, out = tmp_path / "pools.jsonl", tmp_path / "out.jsonl"
    attempts = [{"reasoning": f"way {i}", "content": "41"} for i in range(6)]
    lines = [{"id": str(i), "question": f"Q{i}", "attempts": [*attempts, RIGHT]} for i in range(3)]
    pools.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"question": "bad"}]))
    words = ["data", "aggregate", str(out), str(pools), "--tokenizer", str(tmp_path / "model")]
    assert cli.main([*words, "--set", "min_candidates=3", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"examples": 3, "refused": 1, "out": str(out)}
    assert f"{pools}:4: it has no target" in shown.err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    for number, record in enumerate(records):
        found = recognize(record)
        assert isinstance(found, Conversation)
        prompt, reply = found.messages
        assert f"Q{number}" in prompt["content"]
        assert prompt["content"].count("way ") >= 3
        assert "sure" not in prompt["content"]
        assert (reply["reasoning"], reply["content"]) == ("sure", "42")
    first = out.read_text()
    assert cli.main([*words, "--set", "min_candidates=3", "--seed", "1"]) == 0
    assert out.read_text() != first
    pools.write_text("{}\n")
    assert cli.main(words) == 2
    assert "no pool could be used" in capsys.readouterr().err
