import asyncio
import json
import re
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from backends.mock_openai import Mock, first_events, serve, status

from openzaya.backends import chat_call
from openzaya.backends.capabilities import refuse_unsafe
from openzaya.backends.http_server import HttpConfig, server_at
from openzaya.backends.mock import MockConfig, MockUpstream
from openzaya.backends.pool import PoolConfig, Upstreams
from openzaya.backends.run_sampler import RetryBudget
from openzaya.backends.upstream import Upstream
from openzaya.core.errors import ConfigError, RequestError, UpstreamError
from openzaya.core.protocols import WatchedSampler
from openzaya.core.records import Message, SampleRequest, Watch
from openzaya.serve.tool_calls import ToolScanner
from openzaya.text.think import split_thinking
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig

ASK = SampleRequest(messages=(Message("user", "What is it? [key: 41]"),), max_tokens=100, seed=3)
FAST = MockConfig(ttft_s=0.0, length="fixed:60")
PATIENT = PoolConfig(min_retries=100)
QUICK = {"retry_base_s": 0.001, "probe": False}


def run(main):
    return asyncio.run(asyncio.wait_for(main, 30))


@asynccontextmanager
async def pool_of(*mocks: MockConfig, config: PoolConfig | None = None, **http):
    """A pool over mock servers; yields it and them."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(MockUpstream(mock)) for mock in mocks]
        configs = [HttpConfig(url=server.url, **{**QUICK, **http}) for server in servers]
        pool = await stack.enter_async_context(Upstreams(configs, config))
        yield pool, *servers


def free_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# Faults, each against a server that really misbehaves (spec of the upstream layer).

CURED = ["429", "503", "500", "refused", "hang", "hang_mid", "cut", "half_json", "half_utf8"]
CURED += ["giant_line", "html", "wrong_schema", "drip"]
KEPT = {
    "crlf": "stop",
    "no_usage": "stop",
    "wrong_count": "stop",
    "content_filter": "error",
    "empty": "stop",
    "loop": "length",
}


def one_call(fault: str, **http):
    async def main():
        mock = replace(FAST, faults=(f"{fault}@1",), retry_after_s=0.1, refused_s=0.02, drip_s=5.0)
        timers = {"first_token_s": 0.3, "between_tokens_s": 0.3, **http}
        async with pool_of(mock, **timers) as (pool, server):
            completion = await pool.sampler().sample(ASK)
            return completion, server.records, pool.status()["upstreams"][0]

    return run(main())


def sound():
    async def main():
        async with pool_of(FAST) as (pool, _):
            return await pool.sampler().sample(ASK)

    return run(main())


@pytest.mark.parametrize("fault", CURED)
def test_a_call_that_fails_is_made_again_with_the_same_seed_and_gives_the_same_answer(fault):
    waits = {"retry_base_s": 0.1} if fault == "refused" else {}
    completion, records, figures = one_call(fault, **waits)
    assert (completion.text, completion.finish_reason) == (sound().text, "stop")
    assert completion.served.attempts == 2
    assert [call.seed for call in records.log][-1] == 3
    assert (figures["ok"], figures["retries"], sum(figures["failures"].values())) == (1, 1, 1)


@pytest.mark.parametrize("fault", KEPT)
def test_an_odd_but_whole_reply_is_kept_with_its_reason(fault):
    completion, records, figures = one_call(fault)
    assert completion.finish_reason == KEPT[fault]
    assert records.calls == 1
    assert (completion.text == "") == (fault == "empty")
    assert figures["alarms"] == (fault == "wrong_count")


def test_a_first_token_may_take_longer_than_the_ones_after_it():
    async def main(**waits):
        mock = replace(FAST, ttft_s=0.4)
        async with pool_of(mock, max_attempts=1, between_tokens_s=0.1, **waits) as (pool, _):
            return await pool.sampler().sample(ASK)

    assert run(main(first_token_s=5.0)).finish_reason == "stop"
    with pytest.raises(UpstreamError, match="no token in"):
        run(main(first_token_s=0.2))


def test_a_connection_whose_response_ended_late_serves_the_next_call(monkeypatch):
    monkeypatch.setattr(chat_call, "CLOSING_S", 0.1)
    told = {"model": "m", "choices": [{"index": 0, "delta": {"content": "x"}}]}
    told["choices"][0]["finish_reason"] = "stop"
    body = f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n".encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    connections = []

    async def talk(reader, writer):
        connections.append(writer)
        for waits_s in (0.0, 0.3):
            asked = await reader.readuntil(b"\r\n\r\n")
            size = int(asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            await asyncio.sleep(waits_s)
            writer.write(head + b"\r\n" + b"%x\r\n%s\r\n" % (len(body), body))
            await asyncio.sleep(0.02)
            writer.write(b"0\r\n\r\n")
        await reader.read()
        writer.close()

    async def main():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            config = HttpConfig(url=f"http://127.0.0.1:{port}", model="m", **QUICK)
            upstream = Upstream(config)
            calls = []
            for _ in range(2):
                calls.append(upstream.call(ASK, None))
                await upstream.complete(calls[-1], ASK)
                await asyncio.sleep(0.05)
            await upstream.server.close()
        await asyncio.sleep(0.05)
        return calls

    assert [call.stream.text for call in run(main())] == ["x", "x"]
    assert len(connections) == 1


def test_a_reply_of_another_model_and_choices_that_nobody_asked_for_are_refused():
    with pytest.raises(UpstreamError, match="answered as"):
        one_call("wrong_model")
    completion, records, _ = one_call("wrong_n")
    assert completion.served.attempts == records.calls == 2


def test_a_run_over_failing_servers_answers_with_at_most_half_more_calls():
    config = MarkovianRSAConfig(budget_tokens=400, tail_tokens=40, final_budget_tokens=400)
    faults = tuple(f"{name}=0.05" for name in ("429", "500", "hang", "cut"))

    async def main(seed: int):
        mock = replace(FAST, faults=faults, seed=seed, retry_after_s=0.01)
        async with pool_of(mock, first_token_s=0.2) as (pool, server):
            run = pool.sampler()
            result = await MarkovianRSA(config).run("What is it? [key: 41]", run)
            return result, run.calls, server.records

    result, calls, records = run(main(1))
    assert result.answer == "41"
    assert calls == records.calls
    assert 48 < calls <= 1.5 * 48
    assert result.degraded == any(c.is_failed for r in result.rounds for c in r.candidates)


def test_sixteen_refusals_of_calls_that_were_out_together_halve_the_limit_once():
    async def main():
        mock = replace(FAST, ttft_s=0.05, faults=("429@1-16",), retry_after_s=0.01)
        async with pool_of(mock, max_in_flight=16) as (pool, server):
            limit, lowest = pool.upstreams[0].limit, []

            async def sleep(_seconds: float) -> None:
                lowest.append(limit.value)

            pool._sleep = sleep
            calls = [pool.sampler().sample(replace(ASK, seed=seed)) for seed in range(16)]
            await asyncio.gather(*calls)
            return min(lowest), server.records.peak_in_flight, pool.status()["upstreams"][0]

    lowest, peak, figures = run(main())
    assert (lowest, peak) == (8.0, 8)
    assert figures["failures"] == {"http_429": 16}
    assert figures["ok"] == 16


def test_the_retry_budget_is_a_share_of_the_calls_that_are_needed():
    budget = RetryBudget(0.5, 2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    budget.needed = 10
    assert [budget.take() for _ in range(4)] == [True, True, True, False]

    async def main():
        config = PoolConfig(min_retries=1)
        async with pool_of(replace(FAST, faults=("500",)), config=config) as (pool, server):
            with pytest.raises(UpstreamError, match="used up the calls it may repeat"):
                await pool.sampler().sample(ASK)
            return server.records.calls

    assert run(main()) == 2


# Several servers


def test_a_failing_server_is_left_alone_and_its_calls_go_to_the_other():
    async def main():
        broken = replace(FAST, faults=("500",))
        async with pool_of(broken, FAST, config=PATIENT) as (pool, bad, good):
            sampler = pool.sampler()
            done = []
            for _ in range(40):
                done.append(await sampler.sample(ASK))
            assert len({one.text for one in done}) == 1
            assert bad.records.calls == 5
            assert good.records.calls == 40
            first, second = pool.status()["upstreams"]
            assert (first["state"], second["state"]) == ("open", "up")
            assert pool.status()["state"] == "degraded"

    run(main())


def test_a_server_that_comes_back_is_used_again():
    async def main():
        async with pool_of(FAST, FAST, config=PATIENT) as (pool, one, _):
            sampler = pool.sampler()
            one.set_faults(["500"])
            for _ in range(12):
                await sampler.sample(ASK)
            assert pool.status()["upstreams"][0]["state"] == "open"
            one.set_faults([])
            before = one.records.calls
            while pool.status()["upstreams"][0]["state"] == "open":
                await asyncio.sleep(0.02)
            for _ in range(3):
                await sampler.sample(ASK)
            assert pool.status()["state"] == "up"
            assert one.records.calls > before

    run(main())


def test_when_nobody_is_there_all_who_wait_hear_of_it_after_the_patience(monkeypatch):
    monkeypatch.setattr("openzaya.backends.breaker.FIRST_OPEN_S", 60.0)  # no probe tells them

    async def main():
        config = PoolConfig(patience_s=0.3, min_retries=100)
        async with pool_of(FAST, config=config, max_attempts=50) as (pool, server):
            server._listener.close()
            for connection in list(server._opened):
                connection.abort()
            calls = [pool.sampler().sample(ASK) for _ in range(8)]
            begun = time.monotonic()
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in found} <= {
                UpstreamError,
                *UpstreamError.__subclasses__(),
            }
            assert any("no server of 'mock' could be reached" in str(error) for error in found)
            assert time.monotonic() - begun < 10
            with pytest.raises(UpstreamError, match="no server of 'mock'"):
                await pool.sampler().sample(ASK)
            assert pool.status()["state"] == "down"

    run(main())


def test_a_missing_server_is_looked_for_and_none_at_all_is_an_error(monkeypatch):
    monkeypatch.setattr("openzaya.backends.pool.REVISIT_S", 0.02)

    async def main():
        port = int(free_url().rpartition(":")[2])
        async with MockUpstream(FAST) as here:
            urls = (here.url, f"http://127.0.0.1:{port}")
            async with Upstreams([HttpConfig(url=url, **QUICK) for url in urls]) as pool:
                assert pool.status()["state"] == "degraded"
                async with MockUpstream(replace(FAST, port=port)):
                    while pool.status()["state"] != "up":
                        await asyncio.sleep(0.01)
        with pytest.raises(UpstreamError, match="cannot be reached"):
            async with Upstreams([HttpConfig(url=free_url())]):
                raise AssertionError("it must not open")

    run(main())


@asynccontextmanager
async def restarting(monkeypatch, *others: MockConfig):
    """A pool over a server that can be started anew, and others; yields it and how to."""
    monkeypatch.setattr("openzaya.backends.pool.REVISIT_S", 0.05)
    monkeypatch.setattr("openzaya.backends.breaker.FIRST_OPEN_S", 0.05)
    port = int(free_url().rpartition(":")[2])
    config = PoolConfig(patience_s=0.3, min_retries=100)
    async with AsyncExitStack() as stack:
        running = [await MockUpstream(replace(FAST, port=port)).__aenter__()]
        servers = [await stack.enter_async_context(MockUpstream(other)) for other in others]
        urls = [one.url for one in (*running, *servers)]
        configs = [HttpConfig(url=url, retry_base_s=0.02, max_attempts=20) for url in urls]
        pool = await stack.enter_async_context(Upstreams(configs, config))

        async def restart(**changes):
            await running.pop().__aexit__(None, None, None)
            found = await asyncio.gather(
                *(pool.sampler().sample(ASK) for _ in range(8)), return_exceptions=True
            )
            running.append(await MockUpstream(replace(FAST, port=port, **changes)).__aenter__())
            return found

        yield pool, restart
        await running.pop().__aexit__(None, None, None)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_server_that_comes_back_with_another_context_is_learned_anew(monkeypatch):
    async def main():
        async with restarting(monkeypatch) as (pool, restart):
            assert pool.context_tokens() == FAST.context_tokens
            assert pool.upstreams[0].capabilities.ids_out is False
            await restart(context_tokens=4096, ids="vllm")
            await asyncio.sleep(0.1)
            await pool.sampler().sample(ASK)
            await until(lambda: pool.context_tokens() == 4096)
            await until(lambda: pool.upstreams[0].capabilities.ids_out)
            assert pool.status()["state"] == "up"

    run(main())


@pytest.mark.parametrize("num_others", [0, 1])
def test_a_server_that_comes_back_with_another_model_is_left_alone_until_it_has_its_own(
    monkeypatch, caplog, num_others
):
    async def main():
        async with restarting(monkeypatch, *[FAST] * num_others) as (pool, restart):
            first = pool.upstreams[0]
            await restart(model="novel")
            told = []
            while not first.last_fault.startswith("model 'mock' is not among"):
                made = [pool.sampler().sample(ASK) for _ in range(4)]
                told += await asyncio.gather(*made, return_exceptions=True)
                await asyncio.sleep(0.02)
            assert first.breaker.state == "open"
            calls = first.calls
            again = await asyncio.gather(
                *(pool.sampler().sample(ASK) for _ in range(8)), return_exceptions=True
            )
            if num_others:
                assert not [one for one in told + again if isinstance(one, Exception)]
            else:
                assert any("check the model name 'mock'" in str(one) for one in told)
                why = (
                    r"no server of 'mock'.*'mock' is not among the 1 models of .* \(novel\).*again"
                )
                assert all(re.search(why, str(one)) for one in again)
            assert first.calls == calls
            await restart()
            await until(lambda: pool.status()["state"] == "up")
            assert (await pool.sampler().sample(ASK)).finish_reason == "stop"
            assert caplog.text.count("is left alone until") == 1

    run(main())


def test_a_server_that_speaks_no_tls_cannot_be_reached_over_it():
    async def main():
        async with serve(Mock()) as server:
            with pytest.raises(UpstreamError, match=r"cannot be reached \(SSLError"):
                async with Upstreams([HttpConfig(url=server.url.replace("http:", "https:"))]):
                    raise AssertionError("it must not open")

    run(main())


def test_models_of_one_server_are_named_behind_its_address():
    async def main():
        async with MockUpstream(replace(FAST, model="big,small")) as mock:
            configs = [
                replace(server_at(f"{mock.url}#{name}"), **QUICK) for name in ("small", "big")
            ]
            async with Upstreams(configs, PoolConfig(stage_models=("big", "small"))) as pool:
                assert pool.models == ("small", "big")
                sampler = pool.sampler()
                replies = [await sampler.sample(replace(ASK, stage=stage)) for stage in range(2)]
                assert [reply.served.model for reply in replies] == ["big", "small"]

    run(main())


def test_stages_go_to_their_models_and_models_are_found_by_role():
    async def main():
        async with (
            MockUpstream(replace(FAST, model="big")) as big,
            MockUpstream(replace(FAST, model="small")) as small,
        ):
            configs = [
                HttpConfig(url=big.url, role="strong", **QUICK),
                HttpConfig(url=small.url, role="cheap", **QUICK),
            ]
            config = PoolConfig(stage_models=("strong", "small"))
            async with Upstreams(configs, config) as pool:
                assert pool.models == ("big", "small")
                sampler = pool.sampler()
                served = [(await sampler.sample(replace(ASK, stage=s))).served for s in range(4)]
                assert [one.model for one in served] == ["big", "small", "small", "small"]
                assert served[1].upstream == f"{small.url}/v1"
                alone = await pool.sampler(model="cheap").sample(ASK)
                assert alone.served.model == "small"
                with pytest.raises(RequestError, match=r"'huge' is not served.*big, cheap"):
                    pool.sampler(model="huge")
            with pytest.raises(RequestError, match="huge"):
                async with Upstreams(configs, PoolConfig(stage_models=("huge",))):
                    raise AssertionError("it must not open")

    run(main())


def test_settings_that_cannot_work_are_refused():
    for changes in ({"max_in_flight": 0}, {"job_share": 0.0}, {"patience_s": 0.0}):
        with pytest.raises(ConfigError):
            PoolConfig(**changes)
    with pytest.raises(ConfigError, match="no upstream"):
        Upstreams([])
    with pytest.raises(ConfigError, match="weight"):
        HttpConfig(url="http://x", weight=0.0)


def test_fields_of_the_request_reach_the_server_and_tool_calls_come_back_as_text():
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}}}
    turns = [
        {"role": "system", "content": "Be short. " * 300},
        {"role": "user", "content": "\u00e9"},
    ]
    asked = replace(ASK, fields={"top_k": 5, "tools": [tool], "messages": turns, "seed": 99})

    async def main():
        async with pool_of(replace(FAST, kept_requests=9)) as (pool, server):
            watch = Watch()
            completion = await pool.sampler().sample_watched(asked, watch)
            body = server.records.requests[0]["body"]
            assert (body["messages"], body["top_k"], body["seed"]) == (turns, 5, 3)
            assert "".join(watch.pieces) == completion.text
            answer = split_thinking(completion.text).answer
            _, calls = ToolScanner({"weather": {}}).feed(answer)
            assert [call.name for call in calls] == ["weather"]
            assert completion.finish_reason == "stop"

    run(main())


# Watching and cutting


def test_a_watch_sees_the_text_as_the_model_wrote_it():
    async def main():
        async with pool_of(FAST) as (pool, _):
            sampler = pool.sampler()
            assert isinstance(sampler, WatchedSampler)
            watch, seen = Watch(), []
            watch.on_text = lambda text, num_tokens: seen.append(text)
            completion = await sampler.sample_watched(ASK, watch)
            assert "".join(watch.pieces) == "".join(seen) == completion.text
            assert "\n</think>\n\n" in completion.text
            assert completion == replace(await sampler.sample(ASK), served=completion.served)
            assert completion.served.first_token_s >= completion.served.queued_s >= 0

    run(main())


def test_a_failed_try_is_taken_out_of_the_watch():
    async def main():
        async with pool_of(replace(FAST, faults=("cut@1",))) as (pool, _):
            watch = Watch()
            completion = await pool.sampler().sample_watched(ASK, watch)
            assert completion.served.attempts == 2
            assert "".join(watch.pieces) == completion.text

    run(main())


def test_a_cut_returns_what_there_is_and_aborts_at_the_server():
    async def main():
        slow = replace(FAST, token_s=0.002, chunk_tokens=1, length="fixed:4000")
        async with pool_of(slow) as (pool, server):
            watch = Watch()

            def on_text(_text: str, _num_tokens: int) -> None:
                if watch.num_tokens >= 20:
                    watch.cut.set()

            watch.on_text = on_text
            completion = await pool.sampler().sample_watched(replace(ASK, max_tokens=4000), watch)
            assert completion.finish_reason == "abort"
            assert "".join(watch.pieces) == completion.text
            assert 20 <= completion.num_tokens < 200
            while server.records.in_flight:
                await asyncio.sleep(0.001)
            assert server.records.ended["aborted"] == 1
            assert pool.status()["in_flight"] == 0

    run(main())


@pytest.mark.parametrize("where", ["queue", "silence", "backoff", "before"])
def test_a_call_can_be_cut_wherever_it_waits(where):
    async def main():
        mock = replace(FAST, faults=("hang",) if where != "backoff" else ("500",))
        async with pool_of(mock, max_in_flight=1, retry_base_s=60.0) as (pool, server):
            sampler = pool.sampler()
            if where == "queue":
                first = asyncio.create_task(sampler.sample(ASK))
                await asyncio.sleep(0.02)
            watch = Watch()
            if where == "before":
                watch.cut.set()
            task = asyncio.create_task(sampler.sample_watched(ASK, watch))
            while where in ("silence", "backoff") and not server.records.calls:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            watch.cut.set()
            completion = await asyncio.wait_for(task, 2)
            assert (completion.text, completion.finish_reason) == ("", "abort")
            assert pool.status()["waiting"] == pool.status()["upstreams"][0]["waiting"] == 0
            if where == "queue":
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            assert pool.status()["in_flight"] == 0

    run(main())


def test_leaving_aborts_every_call_of_a_run():
    async def main():
        slow = replace(FAST, token_s=0.01, length="fixed:4000")
        async with pool_of(slow, max_in_flight=8) as (pool, server):
            config = MarkovianRSAConfig(budget_tokens=4000, tail_tokens=40)
            sampler = pool.sampler()
            task = asyncio.create_task(MarkovianRSA(config).run("What? [key: 1]", sampler))
            while server.records.in_flight < 4:
                await asyncio.sleep(0.005)
            in_flight = server.records.in_flight
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while server.records.in_flight:
                await asyncio.sleep(0.001)
            assert server.records.ended["aborted"] == server.records.calls >= in_flight
            assert (pool.status()["in_flight"], pool.status()["waiting"]) == (0, 0)

    run(main())


# Pass-through


async def taken(answer) -> bytes:
    return b"".join([chunk async for chunk in answer.chunks])


def test_a_stream_passes_through_byte_by_byte():
    async def main():
        body = {"model": "", "messages": [{"role": "user", "content": "Hi [key: 7]"}], "seed": 1}
        async with pool_of(FAST) as (pool, server):
            async with pool.forward({**body, "stream": True, "top_k": 5}) as answer:
                assert (answer.status, answer.upstream) == (200, f"{server.url}/v1")
                assert answer.content_type.startswith("text/event-stream")
                stream = await taken(answer)
            assert stream.endswith(b"data: [DONE]\n\n")
            async with pool.forward(body) as answer:
                whole = json.loads(await taken(answer))
            assert whole["choices"][0]["message"]["content"]
            async with pool.forward({**body, "n": -1}) as answer:
                assert answer.status == 400
                assert b"error" in await taken(answer)
            figures = pool.status()["upstreams"][0]
            assert (figures["calls"], figures["in_flight"], figures["aborted"]) == (3, 0, 0)
            with pytest.raises(RequestError, match="is not served"):
                async with pool.forward({**body, "model": "other"}):
                    raise AssertionError("it must not open")

    run(main())


def test_leaving_a_stream_early_aborts_it_at_the_server():
    async def main():
        slow = replace(FAST, token_s=0.005, chunk_tokens=1, length="fixed:4000")
        async with pool_of(slow) as (pool, server):
            body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
            async with pool.forward(body) as answer:
                async for _ in answer.chunks:
                    break
            while server.records.in_flight:
                await asyncio.sleep(0.001)
            assert server.records.ended["aborted"] == 1
            assert pool.status()["in_flight"] == 0

    run(main())


def test_a_request_goes_to_the_next_server_when_one_cannot_be_reached_and_errors_pass_as_they_are():
    async def main():
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        limited = replace(FAST, faults=("429",), retry_after_s=7.0)
        async with pool_of(FAST, limited) as (pool, gone, _):
            gone._listener.close()
            for connection in list(gone._opened):
                connection.abort()
            async with pool.forward(body) as answer:
                assert (answer.status, answer.retry_after) == (429, "7")

    run(main())


def test_an_error_that_passes_through_does_not_tell_the_key_of_the_upstream(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-canary")
    page = b'{"error": {"message": "bad key sk-canary, not sk-canarx"}}'
    refuse = status(401, page.decode())

    async def main():
        async with serve(Mock(faults=[refuse])) as mock:
            config = HttpConfig(url=mock.url, api_key_env="MY_KEY", **QUICK)
            async with Upstreams([config]) as pool, pool.forward({"messages": []}) as answer:
                assert answer.status == 401
                return await taken(answer)

    assert run(main()) == page.replace(b"sk-canary", b"***")


def test_an_answer_in_a_coding_that_nobody_asked_for_is_not_passed_on():
    async def ask(pool):
        async with pool.forward({"messages": []}) as answer:
            return await taken(answer)

    async def main():
        faults = [status(200, "x", Content_Encoding="gzip")] * 2
        mock = Mock(faults=faults)
        async with serve(mock), Upstreams([HttpConfig(url=mock.url, **QUICK)]) as pool:
            await ask(pool)

    with pytest.raises(UpstreamError, match="encoded as 'gzip', unasked"):
        run(main())


def test_a_server_that_asks_a_plain_request_to_wait_is_left_alone():
    async def main():
        async with pool_of(replace(FAST, faults=("429@1",), retry_after_s=1.0)) as (pool, _):
            body = {"messages": [{"role": "user", "content": "Hi"}]}
            async with pool.forward(body) as answer:
                assert answer.status == 429
            figures = pool.status()["upstreams"][0]
            assert (figures["state"], figures["limit"], figures["ok"]) == ("paused", 32, 0)
            assert figures["failures"] == {"http_429": 1}
            begun = time.monotonic()
            async with pool.forward(body) as answer:
                assert answer.status == 200
            assert time.monotonic() - begun > 0.8

    run(main())


def test_a_stream_that_breaks_off_is_an_error_and_a_slow_reader_stops_the_server():
    async def main():
        mock = Mock(content="x" * 20_000_000, faults=[first_events(2, reset=True)])
        async with serve(mock), Upstreams([HttpConfig(url=mock.url, **QUICK)]) as pool:
            body = {"messages": [], "max_tokens": 9, "stream": True}
            with pytest.raises(UpstreamError, match="broke off"):
                async with pool.forward(body) as answer:
                    await taken(answer)
            async with pool.forward(body) as answer:
                await asyncio.sleep(0.3)
                assert mock.in_flight == 1  # it cannot get rid of what nobody reads
                assert len(await taken(answer)) > 20_000_000

    run(main())


# What servers can do


def capabilities_of(mock):
    async def main():
        async with mock as server, Upstreams([HttpConfig(url=server.url)]) as pool:
            return pool.status()["upstreams"][0]["capabilities"]

    return run(main())


def test_the_probe_finds_out_what_a_server_can_do():
    plain = capabilities_of(MockUpstream(FAST))
    assert plain["reasoning_field"] == "reasoning_content"
    assert (plain["tokenize"], plain["ids_out"], plain["honours_n"]) == (True, False, True)
    rich = capabilities_of(
        MockUpstream(replace(FAST, ids="vllm", reasoning="reasoning", can_tokenize=False))
    )
    assert (rich["ids_out"], rich["tokenize"]) == (True, False)
    assert rich["reasoning_field"] == "reasoning"
    assert rich["priority"] is None


def test_a_server_that_refuses_unknown_fields_gets_none():
    strict = Mock(faults=[status(422, "extra field")] * 4)
    found = capabilities_of(serve(strict))
    assert not found["extensions"]
    assert found["honours_n"] is None
    assert [
        set(body) - {"model", "messages", "stream", "stream_options"} for body in strict.bodies
    ] == [
        {"max_tokens", "return_token_ids"},
        {"max_completion_tokens", "return_token_ids"},
        {"max_tokens", "ignore_eos"},
        {"max_completion_tokens", "ignore_eos"},
        {"max_tokens"},
    ]


def test_a_server_that_refuses_ids_in_streams_is_asked_for_all_else():
    found = capabilities_of(MockUpstream(replace(FAST, ids="sglang")))
    assert (found["extensions"], found["ids_out"], found["honours_n"]) == (True, False, True)


def test_an_engine_that_is_known_to_decode_the_model_wrongly_is_refused():
    with pytest.raises(UpstreamError, match=r"vLLM.*SGLang.*check_engine"):
        refuse_unsafe("vllm", "Zyphra/ZAYA1-8B")
    refuse_unsafe("sglang", "Zyphra/ZAYA1-8B")
    refuse_unsafe("vllm", "Qwen/Qwen3-8B")
