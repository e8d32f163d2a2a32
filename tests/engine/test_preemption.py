"""Few blocks: requests wait, step back and go on, and nobody's output shows it."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from openzaya.core.errors import ConfigError, RequestError
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.zaya import Zaya

PLAIN = SamplingParams(max_tokens=80, seed=3)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(40) for _ in range(count)]


def make(model: Zaya, **options: Any) -> Engine:
    return Engine(model, **{"max_slots": 4, "max_tokens": 400, **options})


def drain(engine: Engine) -> dict[int, Output]:
    outputs = {}
    while engine.has_work:
        outputs.update({output.request_id: output for output in engine.step()})
    return outputs


def assert_undisturbed(
    model: Zaya, output: Output, prompt: list[int], params: SamplingParams
) -> None:
    expected = make(model, max_slots=1, kept_blocks=0).generate([prompt], [params])[0]
    assert output.token_ids == expected.token_ids
    assert output.finish_reason == expected.finish_reason
    np.testing.assert_allclose(output.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_array_equal(output.experts, expected.experts)


def assert_empty(engine: Engine) -> None:
    """Nothing is held, and nothing is lost, once the kept prefixes are cleared too."""
    engine._prefix.clear()
    scheduler, cache = engine._scheduler, engine._runner.cache
    assert scheduler.num_running == 0
    assert not scheduler.queue
    assert sorted(scheduler._free_rows) == list(range(scheduler._max_running))
    assert [*scheduler._prefills, *scheduler._joinable, *scheduler.decoding] == []
    assert not any(cache.lengths)
    assert cache.filled == []
    for kind, pool in cache.pools.items():
        assert (pool.num_used, pool.num_idle) == (0, 0)
        assert sorted(pool._free) == list(range(pool.num_blocks))
        assert len(pool._kept) == pool.refs.sum() == 0
        assert (cache.tables[kind] == -1).all()
    assert all(tenant.num_running == 0 for tenant in scheduler.queue._tenants.values())


@pytest.mark.parametrize("kept", [None, 2, 0])
def test_a_preempted_request_ends_as_if_it_had_run_undisturbed(
    any_model: Zaya, kept: int | None
) -> None:
    prompts = [ids(50 + 9 * i, i) for i in range(4)]
    params = [replace(PLAIN, seed=i, temperature=1.5, capture_experts=True) for i in range(4)]
    engine = make(any_model, num_blocks=6, kept_blocks=kept)
    outputs = engine.generate(prompts, params)
    assert engine.stats.preemptions > 0
    for output, prompt, own in zip(outputs, prompts, params, strict=True):
        assert_undisturbed(any_model, output, prompt, own)
    assert_empty(engine)


def test_the_least_urgent_steps_back_and_the_most_urgent_never(long_model: Zaya) -> None:
    engine = make(long_model, num_blocks=6, kept_blocks=0)
    # Admitted first, but of the lowest priority, so it must go although it is the oldest.
    low = engine.add(ids(60, 1), PLAIN, priority=5)
    engine.step()
    first = engine.add(ids(60, 2), PLAIN, priority=1)
    second = engine.add(ids(60, 3), PLAIN, priority=1)
    third = engine.add(ids(60, 4), PLAIN, priority=1)
    preempted: list[int] = []
    again = engine._scheduler._queue_again

    def watch(request: Any) -> None:
        preempted.append(request.request_id)
        again(request)

    engine._scheduler._queue_again = watch  # type: ignore[method-assign]
    order = []
    while engine.has_work:
        order += [output.request_id for output in engine.step()]
    assert preempted[:2] == [low, third]
    assert first not in preempted
    assert order[:2] == [first, second]
    assert set(order) == {low, first, second, third}


def test_a_prefill_steps_back_for_more_urgent_requests_that_decode(long_model: Zaya) -> None:
    engine = make(long_model, num_blocks=6, prefill_tokens=40, kept_blocks=0)
    params = replace(PLAIN, max_tokens=150)
    urgent = [engine.add(ids(30, seed), params) for seed in range(2)]
    while len(engine._scheduler.decoding) < 2 or engine._runner.cache.lengths[0] < 120:
        engine.step()
    late = engine.add(ids(200, 5), replace(PLAIN, max_tokens=5), priority=3)
    # As if admission had been too generous.
    engine._scheduler.room.fits = lambda *_: True  # type: ignore[method-assign]
    outputs = drain(engine)
    assert engine.stats.preemptions > 0
    for seed, request_id in enumerate(urgent):
        assert_undisturbed(long_model, outputs[request_id], ids(30, seed), params)
    assert_undisturbed(long_model, outputs[late], ids(200, 5), replace(PLAIN, max_tokens=5))


def test_candidates_for_whom_no_block_is_left_wait_and_lose_nothing(any_model: Zaya) -> None:
    prompt = ids(100)
    params = [replace(PLAIN, max_tokens=90, seed=seed) for seed in range(4)]
    engine = make(any_model, num_blocks=4)
    outputs = engine.generate([prompt] * 4, params)
    for output, own in zip(outputs, params, strict=True):
        assert_undisturbed(any_model, output, prompt, own)
    assert_empty(engine)


def test_prefills_that_share_too_few_blocks_come_to_their_end(any_model: Zaya) -> None:
    prompts = [ids(250, seed) for seed in range(3)]
    params = replace(PLAIN, max_tokens=3, seed=0)
    engine = make(any_model, num_blocks=5, prefill_tokens=64)
    for prompt in prompts:
        engine.add(prompt, params)
    # As if admission had been too generous.
    engine._scheduler.room.fits = lambda *_: True  # type: ignore[method-assign]
    outputs = drain(engine)
    for request_id, prompt in enumerate(prompts):
        assert_undisturbed(any_model, outputs[request_id], prompt, params)
    assert_empty(engine)


@pytest.mark.parametrize("stage", ["preempted", "running"])
def test_an_abort_returns_what_a_request_had_wherever_it_is(long_model: Zaya, stage: str) -> None:
    engine = make(long_model, num_blocks=4)
    params = [replace(PLAIN, seed=i) for i in range(3)]
    requests = [engine.add(ids(60, i), own) for i, own in enumerate(params)]
    outputs: dict[int, Output] = {}
    while not engine.stats.preemptions:
        outputs.update({output.request_id: output for output in engine.step()})
    waiting = [
        heap[2].request_id for t in engine._scheduler.queue._tenants.values() for heap in t.waiting
    ]
    victim = waiting[0] if stage == "preempted" else requests[0]
    engine.abort(victim)
    outputs.update(drain(engine))
    aborted = outputs[victim]
    assert aborted.finish_reason == "abort"
    whole = make(long_model).generate([ids(60, victim)], [params[victim]])[0].token_ids
    assert 0 < len(aborted.token_ids) < len(whole)
    assert aborted.token_ids == whole[: len(aborted.token_ids)]
    for other in set(requests) - {victim}:
        assert_undisturbed(long_model, outputs[other], ids(60, other), params[other])
    assert_empty(engine)


def test_a_request_that_could_never_fit_is_refused_at_once(any_model: Zaya) -> None:
    engine = make(any_model, num_blocks=3)
    engine.add(ids(100), replace(PLAIN, max_tokens=93))
    with pytest.raises(RequestError, match=r"may grow to 193 tokens, 4 blocks of 64"):
        engine.add(ids(100), replace(PLAIN, max_tokens=94))
    (output,) = drain(engine).values()
    assert len(output.token_ids) == 93


def test_pools_in_which_nothing_fits_are_refused(any_model: Zaya) -> None:
    with pytest.raises(ConfigError, match="larger num_blocks"):
        make(any_model, num_blocks={"hybrid": 0, "hybrid_sliding": 2})
    if "hybrid_sliding" in any_model.config.layer_types:
        with pytest.raises(ConfigError, match="expected at least 3"):
            make(any_model, num_blocks={"hybrid": 9, "hybrid_sliding": 2})


def test_sliding_layers_need_only_their_window() -> None:
    from engine.conftest import SLIDING, spread_model

    model = spread_model(max_position_embeddings=512, **SLIDING)
    engine = make(model, num_blocks={"hybrid": 7, "hybrid_sliding": 3}, prefill_tokens=300)
    params = replace(PLAIN, max_tokens=100)
    outputs = engine.generate([ids(300), ids(40, 1)], [params, params])
    assert_undisturbed(model, outputs[0], ids(300), params)
    assert_undisturbed(model, outputs[1], ids(40, 1), params)
    assert_empty(engine)


def test_tenants_are_served_alike_and_priorities_come_first(long_model: Zaya) -> None:
    engine = make(long_model, max_slots=1)
    short = replace(PLAIN, max_tokens=10)
    many = [engine.add(ids(20, i), short, tenant="many") for i in range(6)]
    few = [engine.add(ids(20, 10 + i), short, tenant="few") for i in range(2)]
    urgent = engine.add(ids(20, 30), short, priority=-1, tenant="many")
    order = []
    while engine.has_work:
        order += [output.request_id for output in engine.step()]
    # The urgent one counts as served: the others take two turns before theirs come again.
    assert order[0] == urgent
    assert order == [urgent, few[0], many[0], few[1], *many[1:]]


def test_a_tenant_with_long_answers_gets_fewer_turns(long_model: Zaya) -> None:
    engine = make(long_model, max_slots=1)
    long = [engine.add([1, i], replace(PLAIN, max_tokens=60), tenant="long") for i in range(2)]
    short = [engine.add([2, i], replace(PLAIN, max_tokens=8), tenant="short") for i in range(5)]
    order = []
    while engine.has_work:
        order += [output.request_id for output in engine.step()]
    assert order == [long[0], *short, long[1]]


def run_at_random(engine: Engine, count: int, rng: Random) -> dict[int, tuple[Output, Any]]:
    """Ask, abort and change versions at random; return outputs and how to ask for them again."""
    stems = [ids(200, i) for i in range(3)]
    asked: dict[int, tuple[list[int], SamplingParams]] = {}
    outputs: dict[int, Output] = {}
    aborted = set()
    while len(asked) < count or engine.has_work:
        if len(asked) < count and rng.random() < 0.6:
            prompt = rng.choice(stems)[: rng.randint(1, 200)]
            params = replace(PLAIN, max_tokens=rng.choice([1, 3, 20, 100]), seed=rng.randrange(99))
            salt = rng.choice("xy")
            priority, tenant = rng.randrange(3), rng.choice("ab")
            request_id = engine.add(prompt, params, priority, tenant=tenant, salt=salt)
            asked[request_id] = prompt, params
        if asked and rng.random() < 0.1:
            aborted.add(victim := rng.choice(list(asked)))
            engine.abort(victim)
        if rng.random() < 0.02:
            engine.bump_version()
        outputs.update({output.request_id: output for output in engine.step()})
    assert set(outputs) == set(asked)
    return {i: (outputs[i], asked[i]) for i in set(asked) - aborted}


@pytest.mark.parametrize(
    "count", [pytest.param(60, id="60"), pytest.param(500, id="500", marks=pytest.mark.slow)]
)
def test_random_requests_with_aborts_leave_nothing_behind(count: int) -> None:
    from engine.conftest import spread_model

    kinds = ("hybrid", "hybrid_sliding")
    model = spread_model(
        max_position_embeddings=512, num_hidden_layers=2, layer_types=kinds, sliding_window=70
    )
    rng = Random(count)
    engine = make(model, max_slots=5, num_blocks=7, prefill_tokens=90)
    finished = run_at_random(engine, count, rng)
    for request_id in rng.sample(sorted(finished), 8):
        output, asked = finished[request_id]
        assert_undisturbed(model, output, *asked)
    assert engine.stats.preemptions > 0
    assert engine.stats.prefix_hit_tokens > 0
    assert engine.stats.evictions > 0
    assert_empty(engine)
