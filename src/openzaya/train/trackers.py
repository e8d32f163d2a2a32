"""Sending the metrics to TensorBoard, W&B or trackio beside the JSON log that is always written."""

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from openzaya.core.errors import ConfigError
from openzaya.core.log import MetricWriter

RUN_TRACKERS = ("wandb", "trackio")
"""Trackers by name; both have wandb's `init`, `log` and `finish`."""


class Tracker(Protocol):
    """Somebody who shows the metrics."""

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Show one step's values."""

    def forget_after(self, step: int) -> None:
        """Hear that the run begins, or begins again, after a step."""

    def close(self) -> None:
        """Write what is still held."""


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        """Open the event file when something is logged."""
        self._summary: Any = import_module("torch.utils.tensorboard")
        self._folder = str(folder)
        self._purge_step: int | None = None
        self._writer: Any = None

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Write scalars under the stage's name."""
        if self._writer is None:
            self._writer = self._summary.SummaryWriter(self._folder, purge_step=self._purge_step)
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def forget_after(self, step: int) -> None:
        """Let TensorBoard hide what earlier event files say of later steps."""
        self._purge_step = step + 1

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


class RunTracker:
    """W&B or trackio: a run that is logged to."""

    def __init__(self, name: str, project: str, run: str) -> None:
        """Start the run; raises ConfigError when the package is not installed."""
        if find_spec(name) is None:
            raise ConfigError(
                f"the tracker {name!r} is not installed; install it with `pip install {name}`, or "
                "leave it out: metrics.jsonl is always written"
            )
        self._package: Any = import_module(name)
        self._package.init(project=project, name=run)

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Log finite values under the stage's name."""
        finite = {f"{stage}/{k}": v for k, v in values.items() if math.isfinite(v)}
        self._package.log(finite, step=step)

    def forget_after(self, step: int) -> None:
        """Do nothing: every start is a run of its own."""

    def close(self) -> None:
        """End the run."""
        self._package.finish()


class TrackingWriter(MetricWriter):
    """The JSON log, which every tracker hears of too."""

    def __init__(self, path: str | Path, trackers: Sequence[Tracker]) -> None:
        """Log to `path` and to the trackers."""
        super().__init__(path)
        self.trackers = trackers

    def write(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Append to the log first: it refuses names that nobody declared."""
        super().write(step, stage, values)
        for tracker in self.trackers:
            tracker.log(step, stage, values)

    def truncate_after(self, step: int, stage: str | None = None) -> int:
        """Forget the later steps here and in every tracker."""
        for tracker in self.trackers:
            tracker.forget_after(step)
        return super().truncate_after(step, stage)

    def close(self) -> None:
        """Close all trackers."""
        for tracker in self.trackers:
            tracker.close()


def open_writer(run_dir: Path, names: Sequence[str] = ()) -> TrackingWriter:
    """Return the writer of a run: JSON always, TensorBoard where it is installed, others by name.

    Raises ConfigError for a name that is not known or not installed.
    """
    strange = [name for name in names if name not in RUN_TRACKERS]
    if strange:
        raise ConfigError(
            f"no tracker is called {strange[0]!r}; known: {', '.join(RUN_TRACKERS)} (TensorBoard "
            "needs no naming)"
        )
    trackers: list[Tracker] = [RunTracker(name, "openzaya", run_dir.name) for name in names]
    if find_spec("tensorboard") is not None:
        trackers.append(TensorBoard(run_dir / "tensorboard"))
    return TrackingWriter(run_dir / "metrics.jsonl", trackers)
