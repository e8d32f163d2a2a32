"""Aggregation documents and RL prompts show tails of one population, drawn by named streams."""

from random import Random

import pytest
from rich.markup import render
from text.tiny_tokenizers import BARE, FRAGMENTED

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.records import Message
from openzaya.data.aggregation import (
    AggregationConfig,
    AggregationExample,
    CandidatePool,
    aggregation_document,
    draw_candidates,
)
from openzaya.data.loss_mask import TokenCount, colored, count_trained_tokens
from openzaya.data.rl_prompts import AttemptedProblem, RlPrompt, RlPromptConfig, RlPrompts
from openzaya.text.chat import ChatTemplate
from openzaya.text.document import DocumentBuilder
from openzaya.text.tails import aggregation_messages
from openzaya.text.think import Thought

CHAT = ChatTemplate.pinned()
QUESTION = (Message("system", "S"), Message("user", "Q"))


def tails_as_thoughts(tails):
    """Return bare reasoning texts as attempts for a pool."""
    return tuple(Thought(reasoning=tail, answer="", closed=False) for tail in tails)


FIRST = tails_as_thoughts([f"long first {i}" for i in range(6)])
SECOND = tails_as_thoughts([f"second {i}" for i in range(6)])
CONFIG = AggregationConfig(tail_tokens=7)


def pool(key="p", first=FIRST, second=()):
    return CandidatePool(key=key, messages=QUESTION, first_round=first, second_round=second)


def test_an_example_is_the_inference_prompt_with_only_the_target_trained():
    target = Message("assistant", "A", "R")
    example = AggregationExample(pool=pool(), target=target)
    document = aggregation_document(example, FRAGMENTED, CHAT, CONFIG, seed=4)
    text = FRAGMENTED.decode(document.tokens.tolist())
    shown = [f"first {i}" for i in range(6) if f"first {i}" in text]
    assert 1 <= len(shown) <= 4
    assert "long" not in text  # tails of 7 tokens
    in_order = sorted(shown, key=text.index)
    prompt = CHAT.encode_prompt(aggregation_messages(QUESTION, in_order), FRAGMENTED)
    assert document.tokens[: len(prompt)].tolist() == prompt
    assert not document.loss_mask()[: len(prompt)].any()
    assert document.loss_mask()[len(prompt) :].all()
    assert document.source == "aggregation"
    again = aggregation_document(example, FRAGMENTED, CHAT, CONFIG, seed=4)
    assert again.tokens.tolist() == document.tokens.tolist()
    wrong = AggregationExample(pool=pool(), target=Message("user", "A"))
    with pytest.raises(DataError, match="expected the assistant's"):
        aggregation_document(wrong, FRAGMENTED, CHAT)


def test_earlier_turns_of_an_aggregation_example_are_not_trained():
    history = (Message("user", "1"), Message("assistant", "2", "3"), Message("user", "Q"))
    many = CandidatePool(key="m", messages=history, first_round=FIRST)
    example = AggregationExample(pool=many, target=Message("assistant", "A", "R"))
    document = aggregation_document(example, BARE, CHAT)
    trained = BARE.decode(document.tokens[document.loss_mask()].tolist())
    assert trained == "R\n</think>\n\nA<|im_end|>"


def test_the_number_of_candidates_is_even_over_its_range_and_none_is_shown_twice():
    counts = dict.fromkeys(range(1, 5), 0)
    for i in range(800):
        tails = draw_candidates(pool(), BARE, CONFIG, Random(i))
        assert len(set(tails)) == len(tails)
        counts[len(tails)] += 1
    assert all(150 < count < 250 for count in counts.values())


def test_candidates_come_from_one_population_at_a_time():
    config = AggregationConfig(tail_tokens=50, second_round_share=0.25)
    mixed = pool(second=SECOND)
    seconds = 0
    for i in range(400):
        tails = draw_candidates(mixed, BARE, config, Random(i))
        kinds = {tail.split()[0] for tail in tails}
        assert len(kinds) == 1
        seconds += kinds == {"second"}
    assert 70 < seconds < 130


def test_empty_attempts_are_passed_over_and_an_empty_population_gives_way():
    some = pool(first=tails_as_thoughts(["", " \n", "only"]))
    for i in range(20):
        assert draw_candidates(some, BARE, CONFIG, Random(i)) == ["only"]
    swapped = pool(first=(), second=SECOND)
    assert draw_candidates(swapped, BARE, AggregationConfig(), Random(0))[0] in {
        thought.reasoning for thought in SECOND
    }
    with pytest.raises(DataError, match="no attempt with a non-empty tail"):
        draw_candidates(pool(first=tails_as_thoughts([""])), BARE, CONFIG, Random(0))
    for bad in ({"min_candidates": 0}, {"min_candidates": 5}, {"second_round_share": 2.0}):
        with pytest.raises(ConfigError):
            AggregationConfig(**bad)


def attempted(key, rate, word):
    prompt = RlPrompt(messages=QUESTION, payload={"k": key}, source="gym", key=key)
    attempts = tails_as_thoughts([f"{word} {i}" for i in range(5)])
    return AttemptedProblem(prompt=prompt, pool=pool(key, attempts), solve_rate=rate)


def prompts(**shares):
    def plain(rng):
        key = str(rng.random())
        return RlPrompt(messages=QUESTION, payload=None, source="gym", key=key)

    return RlPrompts(RlPromptConfig(**shares), BARE, plain, [attempted("e", 0.0, "expert")])


def test_kinds_come_in_their_shares_and_keep_the_plain_question_s_payload():
    own = [attempted("easy", 1.0, "easy"), attempted("hard", 0.3, "mine")]
    drawn = prompts(expert_share=0.2, self_share=0.3, max_solve_rate=0.9).draw(0, 5, 600, own)
    kinds = [prompt.kind for prompt in drawn]
    assert kinds.count("expert") == pytest.approx(120, abs=35)
    assert kinds.count("self") == pytest.approx(180, abs=40)
    for prompt in drawn:
        content = prompt.messages[-1].content
        assert prompt.messages[0] == QUESTION[0]
        assert ("expert " in content) == (prompt.kind == "expert")
        assert ("mine " in content) == (prompt.kind == "self")
        assert "easy " not in content
        assert prompt.keeps_tails == (prompt.kind == "plain")
        if prompt.kind == "self":
            assert (prompt.payload, prompt.key) == ({"k": "hard"}, "hard")


def test_each_prompt_has_its_own_stream():
    source = prompts(expert_share=0.5)
    assert source.draw(0, 1, 20) == source.draw(0, 1, 40)[:20]
    assert source.draw(0, 1, 20) != source.draw(0, 2, 20)
    assert source.draw(0, 1, 20) != source.draw(1, 1, 20)


def test_without_own_attempts_their_share_is_plain_and_missing_experts_are_an_error():
    assert {p.kind for p in prompts(self_share=1.0).draw(0, 0, 10)} == {"plain"}
    with pytest.raises(DataError, match="expert pool is empty"):
        RlPrompts(RlPromptConfig(expert_share=0.1), BARE, lambda rng: None)
    with pytest.raises(ConfigError, match="at most 1"):
        RlPromptConfig(expert_share=0.6, self_share=0.5)


def test_trained_tokens_are_counted_by_role_and_kind():
    document = CHAT.encode_turns([Message("user", "UU"), Message("assistant", "A", "RRR")], BARE)
    counts = count_trained_tokens([document, document])
    assert counts["user/text"] == TokenCount(4, 0)
    assert counts["assistant/think"] == TokenCount(6, 6)
    assert counts["assistant/answer"] == TokenCount(2, 2)
    close_and_stop = len(BARE.encode("\n</think>\n\n<|im_end|>"))
    assert counts["assistant/markup"].trained == 2 * close_and_stop


@pytest.mark.parametrize("odd", ["[bold]x[/bold]", "a\\", "a\\\\", "\\[b]", "x[/]", "a\\\\\\"])
def test_a_colored_sample_shows_the_text_and_which_of_it_is_trained(odd):
    builder = DocumentBuilder("chat")
    builder.add(BARE.encode(odd), "text", "user", loss=False)
    builder.add(BARE.encode(odd), "answer", "assistant", loss=True)
    shown = render(colored(builder.build(), BARE))
    assert shown.plain == odd + odd
    styles = {str(span.style): (span.start, span.end) for span in shown.spans}
    assert styles == {"dim": (0, len(odd)), "bold green": (len(odd), 2 * len(odd))}
