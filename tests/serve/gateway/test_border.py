"""What the gateway refuses, whom it lets see what, and what becomes of clients that leave."""

import asyncio
import hashlib
import json
import logging
import socket
import threading
import time

import pytest
from serve.gateway.conftest import CHAT, QUESTION, SMALL, gatewaying, upstream, wait_for

from openzaya.backends.mock import MockConfig
from openzaya.serve.errors import ApiError
from openzaya.serve.gateway.chat import plain_need
from openzaya.serve.gateway.limits import Need, Purse
from openzaya.serve.keys import Allowance, Keys, read_key

ABORT_S = 0.2


def refused(reply, status, code=None, param=None):
    found, body, _ = reply
    assert found == status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    if code is not None:
        assert body["error"]["code"] == code, body
    if param is not None:
        assert body["error"]["param"] == param, body
    return body["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"model": "mock:mrsa-99k"}, 404, "model"),
        ({"model": 3}, 400, "model"),
        ({"ttc": True}, 400, "ttc"),
        ({"ttc": "16k"}, 400, "ttc"),
        ({"ttc": {"nope": 1}}, 400, "ttc"),
        ({"ttc": {"preset": "99k"}}, 400, "ttc"),
        ({"ttc": {"preset": 3}}, 400, "ttc.preset"),
        ({"ttc": {"strategy": "guess"}}, 400, "ttc"),
        ({"ttc": {"num_candidates": 257}}, 400, "ttc"),
        ({"ttc": {"num_candidates": True}}, 400, "ttc"),
        ({"ttc": {"num_candidates": 2.0}}, 400, "ttc"),
        ({"ttc": {"rounds": 65}}, 400, "ttc"),
        ({"ttc": {"num_candidates": 2, "tails_per_prompt": 3}}, 400, "ttc"),
        ({"ttc": {"progress": "loud"}}, 400, "ttc.progress"),
        ({"ttc": {"background": True}}, 400, "ttc.background"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"return_token_ids": True}, 400, "return_token_ids"),
        ({"n": 17}, 400, "n"),
        ({"temperature": 3}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"chat_template": "{{ 1 }}"}, 400, None),
        ({"prompt_embeds": "x"}, 400, None),
        ({"tool_choice": "auto"}, 400, None),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, None),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages"),
    ],
)
def test_requests_that_are_refused_before_anything_runs(served, fields, status, param):
    before = served.mock.records.calls
    body = {"model": "mock", "messages": QUESTION, "ttc": SMALL, **fields}
    refused(served.ask(CHAT, body), status, param=param)
    assert served.mock.records.calls == before


def test_a_run_above_the_budget_is_refused_with_the_arithmetic(served):
    body = {"model": "mock", "messages": QUESTION}
    ttc = {"num_candidates": 256, "rounds": 64, "budget_tokens": 100_000, "tail_tokens": 8}
    message = refused(served.ask(CHAT, {**body, "ttc": ttc}), 400, "budget_exceeded", "ttc")
    assert "65 x 256 x 100,000 = 1,664,000,000" in message


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_every_call_of_its_run(slow, stream):
    for _ in range(3):
        sock = slow.begin(stream=stream)
        wait_for(lambda: slow.mock.records.in_flight == 4)
        sock.close()
        wait_for(lambda: slow.mock.records.in_flight == 0)
    wait_for(lambda: not slow.gateway.runs._live)


@pytest.mark.slow
def test_a_hundred_clients_that_leave_abort_their_calls_within_a_fifth_of_a_second(slow):
    late = []
    for at in range(100):
        sock = slow.begin(stream=bool(at % 2))
        wait_for(lambda: slow.mock.records.in_flight == 4)
        aborted = slow.mock.records.ended["aborted"]
        began = time.monotonic()
        sock.close()
        wait_for(lambda: slow.mock.records.in_flight == 0)
        took = max(at for _, at in list(slow.mock.records.aborts)[-4:]) - began
        assert slow.mock.records.ended["aborted"] == aborted + 4
        late.append(took)
    assert max(late) < ABORT_S, f"median {sorted(late)[50]:.4f} s, worst {max(late):.4f} s"


def test_a_plain_client_that_leaves_ends_its_call(slow):
    sock = slow.begin(ttc=False, stream=True)
    wait_for(lambda: slow.mock.records.in_flight == 1)
    sock.close()
    wait_for(lambda: slow.mock.records.in_flight == 0)


def test_the_same_key_gives_the_same_answer_and_another_body_a_conflict(served):
    key = {"Idempotency-Key": "first"}
    one = served.run(headers=key)
    calls = served.mock.records.calls
    two = served.run(headers=key)
    assert one == two
    assert served.mock.records.calls == calls
    body = {"model": "mock", "messages": QUESTION, "ttc": {**SMALL, "rounds": 0}}
    refused(served.ask(CHAT, body, headers=key), 409, "idempotency_conflict")
    for bad in ("k" * 129, ""):
        refused(served.ask(CHAT, body, headers={"Idempotency-Key": bad}), 400)


def test_two_clients_with_one_key_share_one_run(served):
    answers = []
    key = {"Idempotency-Key": "shared"}

    def ask() -> None:
        answers.append(served.run(headers=key))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    before = served.mock.records.calls
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["ttc"]["run_id"] for answer in answers}) == 1
    assert served.mock.records.calls == before + 8


def test_a_run_in_the_background_outlives_its_client_and_can_be_fetched(slow):
    ttc = {"num_candidates": 2, "rounds": 0, "budget_tokens": 12, "background": True}
    sock = slow.begin("Idempotency-Key: later\r\n", ttc=ttc)
    wait_for(lambda: slow.mock.records.in_flight == 2)
    aborted = slow.mock.records.ended["aborted"]
    sock.close()
    answer = slow.run(ttc=ttc, headers={"Idempotency-Key": "later"})
    assert answer["ttc"]["calls"] == 2
    assert slow.mock.records.ended["aborted"] == aborted


def test_a_run_that_lost_its_client_goes_on_by_its_key_where_it_stood(slow):
    """Its finished stage is not generated again."""
    ttc = {"num_candidates": 2, "rounds": 1, "budget_tokens": 4, "tail_tokens": 2}
    ttc |= {"final_budget_tokens": 40}
    before = slow.mock.records.calls
    sock = slow.begin("Idempotency-Key: again\r\n", ttc=ttc)
    wait_for(lambda: slow.mock.records.calls == before + 4)
    sock.close()
    wait_for(lambda: not slow.gateway.runs._live)
    answer = slow.run(ttc=ttc, headers={"Idempotency-Key": "again"})
    assert answer["usage"]["completion_tokens"] >= 2 * 4 + 2 * 40
    assert slow.mock.records.calls == before + 6


def test_a_client_that_comes_back_at_once_goes_on_with_the_run_it_left(slow, monkeypatch):
    """The run is still being ended for its sake."""
    ttc = {"num_candidates": 2, "rounds": 0, "budget_tokens": 12, "tail_tokens": 2}
    cancel = slow.gateway.journal.cancel

    async def slowly(run_id):
        await asyncio.sleep(0.5)
        return await cancel(run_id)

    monkeypatch.setattr(slow.gateway.journal, "cancel", slowly)
    sock = slow.begin("Idempotency-Key: blink\r\n", ttc=ttc)
    wait_for(lambda: slow.mock.records.in_flight == 2)
    sock.close()
    wait_for(lambda: slow.mock.records.in_flight == 0)
    assert slow.gateway.runs._live
    answer = slow.run(ttc=ttc, headers={"Idempotency-Key": "blink"})
    assert answer["usage"]["completion_tokens"] == 24


def test_an_answer_that_was_paid_for_and_a_run_under_way_need_no_room_and_no_tokens(
    slow_mock, tmp_path
):
    ttc = {"num_candidates": 2, "rounds": 0, "budget_tokens": 12, "tail_tokens": 2}
    keys = Keys((key_of("one", "infer runs=1 output_tokens_per_day=30"),))
    named = {"Authorization": "Bearer one", "Idempotency-Key": "paid"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    with gatewaying(slow_mock, tmp_path / "j.sqlite", keys) as small:
        first = small.begin(lines, ttc=ttc)
        wait_for(lambda: slow_mock.records.in_flight == 2)
        joined = small.run(ttc=ttc, headers=named)
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200")
        first.close()
        body = {"model": "mock", "messages": QUESTION, "ttc": ttc}
        asked = small.ask(CHAT, body, headers=bearer("one"))
        refused(asked, 429, "rate_limit_exceeded")  # 24 of 30 are gone
        assert small.run(ttc=ttc, headers=named) == joined
        refused(small.ask(CHAT, {**body, "seed": 1}, headers=named), 409, "idempotency_conflict")


def key_of(name: str, more: str = ""):
    digest = hashlib.sha256(name.encode()).hexdigest()
    return read_key(f"{digest} {more}".strip(), "test")


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def test_runs_are_seen_by_the_key_that_began_them_and_by_admins(mock, tmp_path):
    keys = Keys((key_of("ann"), key_of("bob"), key_of("root", "admin,infer")))
    with gatewaying(mock, tmp_path / "j.sqlite", keys) as closed:
        assert closed.ask("/")[0] == closed.ask("/health")[0] == 200
        assert "upstreams" not in closed.ask("/health")[1]
        assert closed.ask("/v1/ttc/runs")[0] == 401
        run_id = closed.run(headers=bearer("ann"))["ttc"]["run_id"]
        for name, status in (("ann", 200), ("bob", 404), ("root", 200)):
            listed = closed.ask("/v1/ttc/runs", headers=bearer(name))[1]["data"]
            assert [run["id"] for run in listed] == ([run_id] if status == 200 else [])
            for path in ("", "/events", "/candidates/0/0"):
                asked = closed.ask(f"/v1/ttc/runs/{run_id}{path}", headers=bearer(name))
                assert asked[0] == status
        asked = closed.ask(f"/v1/ttc/runs/{run_id}/cancel", {}, headers=bearer("bob"))
        refused(asked, 404, "run_not_found")
        shared = {**bearer("bob"), "Idempotency-Key": "k"}
        first = closed.run(headers={**bearer("ann"), "Idempotency-Key": "k"})
        assert closed.run(headers=shared)["ttc"]["run_id"] != first["ttc"]["run_id"]


def test_a_key_may_use_what_its_line_allows(mock, tmp_path):
    keys = Keys((key_of("few", "infer requests_per_minute=2 run_tokens=40000"), key_of("many")))
    with gatewaying(mock, tmp_path / "j.sqlite", keys) as closed:
        body = {"model": "mock", "messages": QUESTION, "max_tokens": 3}
        big = {**body, "ttc": {**SMALL, "rounds": 3, "final_budget_tokens": 4096}}
        refused(closed.ask(CHAT, big, headers=bearer("few")), 400, "budget_exceeded")
        for _ in range(2):
            assert closed.ask(CHAT, body, headers=bearer("few"))[0] == 200
        asked = closed.ask(CHAT, body, headers=bearer("few"))
        refused(asked, 429, "rate_limit_exceeded")
        assert 1 <= int(asked[2]["retry-after"]) <= 30
        assert closed.ask(CHAT, body, headers=bearer("many"))[0] == 200


def test_a_request_that_is_refused_costs_its_key_no_tokens(mock, tmp_path):
    keys = Keys((key_of("some", "infer output_tokens_per_day=100"),))
    with gatewaying(mock, tmp_path / "j.sqlite", keys) as closed:
        body = {"model": "mock", "messages": QUESTION, "max_tokens": 100}
        refused(closed.ask(CHAT, {**body, "temperature": 9}, headers=bearer("some")), 400)
        text = {"model": "nope", "prompt": "x", "max_tokens": 100}
        refused(closed.ask("/v1/completions", text, headers=bearer("some")), 404)
        assert closed.ask(CHAT, body, headers=bearer("some"))[0] == 200


def test_a_request_reserves_what_all_of_its_prompts_and_choices_may_generate():
    assert plain_need({"prompt": ["a", "b"], "n": 3, "max_tokens": 5}).output_tokens == 30
    assert plain_need({"prompt": [7, 8], "n": 3, "max_tokens": 5}).output_tokens == 15


def test_a_purse_gives_back_what_was_reserved_and_not_generated():
    now = [0.0]
    purse = Purse(Allowance(output_tokens_per_minute=600), clock=lambda: now[0])
    hold = purse.take(Need(output_tokens=600))
    with pytest.raises(ApiError) as waits:
        purse.take(Need(output_tokens=100))
    assert (waits.value.status, waits.value.headers["Retry-After"]) == (429, "10")
    now[0] = 10.0
    second = purse.take(Need(output_tokens=100))
    hold.settle(100)
    hold.settle(0)
    with pytest.raises(ApiError):
        purse.take(Need(output_tokens=501))
    purse.take(Need(output_tokens=500))
    second.settle(100)
    with pytest.raises(ApiError) as never:
        purse.take(Need(output_tokens=601))
    assert never.value.status == 400


def test_runs_beyond_the_limit_wait_outside(slow_mock, tmp_path):
    with gatewaying(slow_mock, tmp_path / "j.sqlite", max_runs=1) as small:
        sock = small.begin(stream=True)
        wait_for(lambda: len(small.gateway.runs._live) == 1)
        body = {"model": "mock", "messages": QUESTION, "ttc": SMALL}
        asked = small.ask(CHAT, body)
        refused(asked, 429, "too_many_runs")
        assert "retry-after" in asked[2]
        sock.close()
        wait_for(lambda: not small.gateway.runs._live)


def test_an_upstream_that_is_gone_is_a_502_with_the_run_in_it(mock, tmp_path, caplog):
    caplog.set_level(logging.INFO, "openzaya.gateway")
    with (
        upstream(MockConfig(ttft_s=0.001, length="fixed:8")) as broken,
        gatewaying(broken, tmp_path / "j.sqlite", patience_s=0.5) as gateway,
    ):
        broken.set_faults(["500"])
        body = {"model": "mock", "messages": QUESTION, "ttc": {**SMALL, "rounds": 0}}
        asked = gateway.ask(CHAT, body)
        message = refused(asked, 502, "upstream_failed")
        run_id = gateway.ask("/v1/ttc/runs")[1]["data"][0]["id"]
        assert run_id in message
        assert asked[2]["x-run-id"] == run_id
        began, ended = (r for r in caplog.records if r.getMessage().startswith("run "))
        assert (began.getMessage(), ended.getMessage()) == ("run began", "run ended")
        assert (began.run, ended.run, ended.code) == (run_id, run_id, "upstream_failed")
        assert not hasattr(began, "question")
        status, raw, _ = gateway.ask(CHAT, {**body, "stream": True})
        assert status == 502 or (b"upstream_failed" in raw and b"[DONE]" not in raw)
        text = gateway.ask("/metrics")[1].decode()
        assert 'openzaya_upstream_failures_total{kind="http_500"' in text
        assert 'openzaya_runs_total{preset="16k",state="failed"}' in text


def test_metrics_count_runs_and_upstreams_and_hold_nothing_that_clients_sent(served):
    served.run(user="secret-user")
    text = served.ask("/metrics")[1].decode()
    for name in (
        'openzaya_runs_total{preset="16k",state="done"}',
        'openzaya_run_tokens_total{kind="generated"}',
        "openzaya_upstream_in_flight",
        "openzaya_upstream_state",
        "openzaya_journal_pending_bytes",
        "openzaya_run_seconds_bucket",
    ):
        assert name in text, name
    assert "secret" not in text


def test_metrics_count_the_prompt_tokens_that_an_upstream_had_cached(tmp_path):
    with (
        upstream(MockConfig(cached_share=0.5)) as mock,
        gatewaying(mock, tmp_path / "j.sqlite") as gateway,
    ):
        usage = gateway.run()["ttc"]["usage"]
        text = gateway.ask("/metrics")[1].decode()
    assert 0 < usage["cached"] < usage["prefill"]
    assert f'openzaya_run_tokens_total{{kind="cached"}} {usage["cached"]:.1f}' in text


def test_the_page_comes_with_a_policy_that_loads_nothing_from_elsewhere(served):
    status, page, headers = served.ask("/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert b"<script" in page


def test_a_reader_that_takes_nothing_is_dropped_and_its_call_ends(mock, tmp_path):
    endless = MockConfig(
        ttft_s=0.001, chunk_tokens=256, length="fixed:8000000", context_tokens=1 << 24
    )
    with (
        upstream(endless) as flood,
        gatewaying(flood, tmp_path / "j.sqlite", slow_reader_s=0.3) as gateway,
    ):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", gateway.port))
        fields = {"model": "mock", "stream": True, "max_tokens": 8_000_000, "messages": QUESTION}
        body = json.dumps(fields).encode()
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        wait_for(lambda: flood.records.in_flight == 1)
        wait_for(lambda: flood.records.in_flight == 0)
        assert flood.records.ended["aborted"] == 1
        sock.close()


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("name", ["schl\u00fcssel", "voil\u00e0", "\u00e9", "plain"])
def test_a_key_outside_of_ascii_is_known_in_either_coding(served, name, coding, monkeypatch):
    monkeypatch.setattr(served.gateway, "keys", Keys((key_of(name),)))
    for secret, status in ((name, 200), (name[:-1], 401)):
        header = b"Bearer " + secret.encode(coding)
        assert served.ask("/v1/models", headers={"Authorization": header})[0] == status


def test_an_upstream_gets_new_fields_as_they_came_and_no_nulls(mock, tmp_path):
    new = {
        "safety_identifier": "s",
        "reasoning_effort": "xhigh",
        "verbosity": "low",
        "store": True,
        "prompt_cache_options": {"ttl": None},
        "never_heard_of": 7,
    }
    with upstream(MockConfig(kept_requests=8)) as own, gatewaying(own, tmp_path / "j") as gateway:
        body = {"model": "mock", "messages": QUESTION, "n": None, "audio": None, "seed": None}
        assert gateway.ask(CHAT, {**body, **new})[0] == 200
        sent = own.records.requests[-1]["body"]
        assert sent == {"model": "mock", "messages": QUESTION, **new}
