"""The schedule's shape."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError
from openzaya.optim import Schedule, lr_scale


def test_warm_up_plateau_and_linear_decay():
    schedule = Schedule(total_steps=100, warmup_steps=10, decay_fraction=0.2, final_fraction=0.1)
    assert [lr_scale(step, schedule) for step in (0, 4, 9, 10, 80, 90, 100, 500)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0, 1.0, 0.55, 0.1, 0.1]
    )


def test_one_minus_sqrt_is_half_way_after_a_quarter_of_the_decay():
    schedule = Schedule(total_steps=100, decay_fraction=0.4, shape="one_minus_sqrt")
    assert lr_scale(70, schedule) == pytest.approx(0.5)


def test_without_decay_it_stays_at_the_peak():
    schedule = Schedule(total_steps=5, decay_fraction=0.0)
    assert [lr_scale(step, schedule) for step in range(6)] == [1.0] * 6


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(1, 200),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
    shape=st.sampled_from(["linear", "one_minus_sqrt"]),
)
def test_every_rate_of_the_stage_is_positive_unless_it_is_the_end_and_it_rises_then_falls(
    total, warmup, decay, final, shape
):
    schedule = Schedule(
        total_steps=total,
        warmup_steps=int(warmup * total),
        decay_fraction=decay,
        final_fraction=final,
        shape=shape,
    )
    rates = [lr_scale(step, schedule) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"total_steps": 0},
        {"total_steps": 5, "warmup_steps": 6},
        {"total_steps": 5, "decay_fraction": 1.5},
        {"total_steps": 5, "final_fraction": -0.1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        Schedule(**settings)
