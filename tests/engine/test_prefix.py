"""Reused prefixes: the same outputs as without, from exactly the blocks that may be reused."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.blocks import BLOCK_TOKENS
from openzaya.model.zaya import Zaya

PLAIN = SamplingParams(max_tokens=5, seed=3)
CAPTURE = replace(PLAIN, capture_experts=True)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(40) for _ in range(count)]


def make(model: Zaya, **options: Any) -> Engine:
    return Engine(model, **{"max_slots": 4, "max_tokens": 400, **options})


def run(engine: Engine, prompt: list[int], params: SamplingParams = PLAIN, **how: Any) -> Output:
    """Run one request to its end, in whatever else the engine does."""
    request_id = engine.add(prompt, params, **how)
    while True:
        for output in engine.step():
            if output.request_id == request_id:
                return output


def assert_equal(found: Output, expected: Output) -> None:
    assert found.token_ids == expected.token_ids
    assert found.finish_reason == expected.finish_reason
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_array_equal(found.experts, expected.experts)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_prompts_that_begin_alike_give_what_they_give_without_reuse(
    any_model: Zaya, data: st.DataObject
) -> None:
    stems = [ids(length, seed) for seed, length in enumerate((300, 130, 64))]
    lengths = st.integers(1, 300) | st.sampled_from([63, 64, 65, 127, 128, 129, 191, 192, 193])
    prompts = []
    for _ in range(data.draw(st.integers(2, 7))):
        stem = data.draw(st.sampled_from(stems))
        prompt = stem[: data.draw(lengths)] + ids(data.draw(st.sampled_from([0, 1, 7, 70])), 9)
        prompts.append(prompt)
    budget = data.draw(st.sampled_from([17, 64, 100, 2048]))
    engine = make(any_model, prefill_tokens=budget, num_blocks=data.draw(st.integers(12, 40)))
    params = [replace(CAPTURE, seed=i) for i in range(len(prompts))]
    if data.draw(st.booleans()):
        outputs = engine.generate(prompts, params)
    else:
        pairs = zip(prompts, params, strict=True)
        outputs = [run(engine, prompt, own) for prompt, own in pairs]
    plain = make(any_model, kept_blocks=0)
    for output, prompt, own in zip(outputs, prompts, params, strict=True):
        assert_equal(output, plain.generate([prompt], [own])[0])
    stats = engine.stats
    counted = stats.tokens_prefilled + stats.tokens_prefill_saved + stats.prefix_hit_tokens
    if not stats.preemptions:
        assert counted == sum(map(len, prompts))
    assert plain.stats.prefix_hit_tokens == plain.stats.prefix_bytes == 0


def test_a_conversation_reuses_prompts_and_replies(any_model: Zaya) -> None:
    engine, plain = make(any_model), make(any_model, kept_blocks=0)
    talk = ids(100)
    for turn in range(3):
        params = replace(PLAIN, max_tokens=50, seed=turn)
        before = engine.stats.prefix_hit_tokens
        output = run(engine, talk, params)
        assert_equal(output, run(plain, talk, params))
        # All but the last reply token was computed in the turn before, in whole blocks.
        known = 0 if turn == 0 else (len(talk) - 11) // BLOCK_TOKENS * BLOCK_TOKENS
        assert engine.stats.prefix_hit_tokens - before == known
        talk = talk + output.token_ids + ids(10, turn)


@pytest.mark.parametrize(("length", "hit"), [(64, 0), (65, 64), (128, 64), (129, 128)])
def test_at_least_one_token_of_a_known_prompt_is_computed(
    any_model: Zaya, length: int, hit: int
) -> None:
    engine, prompt = make(any_model), ids(length)
    first, second = run(engine, prompt), run(engine, prompt)
    assert engine.stats.prefix_hit_tokens == hit
    assert engine.stats.tokens_prefilled == 2 * length - hit
    assert_equal(second, first)


def test_candidates_share_one_prefill_whenever_they_arrive(any_model: Zaya) -> None:
    prompt = ids(200)
    engine = make(any_model, max_slots=8, prefill_tokens=50)
    params = [replace(CAPTURE, max_tokens=30, seed=seed) for seed in range(6)]
    requests = [engine.add(prompt, own) for own in params[:2]]
    engine.step()
    # While the prompt is being computed: the late ones join.
    requests += [engine.add(prompt, own) for own in params[2:4]]
    for _ in range(5):
        engine.step()
    assert engine.stats.tokens_prefilled == 200
    assert engine.stats.tokens_prefill_saved == 3 * 200
    # While the others decode: up to the last full block.
    requests += [engine.add(prompt, own) for own in params[4:]]
    outputs: dict[int, Output] = {}
    while engine.has_work:
        outputs.update({output.request_id: output for output in engine.step()})
    assert engine.stats.tokens_prefilled == 200 + 8
    assert engine.stats.prefix_hit_tokens == 192
    for request_id, own in zip(requests, params, strict=True):
        expected = make(any_model, kept_blocks=0).generate([prompt], [own])[0]
        assert_equal(outputs[request_id], expected)
    assert len({tuple(output.token_ids) for output in outputs.values()}) > 2


def test_salts_and_weights_versions_share_nothing(long_model: Zaya) -> None:
    engine, prompt = make(long_model), ids(150)
    run(engine, prompt, salt="a")
    run(engine, prompt, salt="b")
    run(engine, prompt)
    assert engine.stats.prefix_hit_tokens == 0
    run(engine, prompt, salt="b")
    assert engine.stats.prefix_hit_tokens == 128
    engine.bump_version()
    for salt in ("a", "b", ""):
        run(engine, prompt, salt=salt)
    assert engine.stats.prefix_hit_tokens == 128
    run(engine, prompt, salt="a")
    assert engine.stats.prefix_hit_tokens == 256
    # Nor do equal prompts of different salts share a prefill.
    computed = engine.stats.tokens_prefilled
    for salt in ("c", "d"):
        engine.add(prompt, PLAIN, salt=salt)
    while engine.has_work:
        engine.step()
    assert engine.stats.tokens_prefilled - computed == 300


def test_what_runs_while_weights_change_is_kept_for_nobody(long_model: Zaya) -> None:
    engine, prompt = make(long_model, prefill_tokens=100), ids(150)
    long = replace(PLAIN, max_tokens=100)
    engine.add(prompt, long)
    engine.step()
    # One prompt half computed: nobody may join it, and its blocks are not kept any more.
    engine.bump_version()
    engine.add(prompt, PLAIN)
    engine.step()
    engine.step()
    assert engine.stats.tokens_prefilled == 300
    assert engine.stats.prefix_hit_tokens == 0
    entries = len(engine._prefix)
    # One request generating across block ends: its blocks are not kept either.
    engine.bump_version()
    assert entries == 2
    while engine.has_work:
        engine.step()
    assert len(engine._prefix) == 0
    assert engine.stats.prefix_bytes == 0
    run(engine, prompt)
    assert engine.stats.prefix_hit_tokens == 0


def test_experts_come_with_the_blocks_or_the_blocks_are_computed_again(any_model: Zaya) -> None:
    engine, plain = make(any_model), make(any_model, kept_blocks=0)
    prompt = ids(100)
    # The first request does not ask, and yet its prompt's experts are known; its reply's are not.
    reply = run(engine, prompt, replace(PLAIN, max_tokens=100)).token_ids
    longer = prompt + reply
    assert_equal(run(engine, longer, CAPTURE), run(plain, longer, CAPTURE))
    assert engine.stats.prefix_hit_tokens == 64
    # Now they are.
    assert_equal(run(engine, longer, CAPTURE), run(plain, longer, CAPTURE))
    assert engine.stats.prefix_hit_tokens == 64 + 192


def test_a_request_for_experts_does_not_join_a_prefill_that_lacks_them(long_model: Zaya) -> None:
    engine, plain = make(long_model), make(long_model, kept_blocks=0)
    prompt = ids(100)
    longer = prompt + run(engine, prompt, replace(PLAIN, max_tokens=100)).token_ids
    engine.add(longer, PLAIN)
    request_id = engine.add(longer, CAPTURE)
    outputs = {}
    while engine.has_work:
        outputs.update({output.request_id: output for output in engine.step()})
    assert_equal(outputs[request_id], run(plain, longer, CAPTURE))


def test_blocks_computed_twice_at_once_are_kept_once(any_model: Zaya) -> None:
    engine, stem = make(any_model), ids(128)
    engine.add([*stem, 1, 2], replace(PLAIN, max_tokens=50))
    engine.add([*stem, 3, 4], replace(PLAIN, max_tokens=50))
    engine.step()
    assert engine.stats.prefix_hit_tokens == 0
    # Two blocks shared and one for each: the second copies of the shared ones were given back.
    assert engine.stats.blocks_used["hybrid"] == 4
    assert len(engine._prefix) == 2


def test_ends_of_prefixes_are_given_up_before_their_beginnings(long_model: Zaya) -> None:
    engine, stem = make(long_model, max_slots=1, num_blocks=6), ids(256)
    run(engine, [*stem, 1])
    # Four of six blocks are kept; the three of another request evict one of them.
    run(engine, ids(150, 5))
    assert engine.stats.evictions == 1
    run(engine, [*stem, 1])
    assert engine.stats.prefix_hit_tokens == 192


def test_without_the_blocks_of_its_window_a_prefix_of_sliding_layers_is_shorter() -> None:
    from engine.conftest import SLIDING, spread_model

    model = spread_model(max_position_embeddings=512, **SLIDING)
    engine, prompt = make(model), ids(257)
    expected = run(make(model, kept_blocks=0), prompt)
    run(engine, prompt)
    match = engine._prefix.match(np.array(prompt), "")
    assert match.num_tokens == 256
    # A query at 256 sees back to 187: two blocks. Without the third block, only 128 remain.
    assert [block >= 0 for block in match.blocks["hybrid_sliding"]] == [False, False, True, True]
    engine._prefix._evict("hybrid_sliding", match.blocks["hybrid_sliding"][2])
    assert engine._prefix.match(np.array(prompt), "").num_tokens == 128
    before = engine.stats.prefix_hit_tokens
    assert_equal(run(engine, prompt), expected)
    assert engine.stats.prefix_hit_tokens - before == 128
    # Computed again, the block is there again.
    assert engine._prefix.match(np.array(prompt), "").num_tokens == 256


def test_no_more_blocks_are_kept_than_allowed(any_model: Zaya) -> None:
    engine, prompt = make(any_model, kept_blocks=2), ids(300)
    expected = run(make(any_model, kept_blocks=0), prompt)
    run(engine, prompt)
    assert all(pool.num_idle <= 2 for pool in engine._runner.cache.pools.values())
    assert engine.stats.evictions > 0
    # Of full blocks the first ones are left; without its window a sliding prefix is of no use.
    sliding = "hybrid_sliding" in any_model.config.layer_types
    assert_equal(run(engine, prompt), expected)
    assert engine.stats.prefix_hit_tokens == (0 if sliding else 128)


def test_kept_states_are_counted(long_model: Zaya) -> None:
    engine = make(long_model)
    run(engine, ids(150))
    config = long_model.config
    state = config.num_hidden_layers * (2 * config.conv_channels + config.kv_channels // 2) * 4
    experts = BLOCK_TOKENS * config.num_hidden_layers
    assert engine.stats.prefix_bytes == 2 * (state + experts)
    used, free = engine.stats.blocks_used, engine.stats.blocks_free
    assert (used["hybrid"], free["hybrid"]) == (0, engine._runner.cache.pools["hybrid"].num_blocks)
    engine._prefix.clear()
    assert engine._prefix.nbytes == len(engine._prefix) == 0


def test_names_of_blocks_depend_on_all_tokens_before_and_on_a_key(long_model: Zaya) -> None:
    first, second = make(long_model)._prefix, make(long_model)._prefix
    block = np.arange(64)
    chains = [
        prefix._extend(prefix.start(salt), block) for prefix in (first, second) for salt in "ab"
    ]
    chains += [first._extend(chains[0], block), first._extend(first.start("a"), block[::-1])]
    assert len({chain.digest for chain in chains}) == len(chains)
    assert first._extend(first.start("a"), block) == chains[0]
