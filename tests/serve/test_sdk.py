"""The openai SDK, unchanged, against a real server."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from openzaya.engine.request import SamplingParams

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
                "required": ["a"],
            },
        },
    }
]
CALL = (
    "sum\n</think>\n\nLet me add.\n<zyphra_tool_call>\n<function=add>\n<parameter=a>\n17\n"
    "</parameter>\n<parameter=note>\n3\n</parameter>\n</function>\n</zyphra_tool_call>"
)
QUESTION = [{"role": "user", "content": "sort qdkax"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def ask(client, **fields):
    return client.chat.completions.create(model="nano", messages=QUESTION, **fields)


def test_the_sdk_chats_and_learns_the_model(client):
    first, *others = [model.id for model in client.models.list()]
    assert first == "nano"
    assert all(name.startswith("nano:mrsa-") for name in others)
    assert client.models.retrieve("nano").id == "nano"
    answer = ask(client, temperature=0)
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert choice.message.content == "adkqx"
    assert choice.message.reasoning_content
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = ask(client, seed=7, n=3, temperature=2.0)
    texts = {(i, kind): "" for i in range(3) for kind in ("reasoning_content", "content")}
    reasons, usage = {}, None
    stream = ask(
        client, seed=7, n=3, temperature=2.0, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            for kind in ("reasoning_content", "content"):
                texts[choice.index, kind] += getattr(choice.delta, kind, None) or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    for choice in whole.choices:
        assert texts[choice.index, "content"] == choice.message.content
        told = getattr(choice.message, "reasoning_content", None) or ""
        assert texts[choice.index, "reasoning_content"] == told
        assert reasons[choice.index] == choice.finish_reason
    assert usage == whole.usage
    assert len({choice.message.content for choice in whole.choices}) > 1


def test_seeds_give_equal_answers_alone_and_in_a_crowd(server, client):
    fields = {"temperature": 2.0, "logprobs": True, "extra_body": {"return_token_ids": True}}

    def ids(seed: int) -> list[int]:
        return ask(client, seed=seed, **fields).choices[0].token_ids

    alone = [ids(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ids, range(12)))
    assert together == alone
    assert len({tuple(answer) for answer in alone}) > 2
    assert ask(client).usage.completion_tokens > 0
    server.settle()


def test_n_choices_share_one_prefill_and_keep_their_seeds(server, client):
    before = server.engine.stats.tokens_prefilled
    answer = ask(client, n=5, seed=3, temperature=2.0, extra_body={"return_token_ids": True})
    assert server.engine.stats.tokens_prefilled - before == answer.usage.prompt_tokens
    assert [choice.index for choice in answer.choices] == list(range(5))
    assert len({tuple(choice.token_ids) for choice in answer.choices}) > 1
    single = ask(client, seed=3, temperature=2.0, extra_body={"return_token_ids": True})
    assert single.choices[0].token_ids == answer.choices[0].token_ids


def test_logprobs_are_those_of_the_engine(server, client):
    answer = ask(
        client,
        temperature=0.7,
        seed=5,
        logprobs=True,
        top_logprobs=3,
        max_tokens=8,
        extra_body={"return_token_ids": True},
    )
    tokenizer = server.service.codec.tokenizer
    choice = answer.choices[0]
    entries = choice.logprobs.content
    assert len(entries) == len(choice.token_ids) == answer.usage.completion_tokens
    for entry, token in zip(entries, choice.token_ids, strict=True):
        assert bytes(entry.bytes) == tokenizer.token_bytes(token)
        assert len(entry.top_logprobs) == 3
        tops = {top.token: top.logprob for top in entry.top_logprobs}
        assert list(tops.values()) == sorted(tops.values(), reverse=True)
        assert entry.logprob <= max(tops.values()) + 1e-6
        if entry.token in tops:
            assert tops[entry.token] == pytest.approx(entry.logprob, abs=1e-6)
    expected = _engine_logprobs(server, answer.prompt_token_ids, choice.token_ids, 0.7)
    assert [entry.logprob for entry in entries] == pytest.approx(expected, abs=1e-3)


def _engine_logprobs(server, prompt, ids, temperature):
    """Return the log-probabilities by one full forward of the same model."""
    import torch

    model = server.engine._model
    with torch.no_grad():
        logits = model(torch.tensor([*prompt, *ids[:-1]]))[len(prompt) - 1 :] / temperature
    return logits.log_softmax(dim=-1)[torch.arange(len(ids)), ids].tolist()


def test_tool_calls_come_back_and_go_on(client, script, server):
    script(CALL)
    answer = ask(client, tools=TOOLS, tool_choice="auto")
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me add."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "add")
    assert json.loads(call.function.arguments) == {"a": 17, "note": "3"}
    history = [
        *QUESTION,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "20 <|im_end|>"},
    ]
    script("done\n</think>\n\n20")
    last = client.chat.completions.create(model="nano", messages=history, tools=TOOLS)
    assert last.choices[0].message.content == "20"
    text = server.service.codec.tokenizer.decode(
        server.ask("/tokenize", {"messages": history, "tools": TOOLS})[1]["tokens"]
    )
    assert "<parameter=a>\n17\n</parameter>" in text
    assert "<zyphra_tool_response>\n20 <|im_end|>\n" in text


def test_an_answer_goes_back_as_the_sdk_dumps_it(client):
    answer = client.chat.completions.create(model="nano", messages=QUESTION, max_tokens=1)
    told = [*QUESTION, answer.choices[0].message.model_dump(), *QUESTION]
    client.chat.completions.create(model="nano", messages=told, max_tokens=1)


def test_streamed_tool_calls_are_whole(client, script):
    script(CALL + "\n" + CALL.partition("add.\n")[2])
    names, arguments, content, reason = [], [], "", None
    for chunk in ask(client, tools=TOOLS, stream=True):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for call in delta.tool_calls or []:
            assert call.index == len(names)
            names.append(call.function.name)
            arguments.append(json.loads(call.function.arguments))
        reason = chunk.choices[0].finish_reason or reason
    assert names == ["add", "add"]
    assert arguments == [{"a": 17, "note": "3"}] * 2
    assert (content, reason) == ("Let me add.", "tool_calls")


def test_without_tools_a_call_is_text(client, script):
    script(CALL)
    for extra in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        message = ask(client, **extra).choices[0].message
        assert not message.tool_calls
        assert message.content.endswith("</zyphra_tool_call>")


def test_plain_completions_take_text_ids_and_lists(server, client):
    prompt = "<|im_start|>user\nsort qdkax<|im_end|>\n<|im_start|>assistant\n<think>\n"
    ids = server.ask("/tokenize", {"messages": QUESTION})[1]["tokens"]
    by_text = client.completions.create(model="nano", prompt=prompt, temperature=0, max_tokens=40)
    by_ids = client.completions.create(model="nano", prompt=ids, temperature=0, max_tokens=40)
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.choices[0].text.endswith("</think>\n\nadkqx")
    both = client.completions.create(
        model="nano", prompt=[prompt, "sort ab"], temperature=0, max_tokens=40, n=2, logprobs=2
    )
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[1].text == by_text.choices[0].text
    told = both.choices[0].logprobs
    joined = "".join(told.tokens)
    assert joined.startswith(both.choices[0].text)
    assert [
        joined[at:][: len(token)] for at, token in zip(told.text_offset, told.tokens, strict=True)
    ] == told.tokens
    assert all(len(top) <= 2 for top in told.top_logprobs)
    plain = server.ask(
        "/v1/completions",
        {"model": "nano", "prompt": "<think>", "parse_special": False, "max_tokens": 1},
    )[1]
    assert plain["usage"]["prompt_tokens"] == len("<think>")


@pytest.mark.parametrize("stop", [None, ["h!", "ab\u20acdx"]])
def test_offsets_in_a_stream_are_those_of_the_whole_text(server, script, stop):
    script("ab\u20acd efgh")  # the stops hold text back
    fields = {"prompt": "x", "logprobs": 0, "stop": stop}
    whole = server.ask("/v1/completions", {"model": "nano", **fields})[1]["choices"][0]
    told = [c["choices"][0]["logprobs"] for c in server.chunks("/v1/completions", **fields)]
    offsets = [at for logprobs in told if logprobs for at in logprobs["text_offset"]]
    assert whole["text"] == "ab\u20acd efgh"
    assert offsets == whole["logprobs"]["text_offset"] == [0, 1, 2, 2, 2, *range(3, 10)]


def test_the_sdk_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, max_tokens=4000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, temperature=3)
    assert wrong.value.param == "temperature"


def test_a_thinking_budget_ends_the_thought_in_time(server):
    bias = {"4": -100.0, "265": -100.0, "2": -100.0, "264": -100.0}
    free = server.chat(max_tokens=40, seed=1, logit_bias=bias, return_token_ids=True)
    assert free["usage"]["completion_tokens_details"]["reasoning_tokens"] == 40
    assert free["choices"][0]["message"]["content"] == ""
    cut = server.chat(
        max_tokens=40, seed=1, logit_bias=bias, return_token_ids=True, thinking_token_budget=6
    )
    ids, end = cut["choices"][0]["token_ids"], server.service.codec.think_end_ids
    assert ids[:6] == free["choices"][0]["token_ids"][:6]
    assert tuple(ids[6 : 6 + len(end)]) == end
    assert cut["usage"]["completion_tokens_details"]["reasoning_tokens"] == 6 + len(end)
    assert cut["choices"][0]["message"]["content"]


def test_thinking_can_be_switched_off(server):
    answer = server.chat(chat_template_kwargs={"enable_thinking": False}, temperature=0)
    message = answer["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    assert message["content"]


def test_penalties_and_biases_change_the_answer_as_the_engine_does(server):
    fields = {
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.01,
        "temperature": 0.8,
    }
    answer = server.chat(seed=4, max_tokens=30, return_token_ids=True, logit_bias=ENDLESS, **fields)
    prompt = answer["prompt_token_ids"]
    params = SamplingParams(
        max_tokens=30, seed=4, logit_bias=((2, -100.0), (264, -100.0)), **fields
    )
    from openzaya.engine.engine import Engine

    alone = Engine(server.engine._model, max_slots=1, max_tokens=256)
    expected = alone.generate([prompt], [params])[0].token_ids
    assert answer["choices"][0]["token_ids"] == expected
    plain = server.chat(seed=4, max_tokens=30, return_token_ids=True, temperature=0.8)
    assert plain["choices"][0]["token_ids"] != expected


ENDLESS = {"2": -100.0, "264": -100.0}


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        ("cd", "ab"),
        (["zz", "de"], "abc"),
        (["bcdefg", "d"], "abc"),
        ("efgh!", "abcdefgh"),
        ("\n\nx", "abcdefgh"),
    ],
)
def test_stop_strings_end_the_answer_over_token_borders(server, script, stop, shown):
    script("cd de x\n</think>\n\nabcdefgh")
    whole = server.chat(stop=stop)
    choice = whole["choices"][0]
    assert choice["message"]["content"] == shown
    assert choice["message"]["reasoning_content"] == "cd de x"
    assert choice["finish_reason"] == "stop"
    chunks = server.chunks(stop=stop)
    told = [c["choices"][0]["delta"].get("content") or "" for c in chunks]
    assert "".join(told) == shown
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    server.settle()


def test_a_stop_string_ends_the_generation_not_only_the_text(server, script):
    script("\n</think>\n\nabcdefgh", end=False)
    answer = server.chat(stop="c", logit_bias=ENDLESS, max_tokens=900)
    assert answer["choices"][0]["message"]["content"] == "ab"
    assert answer["usage"]["completion_tokens"] == 4
    assert server.settle() < 2


def test_characters_that_several_tokens_share_are_streamed_whole(server, script):
    text = "na\u00efve \u20ac \U0001f600\U0001f468\u200d\U0001f469 \u6f22"
    script("\n</think>\n\n" + text)
    told = [c["choices"][0]["delta"].get("content") or "" for c in server.chunks()]
    assert "".join(told) == text == server.chat()["choices"][0]["message"]["content"]
    assert not any("\ufffd" in piece for piece in told)
    assert len([piece for piece in told if piece]) == len(text)


def test_a_stream_tells_ids_and_logprobs_of_every_token(server, script):
    script("x\n</think>\n\n\u20ac")
    fields = {"return_token_ids": True, "logprobs": True, "seed": 1}
    whole = server.chat(**fields)["choices"][0]
    chunks = [c["choices"][0] for c in server.chunks(**fields)]
    ids = [token for c in chunks for token in c.get("token_ids", [])]
    entries = [e for c in chunks if c["logprobs"] for e in c["logprobs"]["content"]]
    assert ids == whole["token_ids"]
    assert entries == whole["logprobs"]["content"]
