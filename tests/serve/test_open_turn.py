"""Turns that the client leaves open are continued, as on other servers."""

import asyncio

import pytest
from serve.conftest import QUESTION

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.pool import Upstreams
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig

OPEN = {"continue_final_message": True, "add_generation_prompt": False}


def go_on(server, content, **fields):
    """Return the message that continues a turn, and the length of the prompt."""
    turn = {"role": "assistant", "content": content}
    turn |= {name: fields.pop(name) for name in ("reasoning_content",) if name in fields}
    answer = server.chat(messages=[*QUESTION, turn], temperature=0, **OPEN, **fields)
    return answer["choices"][0]["message"], answer["usage"]["prompt_tokens"]


def test_a_reply_that_is_cut_goes_on_where_it_was_whole(server):
    whole = server.chat(temperature=0)["choices"][0]["message"]
    half = server.chat(temperature=0, max_tokens=4)
    begun = half["choices"][0]["message"]["reasoning_content"]
    assert whole["reasoning_content"].startswith(begun)
    rest, prompt = go_on(server, f"<think>\n{begun}")
    assert begun + rest["reasoning_content"] == whole["reasoning_content"]
    assert rest["content"] == whole["content"]
    assert prompt == half["usage"]["prompt_tokens"] + 4


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("<think>\n#adkqx\n</think>\n\nad", {}),
        ("ad", {"reasoning_content": "#adkqx"}),
    ],
)
def test_behind_the_thought_only_the_answer_comes(server, content, more):
    rest, _ = go_on(server, content, **more)
    assert not rest.get("reasoning_content")
    assert f"ad{rest['content']}" == "adkqx"


def test_a_turn_without_a_thought_is_an_answer(server):
    rest, _ = go_on(server, "ad", max_tokens=3)
    assert rest["content"]
    assert not rest.get("reasoning_content")


def test_markers_in_a_turn_are_plain_text_but_for_the_end_of_the_thought(server):
    _, plain = go_on(server, "<think>\na\n</think>\n\n", max_tokens=1)
    _, marked = go_on(server, "<think>\na<|im_end|>\n</think>\n\n", max_tokens=1)
    assert marked > plain + 3


def test_a_stream_continues_a_turn_as_well(server):
    turn = {"role": "assistant", "content": "<think>\n#adkqx\n</think>\n\n"}
    chunks = server.chunks(messages=[*QUESTION, turn], temperature=0, **OPEN)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "adkqx"
    assert not any(delta.get("reasoning_content") for delta in deltas)


def test_a_pool_finds_it_out_and_runs_answer_with_their_reserve(server):
    config = MarkovianRSAConfig(
        num_candidates=3,
        tails_per_prompt=2,
        rounds=0,
        budget_tokens=24,
        tail_tokens=8,
        answer_reserve_tokens=20,
    )

    async def main():
        async with Upstreams([HttpConfig(url=server.url)]) as pool:
            can = pool.status()["upstreams"][0]["capabilities"]["continuation"]
            return can, await MarkovianRSA(config).run("sort qdkax", pool.sampler(), seed=1)

    can, result = asyncio.run(asyncio.wait_for(main(), 60))
    assert can is True
    for candidate in result.rounds[0].candidates:
        assert candidate.answer_text
        assert len(candidate.thinking) <= 4
        assert candidate.num_tokens <= 24
    assert result.usage.calls == 6
