"""What a run may generate holds for servers that tell their tokens late and many at a time."""

import asyncio

import pytest

from openzaya.backends.chat_stream import ChatStream
from openzaya.backends.http_server import HttpConfig
from openzaya.backends.mock import MockConfig, MockUpstream
from openzaya.backends.pool import Upstreams
from openzaya.core.records import Watch
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig

EVENT = '{{"choices": [{{"index": 0, "delta": {{"content": "{}"}}}}]}}'


@pytest.mark.parametrize(
    ("text", "ratio", "told"), [("word " * 16, 5.0, 16), ("x", 4.0, 1), ("word " * 16, 0.0, 1)]
)
def test_an_event_counts_as_the_tokens_that_its_text_must_hold(text, ratio, told):
    watch = Watch()
    stream = ChatStream(watch, ratio)
    stream.feed(EVENT.format(text))
    assert watch.num_tokens == told
    for _ in range(4):
        stream.feed(EVENT.format(text))
    assert watch.num_tokens == max(5, 5 * told)


@pytest.mark.slow
def test_a_hard_cap_holds_over_a_server_without_ids_that_sends_16_tokens_an_event():
    cap = 4000
    config = MarkovianRSAConfig(rounds=1, budget_tokens=1600, tail_tokens=100, max_total_tokens=cap)

    async def main():
        mock = MockConfig(length="fixed:900", token_s=0.006, chunk_tokens=16)
        async with (
            MockUpstream(mock) as upstream,
            Upstreams([HttpConfig(url=upstream.url)]) as pool,
        ):
            return await MarkovianRSA(config).run("what?", pool.sampler(), seed=1)

    result = asyncio.run(asyncio.wait_for(main(), 60))
    # One batch is one event of each call in flight; a loaded machine reads a few at once.
    assert result.usage.generated <= cap + 4 * 16 * 16
    assert all(tokens > 500 for tokens in result.usage.generated_by_stage)


@pytest.mark.parametrize(
    ("served", "taken"), [("a,a:mrsa-16k,a:mrsa-light", "a"), ("a:mrsa-16k", "a:mrsa-16k")]
)
def test_presets_that_a_gateway_lists_leave_the_choice_of_its_only_model_clear(served, taken):
    async def main():
        async with (
            MockUpstream(MockConfig(model=served)) as upstream,
            Upstreams([HttpConfig(url=upstream.url)]) as pool,
        ):
            return pool.models

    assert asyncio.run(main())[0] == taken
