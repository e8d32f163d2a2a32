"""The nano corpora keep held-out problems out and write what inference will ask for."""

import pytest

from openzaya.core.records import Message
from openzaya.core.seeding import stream
from openzaya.envs.teaching import AggregationStyle, aggregation, facts
from openzaya.recipes.nano.corpus import CorpusConfig, Writer, write_corpus
from openzaya.recipes.nano.tasks import LEVELS, draw_training, held_out, held_out_prompts
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.text.chat import ChatTemplate
from openzaya.text.tails import aggregation_messages


@pytest.fixture(scope="module")
def writer():
    config = CorpusConfig(trace_tokens=3_000, fact_tokens=500, aggregation_tokens=2_000)
    return Writer(build_tokenizer(), ChatTemplate.pinned(), config, seed=7)


def test_held_out_problems_are_distinct_fixed_and_never_trained_on():
    assert len(held_out_prompts()) == len(held_out()) == 2 * 40 * len(LEVELS)
    held_out.cache_clear()
    assert held_out_prompts() == frozenset(item.problem.prompt for item in held_out())
    rng = stream(0, "test")
    # The smallest problem space: without the filter many of these would be held-out ones.
    drawn = {draw_training(rng, 0.0, ("modeq",)).problem.prompt for _ in range(3_000)}
    assert len(drawn) > 500
    assert not drawn & held_out_prompts()


def test_the_tokenizer_writes_any_text_and_prompts_cost_few_tokens():
    tokenizer = build_tokenizer()
    for text in ("add 12+34", "sch\u00f6n \u4f60\u597d \U0001f600", "<|im_start|>x\n</think>\n\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    question = (Message("user", "sort cab"),)
    prompt = ChatTemplate.pinned().encode_prompt(question, tokenizer)
    assert len(prompt) == len("cab") + 4  # user, "sort ", three letters, end of turn, think
    shown = aggregation_messages(question, ["#abc"] * 3)
    ids = ChatTemplate.pinned().encode_prompt(shown, tokenizer)
    assert len(ids) == len(prompt) + 3 * (1 + len("#abc")) + 1
    assert tokenizer.encode_plain("<|im_end|>") != [tokenizer.eos_id]


def test_a_document_continues_exactly_the_prompt_that_inference_builds(writer):
    for index in range(20):
        document = writer.aggregation(index)
        text = writer.tokenizer.decode(document.tokens.tolist())
        head, _, _ = text.partition("<|im_start|>assistant\n<think>\n")
        question = head.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n")
        prompt = writer.chat.encode_prompt((Message("user", question),), writer.tokenizer)
        assert document.tokens[: len(prompt)].tolist() == prompt
        assert not document.loss_mask()[: len(prompt)].any()
        assert document.loss_mask()[len(prompt) :].all()


def test_documents_are_functions_of_their_index_and_sources_get_their_tokens(writer):
    documents = write_corpus(writer)
    again = write_corpus(writer)
    assert [d.tokens.tolist() for d in documents] == [d.tokens.tolist() for d in again]
    sizes: dict[str, int] = {}
    for document in documents:
        kind = document.source if document.source in ("facts", "aggregation") else "traces"
        sizes[kind] = sizes.get(kind, 0) + len(document.tokens)
    assert 500 <= sizes["facts"] < 700
    assert 3_000 <= sizes["traces"] < 3_400
    assert 2_000 <= sizes["aggregation"] < 2_600


def test_facts_are_true_and_half_of_the_comparisons_are_equal():
    equal = []
    for fact in facts(stream(1, "facts"), 600).split():
        if "?" in fact:
            left, right, verdict = fact[0], fact[2], fact[3]
            assert verdict == ("y" if left == right else "n")
            equal.append(left == right)
            continue
        left, _, value = fact.partition("=")
        assert eval(left) % 10 == int(value)  # noqa: S307 - our own text, digits and operators only
    assert 0.45 < sum(equal) / len(equal) < 0.65


def test_aggregation_examples_show_one_to_c_tails_of_bounded_length():
    counts = set()
    style = AggregationStyle(max_candidates=3, tail_chars=20)
    for seed in range(60):
        rng = stream(seed, "aggregation")
        item = draw_training(rng, 0.5)
        shown = aggregation(item.env, item.problem, rng, style)[0].content
        assert shown.startswith(item.problem.prompt + "\n\n")
        tails = [part.split("\n\n")[0] for part in shown.split(":\n")[1:]]
        assert all(len(tail) <= 20 for tail in tails)
        counts.add(len(tails))
    assert counts == {1, 2, 3}
