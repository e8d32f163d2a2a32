"""Run one stage from its newest checkpoint to its last step."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from openzaya.core.config import config_hash, to_mapping
from openzaya.core.errors import CheckpointError, DataError, OpenZayaError
from openzaya.core.log import MetricWriter
from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.model.zaya import Zaya
from openzaya.optim import Optimizers, build_optimizer
from openzaya.train import ckpt
from openzaya.train.stages import StageConfig
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import StepReport, train_step

NextWindows = Callable[[int], Sequence[Window]]
"""The windows of a step: a pure function of the step, which is what makes a resume exact."""
OnStep = Callable[[TrainState, StepReport], None]

REPORT_STEPS = 20
"""Last steps that a stage's summary averages over."""
CHECKPOINT_EVERY_S = 900.0
"""Longest time between two checkpoints, whatever the number of steps."""
MAX_SAVE_FAILURES = 3
"""Saves that may fail in a row before training stops."""
MAX_BROKEN_IN_A_ROW = 3
"""Steps that may be not finite in a row before training stops."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StageSummary:
    """What the report card says of a stage; saved with every checkpoint."""

    recent: list[dict[str, Any]] = field(default_factory=list)

    def add(self, report: StepReport) -> None:
        """Remember a step, forget the oldest."""
        self.recent.append(
            {
                "loss": report.loss,
                "sources": {k: list(v) for k, v in report.loss_by_source.items()},
                "entropy": report.load_entropy,
            }
        )
        del self.recent[:-REPORT_STEPS]

    def loss_by_source(self) -> dict[str, float]:
        """Return the mean token loss of every source over the last steps, in nats."""
        sums: dict[str, list[float]] = {}
        for entry in self.recent:
            for source, (loss, weight) in entry["sources"].items():
                known = sums.setdefault(source, [0.0, 0.0])
                known[0] += loss
                known[1] += weight
        return {k: v[0] / v[1] for k, v in sorted(sums.items()) if v[1]}

    def load_entropy(self) -> list[float]:
        """Return the mean normalized load entropy of every layer over the last steps."""
        rows = [entry["entropy"] for entry in self.recent]
        return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def run_stage(
    model: Zaya,
    config: StageConfig,
    next_windows: NextWindows,
    run_dir: Path,
    *,
    on_step: OnStep = lambda _state, _report: None,
    writer: MetricWriter | None = None,
) -> StageSummary:
    """Train `model` in place until the stage's last step; resume from `run_dir` if it can.

    The optimizer starts fresh with the stage. A resumed run is bit-identical to one that was
    never stopped. Raises CheckpointError when `run_dir` holds another stage's settings.
    """
    model.set_rope_theta({"hybrid": config.rope_theta})
    model.train()
    optimizers = build_optimizer(model, config.optim)
    balancer = RouterBalancer(model, config.balance)
    state = TrainState(SpikeGuard(config.spike_sigmas))
    summary = StageSummary()
    clock = CheckpointClock()
    resume(run_dir, config, model, optimizers, balancer, state, summary)
    if writer is not None:
        writer.truncate_after(state.step, config.name)
    while state.step < config.steps:
        windows = next_windows(state.step)
        if not windows:
            raise DataError(f"step {state.step} of {config.name} has no data; check the mixture")
        report = train_step(model, optimizers, balancer, windows, config, state)
        summary.add(report)
        if writer is not None:
            writer.write(state.step, config.name, report.metrics(state))
        on_step(state, report)
        check_health(config, state)
        if clock.is_due(state.step, config):
            work = partial(save, run_dir, config, model, optimizers, balancer, state, summary)
            clock.attempt(work, is_last=state.step == config.steps)
    return summary


def check_health(config: StageConfig, state: TrainState) -> None:
    """Raise OpenZayaError after several steps in a row that were not finite.

    Their updates were left out, so the weights are those of the last good step.
    """
    if state.broken_in_a_row >= MAX_BROKEN_IN_A_ROW:
        raise OpenZayaError(
            f"{config.name} stopped at step {state.step}: loss or gradient was not finite in "
            f"{state.broken_in_a_row} steps in a row; resume with a lower learning rate in another "
            "folder, or look at the data of these steps"
        )


class CheckpointClock:
    """Decides when to save; a save that fails is tried again, but not for ever."""

    def __init__(self) -> None:
        self.last_s = monotonic()
        self.failures = 0

    def is_due(self, step: int, config: StageConfig) -> bool:
        """Say whether to save now: by steps, by wall time, at the end, or after a failure."""
        return (
            step % config.checkpoint_every_steps == 0
            or step == config.steps
            or self.failures > 0
            or monotonic() - self.last_s > CHECKPOINT_EVERY_S
        )

    def attempt(self, work: Callable[[], None], *, is_last: bool) -> None:
        """Save; let CheckpointError through at the last step and when it failed too often."""
        try:
            work()
        except CheckpointError as error:
            self.failures += 1
            if is_last or self.failures >= MAX_SAVE_FAILURES:
                raise
            log.warning("%s; training goes on, failure %d", error, self.failures)
            return
        self.failures = 0
        self.last_s = monotonic()


def save(
    run_dir: Path,
    config: StageConfig,
    model: Zaya,
    optimizers: Optimizers,
    balancer: RouterBalancer,
    state: TrainState,
    summary: StageSummary,
) -> None:
    """Write everything that the next step depends on."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optim/{name}": tensor for name, tensor in optimizers.state_dict().items()}
    tensors |= {f"balance/{name}": tensor for name, tensor in balancer.state_dict().items()}
    ckpt.save(
        run_dir,
        state.step,
        tensors,
        {
            "tokens": state.tokens,
            "skipped": state.skipped,
            "guard": state.guard.to_json(),
            "recent": summary.recent,
        },
        {"config_hash": config_hash(config), "config": to_mapping(config)},
    )


def resume(
    run_dir: Path,
    config: StageConfig,
    model: Zaya,
    optimizers: Optimizers,
    balancer: RouterBalancer,
    state: TrainState,
    summary: StageSummary,
) -> None:
    """Load the newest checkpoint that verifies, if there is one."""
    loaded = ckpt.load_newest(
        run_dir, {"config_hash": config_hash(config), "config": to_mapping(config)}
    )
    if loaded is None:
        return
    model.load_state_dict(loaded.part("model"))
    optimizers.load_state_dict(loaded.part("optim"))
    balancer.load_state_dict(loaded.part("balance"))
    state.step = loaded.step
    state.tokens = loaded.state["tokens"]
    state.skipped = loaded.state["skipped"]
    state.guard.load(loaded.state["guard"])
    summary.recent = loaded.state["recent"]
