"""Sampling and judging with the bundled model: every sample is judged once, by its own problem."""

import time
from dataclasses import replace

import pytest

from openzaya.cli.samplers import model_folder
from openzaya.core.records import infra, right, wrong
from openzaya.engine.engine import Engine
from openzaya.eval import protocol
from openzaya.eval.rollouts import Codec, EvalConfig, pass_at_1, sample_and_judge
from openzaya.model.checkpoint import load
from openzaya.text.chat import ChatTemplate
from openzaya.text.think import split_thinking
from openzaya.text.tokenizer import TextTokenizer

QUESTIONS = ["sort qdkax", "sort mfbza", "sort hjcte"]
ANSWERS = ["adkqx", "abfmz", "cehjt"]


@pytest.fixture(scope="module")
def codec():
    folder = model_folder("nano")
    return Codec(TextTokenizer.load(folder), ChatTemplate.load(folder))


@pytest.fixture
def engine():
    return Engine(load(model_folder("nano")), max_slots=8, max_tokens=256)


def judge(index, reply):
    thought = split_thinking(reply)
    return right() if thought.closed and thought.answer == ANSWERS[index] else wrong("another")


def test_greedy_replies_are_one_a_question_and_right_for_a_trained_model(engine, codec):
    config = EvalConfig(num_samples=3, temperature=0.0, max_tokens=64)
    outcomes = sample_and_judge(engine, codec, QUESTIONS, judge, config)
    assert [outcome.rewards for outcome in outcomes] == [[1.0], [1.0], [1.0]]
    assert all(5 < outcome.num_tokens <= 64 for outcome in outcomes)
    assert pass_at_1(outcomes).mean == 1.0


def test_a_reply_is_what_stands_before_its_stop_token(codec):
    ids = codec.tokenizer.encode("abc")
    assert codec.reply(ids) == codec.reply([*ids, codec.tokenizer.eos_id]) == "abc"


def test_each_sample_has_a_stream_of_its_own(engine, codec, monkeypatch):
    """At this temperature nothing ends by itself, so what is cut counts as ended here."""
    config = EvalConfig(num_samples=4, max_tokens=24, temperature=4.0, seed=3)
    heard = []
    sample = engine.generate
    monkeypatch.setattr(
        engine,
        "generate",
        lambda *asked: [replace(output, finish_reason="stop") for output in sample(*asked)],
    )

    def listen(index, reply):
        heard.append((index, reply))
        return wrong("heard")

    sample_and_judge(engine, codec, QUESTIONS, listen, config)
    assert [index for index, _ in heard] == [0] * 4 + [1] * 4 + [2] * 4
    assert len({reply for _, reply in heard}) == 12
    again = heard.copy()
    heard.clear()
    sample_and_judge(engine, codec, QUESTIONS, listen, config)
    assert heard == again


def test_a_reply_that_its_budget_cuts_is_wrong_whatever_it_says(engine, codec):
    """As in RL. The judge is asked about replies that ended by themselves only."""
    config = EvalConfig(temperature=0.0, max_tokens=64)
    heard = []

    def listen(index, reply):
        heard.append(reply)
        return right()

    (whole,) = sample_and_judge(engine, codec, QUESTIONS[:1], listen, config)
    (exact,) = sample_and_judge(
        engine, codec, QUESTIONS[:1], listen, replace(config, max_tokens=whole.num_tokens)
    )
    (cut,) = sample_and_judge(
        engine, codec, QUESTIONS[:1], listen, replace(config, max_tokens=whole.num_tokens - 1)
    )
    assert (whole.rewards, exact.rewards, cut.rewards) == ([1.0], [1.0], [0.0])
    assert cut.num_tokens == whole.num_tokens - 1
    assert len(heard) == 2


def test_a_judge_that_hangs_is_a_failure_of_ours(engine, codec, monkeypatch, caplog):
    monkeypatch.setattr(protocol, "JUDGE_LIMIT_S", 0.1)

    def hangs(index, reply):
        return time.sleep(60) if index == 1 else judge(index, reply)

    config = EvalConfig(temperature=0.0, max_tokens=64)
    outcomes = sample_and_judge(engine, codec, QUESTIONS, hangs, config)
    assert [outcome.rewards for outcome in outcomes] == [[1.0], [], [1.0]]
    assert outcomes[1].num_infra == 1
    assert "no verdict on a reply to question 1 (it took more than 0.1 s)" in caplog.text


def test_a_failure_of_ours_counts_for_nothing(engine, codec):
    config = EvalConfig(num_samples=2, max_tokens=64, temperature=0.5)
    verdicts = iter([right(), wrong("no"), infra("x"), right(), infra("x"), infra("x")])
    outcomes = sample_and_judge(engine, codec, QUESTIONS, lambda *_: next(verdicts), config)
    assert [outcome.rewards for outcome in outcomes] == [[1.0, 0.0], [1.0], []]
    assert [outcome.num_infra for outcome in outcomes] == [0, 1, 2]
    score = pass_at_1(outcomes)
    assert (score.mean, score.num_problems) == (0.75, 2)
