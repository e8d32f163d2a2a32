"""The local sampler: text in, text out, over one engine in a background thread."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from openzaya.backends import local
from openzaya.backends.local import LocalSampler, load_engine, load_local_sampler
from openzaya.backends.local_text import Unrolling
from openzaya.core.errors import ConfigError, ContextLengthError, EngineError
from openzaya.core.protocols import Sampler
from openzaya.core.records import Completion, Message, SampleRequest, Watch
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.text.chat import ChatTemplate
from openzaya.text.think import split_thinking
from openzaya.text.tokenizer import TextTokenizer

CONTEXT_TOKENS = 256
NANO = Path(__file__).parents[2] / "src" / "openzaya" / "assets" / "nano"
QUESTION = (Message("user", "add 2 and 3"),)
REQUEST = SampleRequest(messages=QUESTION, max_tokens=40, seed=5)


def make_tokenizer() -> TextTokenizer:
    """Return a tokenizer of single characters and the markers of the chat format."""
    characters = "\n " + "abcdefghijklmnopqrstuvwxyz0123456789?"
    backend = Tokenizer(WordLevel({c: i for i, c in enumerate(characters)}, unk_token="?"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.decoder = Fuse()
    markers = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    backend.add_special_tokens([AddedToken(marker, special=True) for marker in markers])
    return TextTokenizer(backend)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: TextTokenizer) -> Zaya:
    model = Zaya(preset("nano", vocab_size=tokenizer.vocab_size, num_hidden_layers=2))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture
def engine(model: Zaya) -> Engine:
    return Engine(model, max_slots=4, max_tokens=CONTEXT_TOKENS)


@pytest.fixture
def sampler(engine: Engine, tokenizer: TextTokenizer) -> Iterator[LocalSampler]:
    with LocalSampler(engine, tokenizer, ChatTemplate.pinned()) as sampler:
        yield sampler


async def gather(sampler: Sampler, requests: list[SampleRequest]) -> list[Completion]:
    return list(await asyncio.gather(*(sampler.sample(request) for request in requests)))


def expected_ids(
    model: Zaya, tokenizer: TextTokenizer, request: SampleRequest, thinking: bool = True
) -> list[int]:
    prompt = ChatTemplate.pinned().encode_prompt(request.messages, tokenizer, thinking)
    params = SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop_token_ids=(tokenizer.eos_id,),
    )
    engine = Engine(model, max_slots=1, max_tokens=CONTEXT_TOKENS)
    return engine.generate([prompt], params)[0].token_ids


def test_completions_are_those_of_the_engine_for_the_templates_prompt(
    sampler: LocalSampler, model: Zaya, tokenizer: TextTokenizer
) -> None:
    requests = [replace(REQUEST, seed=seed, top_p=0.95) for seed in range(7)]
    completions = asyncio.run(gather(sampler, requests))
    for request, completion in zip(requests, completions, strict=True):
        ids = expected_ids(model, tokenizer, request)
        stopped = ids[-1] == tokenizer.eos_id
        assert completion.token_ids == tuple(ids)
        assert completion.num_tokens == len(ids) == len(completion.logprobs)
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert completion.text == tokenizer.decode(ids[:-1] if stopped else ids)
        assert completion.started_in_think
        assert completion.num_prompt_tokens == sampler.count_prompt_tokens(QUESTION)
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_without_thinking_the_prompt_closes_the_block_and_the_completion_says_so(
    engine: Engine, model: Zaya, tokenizer: TextTokenizer
) -> None:
    chat = ChatTemplate.pinned()
    with LocalSampler(engine, tokenizer, chat, enable_thinking=False) as sampler:
        (completion,) = asyncio.run(gather(sampler, [REQUEST]))
        ids = tokenizer.encode("say </think> now")
        made = Output(
            request_id=1,
            prompt_len=3,
            token_ids=ids,
            logprobs=[0.0] * len(ids),
            versions=[0] * len(ids),
            experts=None,
            finish_reason="length",
        )
        quoting = sampler._completion(made)
    assert not completion.started_in_think
    assert completion.token_ids == tuple(expected_ids(model, tokenizer, REQUEST, thinking=False))
    assert split_thinking(quoting.text, quoting.started_in_think).answer == "say </think> now"


def test_cancelling_the_coroutine_aborts_the_request_and_leaves_the_others(
    sampler: LocalSampler, engine: Engine, model: Zaya, tokenizer: TextTokenizer
) -> None:
    # With seed 15 the reply has 210 tokens: far from done when the first one is seen.
    unbounded = replace(REQUEST, seed=15, max_tokens=210)
    other = replace(REQUEST, seed=99, max_tokens=60)

    async def scenario() -> Completion:
        long = asyncio.create_task(sampler.sample(unbounded))
        kept = asyncio.create_task(sampler.sample(other))
        while not engine.stats.tokens_generated:
            await asyncio.sleep(0)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        completion = await kept
        while engine.has_work:
            await asyncio.sleep(0.001)
        return completion

    alone = len(expected_ids(model, tokenizer, unbounded))
    completion = asyncio.run(scenario())
    assert completion.token_ids == tuple(expected_ids(model, tokenizer, other))
    assert engine.stats.tokens_generated < alone + completion.num_tokens
    (again,) = asyncio.run(gather(sampler, [REQUEST]))
    assert again.token_ids == tuple(expected_ids(model, tokenizer, REQUEST))


def test_a_watch_sees_the_whole_text_and_every_token(sampler: LocalSampler) -> None:
    async def scenario() -> None:
        for seed in range(6):
            watch = Watch()
            completion = await sampler.sample_watched(replace(REQUEST, seed=seed), watch)
            assert "".join(watch.pieces) == completion.text
            assert watch.num_tokens == completion.num_tokens
            assert completion == await sampler.sample(replace(REQUEST, seed=seed))

    asyncio.run(scenario())


@pytest.mark.parametrize("most", [1, 20])
def test_a_cut_ends_the_generation_and_returns_what_there_is(
    sampler: LocalSampler, engine: Engine, most: int
) -> None:
    async def scenario() -> None:
        watch = Watch()

        def on_text(_text: str, _num_tokens: int) -> None:
            if watch.num_tokens >= most:
                watch.cut.set()

        watch.on_text = on_text
        unbounded = replace(REQUEST, seed=15, max_tokens=210)
        completion = await sampler.sample_watched(unbounded, watch)
        whole = await sampler.sample(unbounded)
        assert completion.finish_reason == "abort"
        assert most <= completion.num_tokens < whole.num_tokens == 210
        assert whole.text.startswith(completion.text)
        assert "".join(watch.pieces) == completion.text

    asyncio.run(scenario())
    assert not engine.has_work


def test_equal_prompts_of_one_moment_are_computed_once(
    sampler: LocalSampler, engine: Engine
) -> None:
    requests = [replace(REQUEST, seed=seed, max_tokens=2) for seed in range(4)]
    asyncio.run(gather(sampler, requests))
    assert engine.stats.tokens_prefilled == sampler.count_prompt_tokens(QUESTION)


def test_the_oldest_run_goes_first_where_there_is_no_room_for_all(
    sampler: LocalSampler, engine: Engine
) -> None:
    order: list[int] = []

    async def ask(priority: int) -> None:
        await sampler.sample(replace(REQUEST, seed=15, max_tokens=8, priority=priority))
        order.append(priority)

    async def scenario() -> None:
        await asyncio.gather(*(ask(priority) for priority in reversed(range(12))))

    asyncio.run(scenario())
    assert [set(order[i : i + 4]) for i in (0, 4, 8)] == [
        {0, 1, 2, 3},
        {4, 5, 6, 7},
        {8, 9, 10, 11},
    ]


def test_characters_of_several_tokens_are_told_whole() -> None:
    class Bytes:
        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode("utf-8", "replace")

    text = "a\u00e9\u20ac\U0001f600" * 40
    unrolling = Unrolling(Bytes())  # type: ignore[arg-type]
    pieces = [unrolling.add([byte]) for byte in text.encode()]
    assert "".join(pieces) == text
    assert set(pieces) == {"", *text}


def test_a_prompt_beyond_the_context_is_refused_and_the_sampler_goes_on(
    sampler: LocalSampler,
) -> None:
    too_long = replace(REQUEST, messages=(Message("user", "a" * CONTEXT_TOKENS),))
    with pytest.raises(ContextLengthError, match="expected at most 255"):
        asyncio.run(gather(sampler, [too_long]))
    assert asyncio.run(gather(sampler, [REQUEST]))[0].num_tokens > 0


def test_an_engine_failure_reaches_everyone_who_waits_and_everyone_who_comes_later(
    engine: Engine, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(engine, "step", broken)
    with LocalSampler(engine, tokenizer, ChatTemplate.pinned()) as sampler:

        async def scenario() -> list[Completion | BaseException]:
            waiting = (sampler.sample(replace(REQUEST, seed=i)) for i in range(3))
            return await asyncio.gather(*waiting, return_exceptions=True)

        for result in asyncio.run(scenario()):
            assert isinstance(result, EngineError)
            assert "out of memory" in str(result)
        with pytest.raises(EngineError, match="RuntimeError: out of memory"):
            asyncio.run(gather(sampler, [REQUEST]))


def test_closing_wakes_those_who_wait_and_refuses_those_who_come_later(
    engine: Engine, tokenizer: TextTokenizer
) -> None:
    sampler = LocalSampler(engine, tokenizer, ChatTemplate.pinned())

    async def scenario() -> Completion:
        waiting = asyncio.create_task(sampler.sample(replace(REQUEST, seed=15, max_tokens=210)))
        for _ in range(3):  # until it is handed in
            await asyncio.sleep(0)
        sampler.close()
        return await waiting

    with pytest.raises(EngineError, match="was closed"):
        asyncio.run(scenario())
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(gather(sampler, [REQUEST]))
    sampler.close()


def test_last_tokens_are_the_suffix_of_so_many_tokens(sampler: LocalSampler) -> None:
    assert sampler.last_tokens("abc 123", 4) == " 123"
    assert sampler.last_tokens("abc", 0) == ""
    assert sampler.last_tokens("abc", 9) == "abc"


def test_a_model_folder_becomes_a_sampler(
    tmp_path: Path, model: Zaya, tokenizer: TextTokenizer
) -> None:
    model.save(tmp_path)
    tokenizer.save(tmp_path)
    with load_local_sampler(tmp_path, max_slots=2, max_tokens=CONTEXT_TOKENS) as sampler:
        (completion,) = asyncio.run(gather(sampler, [REQUEST]))
    assert completion.token_ids == tuple(expected_ids(model, tokenizer, REQUEST))


def test_the_context_is_no_longer_than_what_the_cache_holds(monkeypatch):
    room_bytes = 5 * 64 * 4 * (2 * 64 * 4 + (2 * 192 + 32) * 4 // 64)  # of the nano model: 5 blocks
    monkeypatch.setattr(local, "cache_bytes", lambda device: room_bytes)
    engine = load_engine(NANO, max_slots=4, max_tokens=None)
    assert engine.max_tokens == 5 * 64
    # Whatever fits the context can be asked for.
    engine.add([5], SamplingParams(max_tokens=4096))
    assert len(engine.step()) == 0
    assert load_engine(NANO, max_slots=4, max_tokens=320).max_tokens == 320
    with pytest.raises(ConfigError, match=r"context of 321 tokens .* the 320 that .* at most 320"):
        load_engine(NANO, max_slots=4, max_tokens=321)


@pytest.fixture(scope="module")
def nano() -> Iterator[LocalSampler]:
    """The bundled model, which has learnt to think and to answer."""
    with load_local_sampler(NANO, max_slots=2, max_tokens=512) as sampler:
        yield sampler


def test_a_turn_that_is_continued_goes_on_as_if_it_had_not_been_interrupted(nano):
    """Greedy, so that the second half can only follow from the first."""
    ask = SampleRequest((Message("user", "sort qdkax"),), 200, seed=1, temperature=0.0)

    async def main():
        whole = await nano.sample(ask)
        half = await nano.sample(replace(ask, max_tokens=whole.num_tokens // 3))
        watch = Watch()
        rest = await nano.sample_continuation(ask, half.text, watch)
        behind = await nano.sample_continuation(ask, "\n</think>\n\n", Watch())
        return whole, half, rest, behind, "".join(watch.pieces)

    whole, half, rest, behind, told = asyncio.run(main())
    assert half.finish_reason == "length"
    assert half.text + rest.text == whole.text
    assert told == rest.text
    assert half.num_tokens + rest.num_tokens == whole.num_tokens
    assert rest.num_prompt_tokens == half.num_prompt_tokens + half.num_tokens
    assert (rest.started_in_think, behind.started_in_think) == (True, False)
    head = nano.first_tokens(whole.text, 5)
    assert whole.text.startswith(head)
    assert nano.first_tokens(whole.text, 10_000) == whole.text
    assert nano.first_tokens(whole.text, 0) == ""
