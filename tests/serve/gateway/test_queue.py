"""What waits too long for a place at an upstream is told when to come back."""

import time

from serve.gateway.conftest import CHAT, QUESTION, SMALL, gatewaying, wait_for

PLAIN = {"model": "mock", "messages": QUESTION}


def refused(answer) -> str:
    status, body, headers = answer
    assert (status, body["error"]["code"]) == (503, "queue_timeout"), body
    assert int(headers["retry-after"]) > 0
    return body["error"]["message"]


def test_requests_that_get_no_place_in_time_are_refused_and_leave_nothing_behind(
    slow_mock, tmp_path
):
    with gatewaying(slow_mock, tmp_path / "j.sqlite", places=1, queue_s=0.4) as small:
        holder = small.begin(ttc=False, stream=True)
        wait_for(lambda: slow_mock.records.in_flight == 1)
        calls = slow_mock.records.calls
        began = time.perf_counter()
        refused(small.ask(CHAT, PLAIN))
        assert time.perf_counter() - began >= 0.4
        message = refused(small.ask(CHAT, {**PLAIN, "ttc": SMALL}))
        told = small.ask("/v1/ttc/runs")[1]["data"][0]
        assert told["state"] == "failed"
        assert told["id"] in message
        assert slow_mock.records.calls == calls
        waiting = small.ask("/health", headers={"Authorization": "x"})
        assert "upstreams" not in waiting[1] or waiting[1]["upstreams"][0]["waiting"] == 0
        holder.close()
        wait_for(lambda: slow_mock.records.in_flight == 0)
        assert small.ask(CHAT, {**PLAIN, "max_tokens": 2})[0] == 200


def test_a_stream_of_a_run_that_gets_no_place_ends_with_the_error(slow_mock, tmp_path):
    with gatewaying(slow_mock, tmp_path / "j.sqlite", places=1, queue_s=0.3) as small:
        holder = small.begin(ttc=False, stream=True)
        wait_for(lambda: slow_mock.records.in_flight == 1)
        status, raw, _ = small.ask(CHAT, {**PLAIN, "ttc": SMALL, "stream": True})
        assert status == 200
        assert b'"code":"queue_timeout"' in raw
        assert b"[DONE]" not in raw
        holder.close()
        wait_for(lambda: slow_mock.records.in_flight == 0)


def test_only_the_first_call_of_a_run_is_waited_for_so_long(slow_mock, tmp_path):
    """With one place the later calls wait longer than `queue_s`, and that is no failure."""
    with gatewaying(slow_mock, tmp_path / "j.sqlite", places=1, queue_s=0.2) as small:
        ttc = {"num_candidates": 3, "rounds": 0, "budget_tokens": 5, "tail_tokens": 4}
        status, answer, _ = small.ask(CHAT, {**PLAIN, "ttc": ttc})
        assert status == 200, answer
        assert answer["ttc"]["calls"] == 3
        assert answer["ttc"]["degraded"] is False


def test_a_run_in_the_background_may_wait(slow_mock, tmp_path):
    with gatewaying(slow_mock, tmp_path / "j.sqlite", places=1, queue_s=0.2) as small:
        holder = small.begin(ttc=False, stream=True)
        wait_for(lambda: slow_mock.records.in_flight == 1)
        ttc = {"num_candidates": 1, "rounds": 0, "budget_tokens": 5, "tail_tokens": 4}
        waiting = small.begin("Idempotency-Key: a\r\n", ttc={**ttc, "background": True})
        wait_for(lambda: len(small.gateway.runs._live) == 1)
        time.sleep(0.5)
        holder.close()
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200")
        waiting.close()
        wait_for(lambda: slow_mock.records.in_flight == 0)
