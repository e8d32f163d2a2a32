"""The learning-rate schedule: warm up, stay flat, decay. A pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

from openzaya.core.errors import ConfigError

DecayShape = Literal["linear", "one_minus_sqrt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Warm-up, plateau and decay as factors of the peak learning rate."""

    total_steps: int
    """Optimizer steps of the stage."""
    warmup_steps: int = 0
    """Steps of linear rise; step 0 already has 1 / warmup_steps of the peak."""
    decay_fraction: float = 0.2
    """Share of total_steps, counted from the end, over which the rate decays. 0 = flat."""
    final_fraction: float = 0.0
    """Factor that the decay would reach at step total_steps, one after the last."""
    shape: DecayShape = "linear"
    """linear, or one_minus_sqrt, which falls fast at first."""

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ConfigError(f"total_steps is {self.total_steps}; a stage needs at least 1")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ConfigError(
                f"warmup_steps is {self.warmup_steps}, but the stage has {self.total_steps} steps; "
                "choose 0 <= warmup_steps <= total_steps"
            )
        for name in ("decay_fraction", "final_fraction"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; it is a share, choose it in [0, 1]")


def lr_scale(step: int, schedule: Schedule) -> float:
    """Return the factor of the peak rate at a step counted from 0, in [0, 1].

    Where warm-up and decay overlap the smaller factor holds. Past the end it is final_fraction.
    """
    rise = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    decay_steps = schedule.decay_fraction * schedule.total_steps
    into_decay = step - (schedule.total_steps - decay_steps)
    if into_decay <= 0 or decay_steps == 0:
        return rise
    progress = min(1.0, into_decay / decay_steps)
    fallen = progress if schedule.shape == "linear" else math.sqrt(progress)
    return min(rise, 1.0 - (1.0 - schedule.final_fraction) * fallen)
