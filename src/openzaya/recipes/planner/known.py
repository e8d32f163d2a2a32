"""Runs that others have published, to hold plans against."""

from dataclasses import dataclass

from openzaya.model.config import ZayaConfig
from openzaya.recipes.planner.flops import token_flops
from openzaya.recipes.planner.layout import Workload
from openzaya.recipes.planner.planner import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRun:
    """A step that was measured by somebody."""

    phase: str
    """Name of the phase."""
    parameters: int
    """Parameters of the model."""
    device: str
    ranks: int
    step_s: float
    """Seconds of an optimizer step, everything included."""
    source: str

    def is_of(self, config: ZayaConfig, plan: Plan) -> bool:
        """Say whether a plan is of this run: same model, phase, devices."""
        return (config.num_parameters(), plan.work.name, plan.device.name, plan.layout.ranks) == (
            self.parameters,
            self.phase,
            self.device,
            self.ranks,
        )


BASE_RUN = KnownRun(
    phase="pretrain1",
    parameters=8_840_488_784,
    device="mi300x",
    ranks=1_024,
    step_s=2.5,
    source="the paper's base run, appendix B",
)
"""4,096 sequences of 4,096 tokens in 2.5 s on 128 nodes of eight devices.

Paper: appendix B.
"""
KNOWN_RUNS = (BASE_RUN,)


def achieved_flops(config: ZayaConfig, work: Workload, ranks: int, step_s: float) -> float:
    """Return the operations a second of one device that a measured step amounts to.

    Useful operations only: what checkpointing repeats is not counted, nor is the optimizer.
    """
    done = token_flops(config, work.context_tokens).train * work.tokens_per_step
    return done / (ranks * step_s)
