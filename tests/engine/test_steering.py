"""Penalties, biases, the budget for thinking, and being told every token."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from openzaya.core.errors import RequestError
from openzaya.engine.engine import Engine
from openzaya.engine.request import SamplingParams, TokenEvent
from openzaya.model.zaya import Zaya

PROMPT = [4, 9, 4, 17, 30]
STEERED = SamplingParams(
    max_tokens=14,
    seed=5,
    temperature=0.8,
    presence_penalty=0.7,
    frequency_penalty=0.4,
    repetition_penalty=1.3,
    logit_bias=((3, 2.5), (7, -1.5)),
)


def listen(
    model: Zaya, prompts: Sequence[list[int]], params: Sequence[SamplingParams]
) -> list[list[TokenEvent]]:
    """Return every request's events; all run together."""
    engine = Engine(model, max_slots=len(prompts), max_tokens=64, prefill_tokens=16)
    told: list[list[TokenEvent]] = [[] for _ in prompts]
    for prompt, own, events in zip(prompts, params, told, strict=True):
        engine.add(prompt, own, on_token=events.append)
    while engine.has_work:
        engine.step()
    return told


def steered(logits: list[float], prompt: list[int], done: list[int], p: SamplingParams):
    """Return the changed logits by the definitions, one token at a time."""
    bias = dict(p.logit_bias)
    out = []
    for token, logit in enumerate(logits):
        if token in prompt or token in done:
            logit = logit / p.repetition_penalty if logit > 0 else logit * p.repetition_penalty
        logit -= p.frequency_penalty * done.count(token)
        logit -= p.presence_penalty * (token in done)
        out.append(logit + bias.get(token, 0.0))
    return torch.tensor(out)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"presence_penalty": 0.0, "frequency_penalty": 0.0},
        {"repetition_penalty": 1.0, "logit_bias": ()},
        {"temperature": 0.0},
        {"repetition_penalty": 0.8, "frequency_penalty": -0.5},
    ],
)
def test_every_logprob_is_the_one_of_the_definitions(model: Zaya, changes: dict) -> None:
    params = replace(STEERED, **changes)
    (events,) = listen(model, [PROMPT], [params])
    ids = [event.token_id for event in events]
    assert len(set(ids)) < len(ids)
    logits_TV = model(torch.tensor(PROMPT + ids[:-1])).detach()
    for at, event in enumerate(events):
        scores_V = steered(logits_TV[len(PROMPT) - 1 + at].tolist(), PROMPT, ids[:at], params)
        expected_V = (scores_V / (params.temperature or 1.0)).log_softmax(dim=-1)
        assert event.logprob == pytest.approx(float(expected_V[event.token_id]), abs=2e-4)
        if params.temperature == 0:
            assert event.token_id == int(expected_V.argmax())


def test_steered_requests_and_their_neighbours_get_the_tokens_they_get_alone(model: Zaya) -> None:
    plain = SamplingParams(max_tokens=14, seed=8)
    thinker = replace(plain, think_budget=4, think_end_ids=(38, 37))
    params = [STEERED, plain, thinker, replace(STEERED, seed=6), replace(plain, top_logprobs=3)]
    prompts = [PROMPT, [1, 2], [8] * 12, [3], PROMPT]
    crowd = listen(model, prompts, params)
    for prompt, own, events in zip(prompts, params, crowd, strict=True):
        (alone,) = listen(model, [prompt], [own])
        assert [e.token_id for e in events] == [e.token_id for e in alone]
        np.testing.assert_allclose(
            [e.logprob for e in events], [e.logprob for e in alone], atol=1e-4
        )


def test_a_row_forgets_the_penalties_of_its_last_request(model: Zaya) -> None:
    engine = Engine(model, max_slots=1, max_tokens=64)
    plain = SamplingParams(max_tokens=10, seed=1)
    expected = engine.generate([PROMPT], [plain])[0].token_ids
    banned = replace(plain, logit_bias=tuple((token, -100.0) for token in set(expected)))
    other = engine.generate([PROMPT], [banned])[0].token_ids
    assert not set(other) & set(expected)
    engine.abort(engine.add(PROMPT, banned))
    engine.step()
    assert engine._steering.is_idle
    assert engine.generate([PROMPT], [plain])[0].token_ids == expected


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_spent_think_budget_forces_the_end_with_its_true_logprobs(
    model: Zaya, budget: int
) -> None:
    params = SamplingParams(max_tokens=12, seed=2, temperature=0.9, top_k=2)
    (free,) = listen(model, [PROMPT], [params])
    limited = replace(params, think_budget=budget, think_end_ids=(39, 38, 37))
    (events,) = listen(model, [PROMPT], [limited])
    ids = [event.token_id for event in events]
    assert ids[:budget] == [event.token_id for event in free][:budget]
    assert ids[budget : budget + 3] == [39, 38, 37]
    assert ids.count(39) == 1
    logits_TV = model(torch.tensor(PROMPT + ids[:-1])).detach() / 0.9
    for at in range(budget, budget + 3):
        expected_V = logits_TV[len(PROMPT) - 1 + at].log_softmax(dim=-1)
        assert events[at].logprob == pytest.approx(float(expected_V[ids[at]]), abs=2e-4)


def test_a_thought_that_ended_by_itself_is_not_ended_again(model: Zaya) -> None:
    params = SamplingParams(max_tokens=12, seed=2, temperature=4.0)
    (free,) = listen(model, [PROMPT], [params])
    ids = [event.token_id for event in free]
    assert ids[3] not in ids[:3]
    for closed in (
        {"think_end_ids": tuple(ids[2:4])},
        {"think_end_ids": (39,), "think_close_ids": (ids[3], 35)},
    ):
        (events,) = listen(model, [PROMPT], [replace(params, think_budget=4, **closed)])
        assert [event.token_id for event in events] == ids
        (late,) = listen(model, [PROMPT], [replace(params, think_budget=2, **closed)])
        assert late[2].token_id == closed["think_end_ids"][0]


def test_of_an_end_that_has_begun_only_the_rest_is_forced(model: Zaya) -> None:
    params = SamplingParams(max_tokens=12, seed=2, temperature=4.0)
    (free,) = listen(model, [PROMPT], [params])
    ids = [event.token_id for event in free]
    assert 38 not in ids[:6]
    assert 37 not in ids[:6]
    for begun in ([], ids[3:4], ids[2:4]):
        limited = replace(params, think_budget=4, think_end_ids=(*begun, 38, 37))
        (events,) = listen(model, [PROMPT], [limited])
        assert [event.token_id for event in events][:6] == [*ids[:4], 38, 37]


def test_events_count_from_zero_and_the_last_one_says_why(model: Zaya) -> None:
    params = SamplingParams(max_tokens=6, seed=3, top_logprobs=4, top_k=3)
    engine = Engine(model, max_slots=2, max_tokens=64)
    events: list[TokenEvent] = []
    request_id = engine.add(PROMPT, params, on_token=events.append)
    silent = engine.add(PROMPT, params)
    outputs = {}
    while engine.has_work:
        outputs.update({o.request_id: o for o in engine.step()})
    assert [e.index for e in events] == list(range(6))
    assert [e.finish_reason for e in events] == [None] * 5 + ["length"]
    assert {e.request_id for e in events} == {request_id}
    output = outputs[request_id]
    assert [e.token_id for e in events] == output.token_ids == outputs[silent].token_ids
    assert [e.logprob for e in events] == pytest.approx(output.logprobs)
    for event in events:
        assert len(event.top) == 3  # top-k left no fourth one
        logprobs = [logprob for _, logprob in event.top]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(np.exp(logprobs)) == pytest.approx(1.0, abs=1e-4)
        assert dict(event.top)[event.token_id] == pytest.approx(event.logprob)


def test_an_aborted_request_is_told_no_more_and_leaves_nothing_behind(model: Zaya) -> None:
    engine = Engine(model, max_slots=2, max_tokens=128, prefill_tokens=8)
    events: list[TokenEvent] = []
    params = replace(STEERED, max_tokens=50)
    running = engine.add([1, 2], params, on_token=events.append)
    prefilling = engine.add([5] * 60, params, on_token=events.append)
    waiting = engine.add([3], params, on_token=events.append)
    for _ in range(3):
        engine.step()
    told = len(events)
    assert told > 0
    for request_id in (running, prefilling, waiting):
        engine.abort(request_id)
    reasons = [output.finish_reason for output in engine.step()]
    assert reasons == ["abort"] * 3
    assert len(events) == told
    assert engine.num_running == 0
    assert not engine.has_work
    assert engine._steering.is_idle
    assert engine._listeners._requests == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"presence_penalty": float("nan")}, "presence_penalty is nan"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty is"),
        ({"presence_penalty": 1e39}, "presence_penalty is"),
        ({"temperature": 1e-30}, "temperature is"),
        ({"logit_bias": ((1, float("nan")),)}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs is 21"),
        ({"top_k": 2**70}, "top_k is"),
        ({"think_budget": 3}, "think_end_ids"),
        ({"think_budget": -1, "think_end_ids": (1,)}, "think_budget is -1"),
    ],
)
def test_values_that_cannot_be_honoured_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        SamplingParams(max_tokens=1, **changes)


def test_the_most_extreme_values_taken_leave_the_engine_alive(model: Zaya) -> None:
    worst = SamplingParams(
        max_tokens=8,
        temperature=1e-4,
        presence_penalty=-1e4,
        frequency_penalty=-1e4,
        repetition_penalty=0.01,
        logit_bias=tuple((token, 1e4 * (-1) ** token) for token in range(40)),
        top_p=5e-324,
        min_p=5e-324,
    )
    for changes in ({}, {"repetition_penalty": 100.0}, {"presence_penalty": 1e4}):
        (events,) = listen(model, [PROMPT], [replace(worst, **changes)])
        assert all(np.isfinite(event.logprob) for event in events)


@pytest.mark.parametrize(
    "changes",
    [
        {"logit_bias": ((40, 1.0),)},
        {"logit_bias": ((1.5, 1.0),)},
        {"think_budget": 1, "think_end_ids": (-1,)},
        {"stop_token_ids": (2**70,)},
        {"stop_token_ids": (1.5,)},
    ],
)
def test_what_is_no_id_is_refused(model: Zaya, changes: dict) -> None:
    engine = Engine(model, max_slots=1, max_tokens=16)
    with pytest.raises(RequestError, match=f"{list(changes)[-1]} holds the id .* expected 0 to"):
        engine.add([1], SamplingParams(max_tokens=1, **changes))
