"""Run one stage from its newest checkpoint to its last step."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

from torch import nn

from openzaya.core.errors import DataError, OpenZayaError, TrainingStopped
from openzaya.core.log import MetricWriter
from openzaya.data.windows import Window
from openzaya.model.balance import RouterBalancer
from openzaya.model.zaya import Zaya
from openzaya.optim.newton_schulz import kernels_of
from openzaya.train.lineage import identity, shape_of
from openzaya.train.lock import StopSignal
from openzaya.train.parallel import ALONE, Parallel
from openzaya.train.saver import DEFAULT_SAVING, Saver, Saving
from openzaya.train.stages import StageConfig
from openzaya.train.state import SpikeGuard, TrainState
from openzaya.train.step import StepReport, train_step

NextWindows = Callable[[int], Sequence[Window]]
"""The windows of a step: a pure function of the step, which is what makes a resume exact."""
OnStep = Callable[[TrainState, StepReport], Mapping[str, float] | None]
"""Called after every step; declared metrics that it returns, an evaluation say, are logged too."""

REPORT_STEPS = 20
"""Last steps that a stage's summary averages over."""
CHECKPOINT_EVERY_S = 900.0
"""Longest time between two checkpoints, whatever the number of steps."""
MAX_BROKEN_IN_A_ROW = 3
"""Steps that may be not finite in a row before training stops."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StageSummary:
    """What the report card says of a stage; saved with every checkpoint."""

    recent: list[dict[str, Any]] = field(default_factory=list)

    def add(self, report: StepReport) -> None:
        """Remember a step, forget the oldest; one that is not finite has no mean to add to."""
        if not isfinite(report.loss):
            return
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


def run_stage(  # noqa: PLR0913 - who trains what, on which data, where to, on which ranks
    model: Zaya,
    config: StageConfig,
    next_windows: NextWindows,
    run_dir: Path,
    *,
    on_step: OnStep = lambda _state, _report: None,
    writer: MetricWriter | None = None,
    saving: Saving = DEFAULT_SAVING,
    parallel: Parallel = ALONE,
) -> StageSummary:
    """Train `model` in place until the stage's last step; resume from `run_dir` if it can.

    `next_windows` gives the windows of all ranks; `writer` is for the first rank only.

    The optimizer starts fresh with the stage. A resumed run is bit-identical to one that was
    never stopped. Raises CheckpointError when `run_dir` holds another stage's settings, model,
    tokenizer or code, or is in use, and TrainingStopped, with the step saved, after SIGTERM.
    """
    model.set_rope_theta({"hybrid": config.rope_theta})
    model.train()
    model.recompute, model.offload = config.recompute, config.offload
    run = Run(config, model, parallel)
    clock = CheckpointClock(config.checkpoint_every_steps)
    start = identity_of(model, config, saving, parallel)
    with parallel.saver(run_dir, start, saving) as saver, StopSignal() as stop:
        run.resume(saver)
        if writer is not None:
            writer.truncate_after(run.state.step, config.name)
        while run.state.step < config.steps:
            report = run.step(next_windows)
            found = on_step(run.state, report)
            if writer is not None:
                values = report.metrics(run.state) | dict(found or {})
                writer.write(run.state.step, config.name, values)
            check_health(config, run.state)
            saver.poll()
            # Read once: a later signal is the next step's business.
            is_last = run.state.step == config.steps
            stopping, saves = parallel.agree(
                stop.requested,
                is_last or saver.wants_retry or clock.is_due(run.state.step),
            )
            is_last |= stopping
            if is_last or saves:
                run.save(saver, is_last=is_last)
                clock.restart()
            if stopping:
                break
        if any(parallel.agree(stop.requested)):
            raise stopped(config.name, run.state.step, config.steps, run_dir)
    return run.summary


def identity_of(
    model: Zaya, config: StageConfig, saving: Saving, parallel: Parallel
) -> dict[str, Any]:
    """Return what a checkpoint records of the run, for a resume to be compared with."""
    start = identity(
        config,
        saving.tokenizer_hash,
        kernels=model.kernels_of_training(),
        muon=kernels_of(model.device, config.optim.muon.arithmetic),
    )
    start["model"] = shape_of(model, parallel.dtype(model))
    if saving.base:
        start["base"] = saving.base
    if saving.data is not None:
        start["data"] = dict(saving.data)
    return start


def is_time_to_evaluate(step: int, config: StageConfig) -> bool:
    """Say whether the model is evaluated after this step, counted from 1."""
    every = config.evaluate_every_steps
    return step == config.steps or (every > 0 and step % every == 0)


class Run:
    """All that a stage's next step depends on."""

    def __init__(self, config: StageConfig, model: Zaya, parallel: Parallel = ALONE) -> None:
        self.config = config
        self.model = model
        self.parallel = parallel
        self.optimizers = parallel.optimizers(model, config.optim)
        self.balancer = RouterBalancer(model, config.balance)
        self.state = TrainState(SpikeGuard(config.spike_sigmas))
        self.summary = StageSummary()

    def step(self, next_windows: NextWindows) -> StepReport:
        """Do one step on its windows."""
        windows = next_windows(self.state.step)
        if not windows:
            raise DataError(
                f"step {self.state.step} of {self.config.name} has no data; check the mixture"
            )
        report = train_step(
            self.model,
            self.optimizers,
            self.balancer,
            windows,
            self.config,
            self.state,
            self.parallel,
        )
        self.summary.add(report)
        return report

    def save(self, saver: Saver, *, is_last: bool) -> None:
        """Hand everything to the saver, but for the base of adapters where that has a name.

        The data's position is the step, and every random stream is named by it: no more to save.
        """
        left_out = self.frozen() if saver.saving.base else {}
        parts = {
            "model": {k: t for k, t in self.model.state_dict().items() if k not in left_out},
            "optim": self.optimizers.state_dict(),
            "balance": self.balancer.state_dict(),
        }
        tensors = {
            f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()
        }
        state = {
            "tokens": self.state.tokens,
            "skipped": self.state.skipped,
            "guard": self.state.guard.to_json(),
            "recent": self.summary.recent,
        }
        saver.save(self.state.step, tensors, state, is_last=is_last)

    def frozen(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are not trained."""
        return {k: p for k, p in self.model.named_parameters() if not p.requires_grad}

    def resume(self, saver: Saver) -> None:
        """Load the newest checkpoint that verifies, if there is one."""
        loaded = saver.load()
        if loaded is None:
            return
        frozen = {name: parameter.detach() for name, parameter in self.frozen().items()}
        self.parallel.load_weights(self.model, frozen | loaded.part("model"))
        self.optimizers.load_state_dict(loaded.part("optim"))
        self.balancer.load_state_dict(loaded.part("balance"))
        self.state.step = loaded.step
        self.state.tokens = loaded.state["tokens"]
        self.state.skipped = loaded.state["skipped"]
        self.state.guard.load(loaded.state["guard"])
        self.summary.recent = loaded.state["recent"]


def stopped(name: str, step: int, steps: int, run_dir: Path) -> TrainingStopped:
    """Return the end that SIGTERM asked for."""
    return TrainingStopped(
        f"{name} was stopped by SIGTERM after step {step} of {steps}, which is saved in {run_dir}; "
        "run the same command to go on"
    )


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
    """Decides when to save."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self.last_s = monotonic()

    def is_due(self, step: int) -> bool:
        """Say whether to save now, by steps or by wall time."""
        return step % self.every_steps == 0 or monotonic() - self.last_s > CHECKPOINT_EVERY_S
