"""The engine against the plain model: batching, chunking and copying change nothing."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError, ContextLengthError, EngineError, RequestError
from openzaya.engine import sampling
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.zaya import Zaya

PLAIN = SamplingParams(max_tokens=12, seed=3)
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


def prompts_of(seed: int, count: int, longest: int = 20) -> list[list[int]]:
    rng = Random(seed)
    return [[rng.randrange(40) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def alone(model: Zaya, prompt: list[int], params: SamplingParams) -> Output:
    return Engine(model, max_slots=1, max_tokens=64).generate([prompt], params)[0]


def drain(engine: Engine) -> dict[int, Output]:
    outputs = {}
    while engine.has_work:
        outputs.update({output.request_id: output for output in engine.step()})
    return outputs


def mixed_params(count: int) -> list[SamplingParams]:
    kinds = (
        PLAIN,
        GREEDY,
        SamplingParams(max_tokens=5, temperature=0.7, top_p=0.8),
        SamplingParams(max_tokens=20, top_k=5, min_p=0.05, stop_token_ids=(1, 2, 3, 4, 5)),
    )
    return [replace(kinds[i % len(kinds)], seed=100 + i) for i in range(count)]


def test_greedy_generation_is_the_argmax_of_the_full_forward(model: Zaya) -> None:
    for prompt in prompts_of(0, 3):
        ids = list(prompt)
        for _ in range(GREEDY.max_tokens):
            ids.append(int(model(torch.tensor(ids))[-1].argmax()))
        output = alone(model, prompt, GREEDY)
        assert output.token_ids == ids[len(prompt) :]
        assert output.finish_reason == "length"


def test_a_request_gets_the_same_tokens_alone_and_in_a_crowd_with_late_arrivals(
    model: Zaya,
) -> None:
    prompts = prompts_of(1, 14)
    params = mixed_params(len(prompts))
    engine = Engine(model, max_slots=4, max_tokens=64, prefill_tokens=16)
    outputs: dict[int, Output] = {}
    ids = []
    for prompt, own in zip(prompts, params, strict=True):
        ids.append(engine.add(prompt, own))
        outputs.update({output.request_id: output for output in engine.step()})
    outputs.update(drain(engine))
    for request_id, prompt, own in zip(ids, prompts, params, strict=True):
        expected, found = alone(model, prompt, own), outputs[request_id]
        assert found.token_ids == expected.token_ids
        assert found.finish_reason == expected.finish_reason
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    assert {outputs[i].finish_reason for i in ids} == {"stop", "length"}


@settings(max_examples=12, deadline=None)
@given(
    budget=st.integers(1, 70),
    slots=st.integers(1, 5),
    pool=st.lists(st.integers(0, 5), min_size=1, max_size=9),
)
def test_no_budget_slot_count_or_repetition_of_prompts_changes_an_output(
    model: Zaya, budget: int, slots: int, pool: list[int]
) -> None:
    prompts = prompts_of(2, 6, longest=40)
    params = [SamplingParams(max_tokens=4, seed=i, capture_experts=True) for i in range(len(pool))]
    engine = Engine(model, max_slots=slots, max_tokens=64, prefill_tokens=budget)
    outputs = engine.generate([prompts[i] for i in pool], params)
    for own, index, output in zip(params, pool, outputs, strict=True):
        expected = alone(model, prompts[index], own)
        assert output.token_ids == expected.token_ids
        np.testing.assert_array_equal(output.experts, expected.experts)
    stats = engine.stats
    assert stats.tokens_prefilled + stats.tokens_prefill_saved == sum(len(prompts[i]) for i in pool)
    assert stats.tokens_generated == 4 * len(pool)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_logprobs_and_experts_are_those_of_a_packed_training_forward(
    model: Zaya, temperature: float
) -> None:
    prompts = prompts_of(3, 9)
    params = [
        SamplingParams(max_tokens=15, temperature=temperature, seed=i, capture_experts=True)
        for i in range(len(prompts))
    ]
    outputs = Engine(model, max_slots=4, max_tokens=64, prefill_tokens=11).generate(prompts, params)
    inputs = [
        prompt + output.token_ids[:-1] for prompt, output in zip(prompts, outputs, strict=True)
    ]
    lengths = [len(ids) for ids in inputs]
    ids_T = torch.tensor([token for ids in inputs for token in ids])
    recorded = np.concatenate([output.experts for output in outputs if output.experts is not None])
    replay_TL = torch.from_numpy(recorded).long()
    plain = model.trunk(ids_T, lengths=lengths)
    replayed = model.trunk(ids_T, lengths=lengths, replay_TL=replay_TL)
    torch.testing.assert_close(plain.experts_TL, replay_TL)
    assert len(replay_TL.unique()) > 2
    for hidden_TD in (plain.hidden_TD, replayed.hidden_TD):
        logprobs_TV = (model.head(hidden_TD) / temperature).log_softmax(dim=-1)
        offset = 0
        for prompt, output, length in zip(prompts, outputs, lengths, strict=True):
            rows_NV = logprobs_TV[offset + len(prompt) - 1 : offset + length]
            taught = rows_NV[torch.arange(len(rows_NV)), output.token_ids]
            np.testing.assert_allclose(output.logprobs, taught.detach(), atol=1e-4)
            offset += length


def test_recorded_logprobs_are_of_the_truncated_and_renormalized_distribution(
    model: Zaya,
) -> None:
    params = SamplingParams(max_tokens=10, temperature=0.8, top_k=3, seed=5)
    prompt = prompts_of(4, 1)[0]
    output = alone(model, prompt, params)
    logits_TV = model(torch.tensor(prompt + output.token_ids[:-1])).detach() / 0.8
    top_NV = logits_TV[len(prompt) - 1 :].topk(3, dim=-1)
    for i, token in enumerate(output.token_ids):
        place = top_NV.indices[i].tolist().index(token)
        expected = float(top_NV.values[i].log_softmax(dim=-1)[place])
        assert output.logprobs[i] == pytest.approx(expected, abs=1e-4)


def test_greedy_logprobs_are_those_of_temperature_one(model: Zaya) -> None:
    prompt = prompts_of(5, 1)[0]
    output = alone(model, prompt, replace(GREEDY, top_k=1))
    logits_TV = model(torch.tensor(prompt + output.token_ids[:-1]))[len(prompt) - 1 :]
    best = logits_TV.log_softmax(dim=-1).amax(dim=-1)
    np.testing.assert_allclose(output.logprobs, best.detach(), atol=1e-4)
    assert min(output.logprobs) < -0.01


def test_identical_prompts_are_prefilled_once_and_keep_their_own_seeds(model: Zaya) -> None:
    prompt = prompts_of(6, 1, longest=30)[0]
    params = [replace(PLAIN, seed=i, capture_experts=True) for i in range(6)]
    engine = Engine(model, max_slots=8, max_tokens=64)
    outputs = engine.generate([prompt] * 6, params)
    assert engine.stats.tokens_prefilled == len(prompt)
    assert engine.stats.tokens_prefill_saved == 5 * len(prompt)
    for own, output in zip(params, outputs, strict=True):
        expected = alone(model, prompt, own)
        assert output.token_ids == expected.token_ids
        np.testing.assert_array_equal(output.experts, expected.experts)
    assert len({tuple(output.token_ids) for output in outputs}) == 6


@pytest.mark.parametrize("budget", [10, 16])
def test_a_prefill_makes_room_for_a_late_member_of_an_earlier_one(model: Zaya, budget: int) -> None:
    """The first prompt's second copy takes the slot where the other prompt is, or is being, built.

    With a budget of 10 the other one has not begun then, with 16 six of its tokens are computed.
    """
    first, other = [4, 9] * 5, [(7 * i) % 40 for i in range(40)]
    prompts = [first, other, first]
    params = [replace(PLAIN, seed=i) for i in range(3)]
    engine = Engine(model, max_slots=3, max_tokens=64, prefill_tokens=budget)
    outputs = engine.generate(prompts, params)
    for prompt, own, output in zip(prompts, params, outputs, strict=True):
        expected = alone(model, prompt, own)
        assert output.token_ids == expected.token_ids
        np.testing.assert_allclose(output.logprobs, expected.logprobs, atol=1e-4)


def test_one_set_of_params_gives_equal_prompts_different_samples_repeatably(model: Zaya) -> None:
    first, second = (
        Engine(model, max_slots=4, max_tokens=64).generate([[1, 2, 3]] * 4, PLAIN) for _ in "ab"
    )
    assert [o.token_ids for o in first] == [o.token_ids for o in second]
    assert len({tuple(o.token_ids) for o in first}) == 4
    assert first[0].token_ids == alone(model, [1, 2, 3], PLAIN).token_ids


def test_generation_ends_with_the_stop_token_and_says_so(model: Zaya) -> None:
    prompt = prompts_of(7, 1)[0]
    free = alone(model, prompt, PLAIN).token_ids
    stop = free[4]
    cut = alone(model, prompt, replace(PLAIN, stop_token_ids=(39, stop)))
    assert cut.token_ids == free[: free.index(stop) + 1]
    assert cut.finish_reason == "stop"
    last = alone(model, prompt, replace(PLAIN, max_tokens=5, stop_token_ids=(stop,)))
    assert last.finish_reason == "stop"


def test_stop_tokens_of_an_earlier_request_do_not_stop_a_later_one(model: Zaya) -> None:
    engine = Engine(model, max_slots=1, max_tokens=64)
    every = tuple(range(40))
    assert len(engine.generate([[1]], replace(PLAIN, stop_token_ids=every))[0].token_ids) == 1
    assert len(engine.generate([[1]], PLAIN)[0].token_ids) == PLAIN.max_tokens


def test_generation_fills_the_slot_to_its_last_token_and_ends_with_length(model: Zaya) -> None:
    engine = Engine(model, max_slots=2, max_tokens=16)
    long, short = engine.generate([[1] * 15, [2] * 3], [replace(PLAIN, max_tokens=500)] * 2)
    assert (len(long.token_ids), long.finish_reason) == (1, "length")
    assert (len(short.token_ids), short.finish_reason) == (13, "length")
    assert short.token_ids == alone(model, [2] * 3, replace(PLAIN, max_tokens=13)).token_ids


def test_the_size_of_the_blocks_in_which_draws_are_made_changes_nothing(
    model: Zaya, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = alone(model, [1, 2, 3], PLAIN).token_ids
    monkeypatch.setattr(sampling, "BLOCK_TOKENS", 3)
    engine = Engine(model, max_slots=3, max_tokens=64)
    engine.add([5, 6], replace(PLAIN, seed=1))
    engine.step()
    late = engine.add([1, 2, 3], PLAIN)
    assert drain(engine)[late].token_ids == whole


def test_every_token_carries_the_weights_version_that_sampled_it(model: Zaya) -> None:
    engine = Engine(model, max_slots=2, max_tokens=64)
    engine.add([1, 2], replace(PLAIN, max_tokens=6))
    engine.step()
    assert engine.bump_version() == engine.weights_version == 1
    engine.step()
    engine.bump_version()
    (output,) = drain(engine).values()
    assert output.versions == [0, 0, 1, 2, 2, 2]


def test_abort_returns_what_was_sampled_and_frees_the_slot_at_every_stage(model: Zaya) -> None:
    # Three slots: two requests decode, the third is being prefilled, the fourth waits.
    prompts = [*prompts_of(8, 2, longest=15), [11] * 100, [3]]
    engine = Engine(model, max_slots=3, max_tokens=128, prefill_tokens=31)
    ids = [engine.add(prompt, replace(PLAIN, seed=7)) for prompt in prompts]
    while len(engine._scheduler.decoding) < 2:
        engine.step()
    engine.step()
    for victim in (ids[0], ids[2], ids[3]):
        engine.abort(victim)
    engine.abort(ids[0])
    engine.abort(10_000)
    outputs = drain(engine)
    aborted = outputs[ids[0]]
    assert aborted.finish_reason == "abort"
    whole = alone(model, prompts[0], replace(PLAIN, seed=7)).token_ids
    assert 0 < len(aborted.token_ids) < len(whole)
    assert aborted.token_ids == whole[: len(aborted.token_ids)]
    for victim in (ids[2], ids[3]):
        assert outputs[victim].finish_reason == "abort"
        assert outputs[victim].token_ids == []
    assert outputs[ids[1]].token_ids == alone(model, prompts[1], replace(PLAIN, seed=7)).token_ids
    assert engine._scheduler.num_running == 0
    reused = [prompts[1], prompts[0], [2, 5]]
    for prompt, output in zip(
        reused, engine.generate(reused, [replace(PLAIN, seed=7)] * 3), strict=True
    ):
        assert output.token_ids == alone(model, prompt, replace(PLAIN, seed=7)).token_ids


def test_aborting_one_of_several_that_share_a_prefill_leaves_the_others(model: Zaya) -> None:
    prompt = prompts_of(9, 1)[0] * 4
    engine = Engine(model, max_slots=4, max_tokens=128, prefill_tokens=len(prompt) // 2)
    ids = [engine.add(prompt, replace(PLAIN, seed=i)) for i in range(3)]
    engine.step()
    engine.abort(ids[0])
    outputs = drain(engine)
    assert outputs[ids[0]].token_ids == []
    for i in (1, 2):
        expected = Engine(model, max_slots=1).generate([prompt], replace(PLAIN, seed=i))[0]
        assert outputs[ids[i]].token_ids == expected.token_ids


def test_a_priority_that_is_no_number_ends_no_other_request(model: Zaya) -> None:
    engine = Engine(model, max_slots=1, max_tokens=16)
    params = SamplingParams(max_tokens=2)
    good = engine.add([1], params, priority=np.int64(2))
    for wrong in ("a", None, 0.5):
        with pytest.raises(RequestError, match=r"priority is .*, expected a whole number"):
            engine.add([1], params, priority=wrong)  # type: ignore[arg-type]
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [output.request_id for output in outputs] == [good]


def test_smaller_priority_is_admitted_first_then_the_order_of_arrival(model: Zaya) -> None:
    engine = Engine(model, max_slots=1, max_tokens=64)
    short = replace(PLAIN, max_tokens=2)
    ids = [engine.add([i], short, priority=priority) for i, priority in enumerate((5, 1, 5, 0))]
    order = []
    while engine.has_work:
        order += [output.request_id for output in engine.step()]
    assert order == [ids[3], ids[1], ids[0], ids[2]]


def test_generate_keeps_the_outputs_of_other_requests_for_the_next_step(model: Zaya) -> None:
    engine = Engine(model, max_slots=4, max_tokens=64)
    other = engine.add([7, 8], replace(PLAIN, max_tokens=2))
    mine = engine.generate([[1, 2]], PLAIN)
    assert mine[0].token_ids == alone(model, [1, 2], PLAIN).token_ids
    assert engine.has_work
    assert [output.request_id for output in engine.step()] == [other]
    assert not engine.has_work


def test_a_refused_prompt_takes_the_others_of_its_generate_call_with_it(model: Zaya) -> None:
    engine = Engine(model, max_slots=2, max_tokens=16)
    with pytest.raises(ContextLengthError):
        engine.generate([[1, 2], [3] * 16], PLAIN)
    outputs = drain(engine)
    assert [output.finish_reason for output in outputs.values()] == ["abort"]


@pytest.mark.parametrize(
    ("prompt", "error", "said"),
    [
        ([1] * 16, ContextLengthError, "16 tokens, expected at most 15"),
        ([], RequestError, "empty"),
        ([3, 40], RequestError, "expected 0 to 39"),
        ([-1, 4], RequestError, "from -1 to 4"),
        ([1.5, 2], RequestError, r"float64 of shape \(2,\), expected one row of whole numbers"),
        ([[1], [3]], RequestError, r"of shape \(2, 1\), expected one row"),
        ([2**70], RequestError, "expected one row of whole numbers"),
        (["1"], RequestError, "expected one row of whole numbers"),
    ],
)
def test_prompts_that_cannot_be_served_are_refused_at_once(
    model: Zaya, prompt: list[Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Engine(model, max_slots=1, max_tokens=16).add(prompt, PLAIN)


def test_sizes_and_counts_that_do_not_fit_are_refused(model: Zaya) -> None:
    for sizes in ({"max_tokens": 129}, {"max_tokens": 1}, {"max_slots": 0}, {"prefill_tokens": 0}):
        with pytest.raises(ConfigError, match="expected"):
            Engine(model, **sizes)
    with pytest.raises(RequestError, match="1 params for 2 prompts"):
        Engine(model, max_slots=1).generate([[1], [2]], [PLAIN])


def test_diverged_weights_are_an_engine_error_and_never_tokens(
    make_model: Callable[..., Zaya],
) -> None:
    model = make_model()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(EngineError, match="not finite"):
        Engine(model, max_slots=1).generate([[1, 2]], PLAIN)


def test_stats_count_steps_tokens_and_the_mean_batch(model: Zaya) -> None:
    engine = Engine(model, max_slots=4, max_tokens=64)
    engine.generate([[1, 2, 3], [4, 5], [6]], [replace(PLAIN, max_tokens=n) for n in (2, 3, 5)])
    stats = engine.stats
    assert (stats.tokens_prefilled, stats.tokens_generated) == (6, 10)
    # Decode passes of 3, 2, 1 and 1 requests; the first of them in the step of the prefill.
    assert (stats.steps, stats.decode_steps, stats.mean_batch) == (4, 4, 7 / 4)
    engine.step()
    assert stats.steps == 4
