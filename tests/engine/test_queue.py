"""Turns between tenants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.engine import queue
from openzaya.engine.queue import FairQueue
from openzaya.engine.request import Request, SamplingParams


def ask(request_id: int, tenant: str, priority: int = 0) -> Request:
    return Request(
        request_id=request_id,
        prompt=np.array([1]),
        params=SamplingParams(max_tokens=1),
        priority=priority,
        limit=1,
        tenant=tenant,
    )


@given(costs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=60))
def test_waiting_tenants_never_differ_by_more_than_one_request(
    costs: list[tuple[str, int]],
) -> None:
    waiting = FairQueue()
    cost_of = dict(enumerate(cost for _, cost in costs))
    left = {tenant: sum(name == tenant for name, _ in costs) for tenant in "abc"}
    for index, (tenant, _) in enumerate(costs):
        waiting.push(ask(index, tenant))
    assert len(waiting) == len(costs)
    served = dict.fromkeys("abc", 0)
    last = dict.fromkeys("abc", -1)
    while (head := waiting.head()) is not None:
        assert waiting.pop(cost_of[head.request_id]) is head
        # Oldest first inside a tenant.
        assert head.request_id > last[head.tenant]
        last[head.tenant] = head.request_id
        served[head.tenant] += cost_of[head.request_id]
        left[head.tenant] -= 1
        busy = [served[tenant] for tenant in "abc" if left[tenant]]
        if busy:
            assert max(busy) - min(busy) <= 50
    assert not waiting


def test_a_weight_multiplies_a_tenants_share() -> None:
    waiting = FairQueue()
    waiting.set_weight("big", 3.0)
    for index in range(40):
        waiting.push(ask(index, "big" if index % 2 else "small"))
    first = [waiting.pop(10).tenant for _ in range(20)]
    assert first.count("big") == 15


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0"):
        FairQueue().set_weight("none", weight)


def test_a_pause_neither_saves_up_turns_nor_costs_any() -> None:
    waiting = FairQueue()
    waiting.push(ask(0, "late"))
    waiting.pop(1)
    for index in range(1, 20):
        waiting.push(ask(index, "busy"))
    for _ in range(10):
        waiting.pop(100)
    for index in range(20, 24):
        waiting.push(ask(index, "late"))
    order = [waiting.pop(100).tenant for _ in range(6)]
    assert order.count("late") == 3


def test_running_requests_are_charged_a_token_each_step() -> None:
    waiting = FairQueue()
    for tenant in ("a", "b"):
        waiting.push(ask(0, tenant))
        waiting.begin(waiting.pop(1))
    waiting.begin(ask(5, "a"))
    for _ in range(10):
        waiting.charge_step()
    waiting.push(ask(1, "a"))
    waiting.push(ask(2, "b"))
    head = waiting.head()
    assert head is not None
    assert head.tenant == "b"
    waiting.end(head)
    assert waiting.withdraw(2) is head
    assert waiting.withdraw(2) is None
    assert waiting.pop(0).tenant == "a"


def test_tenants_without_debt_are_forgotten_once_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue, "MAX_IDLE_TENANTS", 5)
    waiting = FairQueue()
    for index in range(50):
        waiting.push(ask(index, f"tenant {index}"))
        waiting.pop(index % 3)
    assert len(waiting._tenants) <= 40
    waiting.push(ask(50, "debtor"))
    waiting.pop(1000)
    for index in range(51, 80):
        waiting.push(ask(index, f"tenant {index}"))
        waiting.pop(0)
    assert "debtor" in waiting._tenants
    waiting.push(ask(80, "debtor"))
    waiting.push(ask(81, "new"))
    assert waiting.pop(0).tenant == "new"
