"""Saves while training goes on: a copy at the step's end, written by a thread, one at a time.

with Saver(run_dir, identity(config), Saving()) as saver:
    loaded = saver.load()
    ...
    saver.save(step, tensors, state)   # returns when the copy is made
    saver.poll()                       # hears how it ended
"""

import json
import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.train import ckpt
from openzaya.train.lock import RunLock

MAX_FAILURES = 3
"""Writes that may fail in a row before training stops."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """How a run saves, and in what a resume may differ; none of it changes a number."""

    keep: ckpt.Keep = ckpt.DEFAULT_KEEP
    """Which checkpoints stay."""
    in_background: bool = True
    """Train on while the last step is written; costs memory for one copy of the state."""
    tokenizer_hash: str = ""
    """Names the tokenizer of the data; a resume with another one is refused."""
    data: Mapping[str, str] | None = None
    """Names the data; a resume with others is refused. None where the caller sees to that."""
    base: str = ""
    """Names the weights that a resume finds in place (`lineage.content_of`): parameters that are
    not trained are then left out, and another base is refused. "" = a checkpoint holds them."""
    allow_changed: tuple[str, ...] = ()
    """What a resume may change, of `lineage.REFUSED`. Such a run is not bit-identical."""


DEFAULT_SAVING = Saving()


class Saver:
    """Holds a run's folder, loads its newest checkpoint and writes new ones.

    Every checkpoint names the run it belongs to and its parent: the one that this run wrote or
    loaded before it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], saving: Saving) -> None:
        self.folder = folder
        self.identity = identity
        self.saving = saving
        self.run_id = uuid.uuid4().hex
        self.parent: dict[str, Any] | None = None
        self.failures = 0
        self._lock = RunLock(folder)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self._lock.__enter__()
        ckpt.remove_leftovers(self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Finish the write in flight and let go of the folder.

        Raises what the write ran into, unless another error is on its way: then it is logged.
        """
        try:
            self._collect(is_fatal=kind is None)
        finally:
            self._lock.__exit__(kind, error, where)

    def load(self) -> ckpt.Loaded | None:
        """Return the newest checkpoint that verifies; go on in its name."""
        loaded = ckpt.load_newest(self.folder, self.identity, self.saving.allow_changed)
        if loaded is not None:
            self.run_id = loaded.meta.get("run_id", self.run_id)
            self.parent = {"step": loaded.step, "digest": loaded.digest}
        return loaded

    @property
    def wants_retry(self) -> bool:
        """Say whether the last write failed and none is under way."""
        return self.failures > 0 and self._thread is None

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        *,
        is_last: bool = False,
    ) -> None:
        """Copy everything and start to write it, once the write before has come to an end.

        The last one is waited for: raises CheckpointError when it fails.
        """
        self._collect()
        copy, text = ckpt.snapshot(tensors), json.dumps(dict(state))
        # Not a daemon: an interpreter that ends waits for the write.
        self._thread = threading.Thread(
            target=self._write, args=(step, copy, text), name=f"checkpoint-{step}"
        )
        self._thread.start()
        if is_last or not self.saving.in_background:
            self._collect(is_fatal=is_last)

    def poll(self) -> None:
        """Hear how a write ended; return at once while one is under way.

        A failure is logged and the caller tries again; raises CheckpointError for the third in a
        row.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._collect()

    def _collect(self, *, is_fatal: bool = False) -> None:
        """Wait for the write in flight and deal with what it ran into."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is None:
            return
        if is_fatal or self.failures >= MAX_FAILURES or not isinstance(error, CheckpointError):
            raise error
        log.warning("%s; training goes on, failure %d", error, self.failures)

    def _write(self, step: int, tensors: dict[str, Tensor], state_text: str) -> None:
        meta = {**self.identity, "run_id": self.run_id, "parent": self.parent}
        try:
            digest = self._commit(step, tensors, state_text, meta)
        except Exception as error:  # noqa: BLE001 - handed to the training thread by `_collect`
            self.failures += 1
            self._error = error
        else:
            self.failures = 0
            self.parent = {"step": step, "digest": digest}

    def _commit(
        self, step: int, tensors: dict[str, Tensor], state_text: str, meta: dict[str, Any]
    ) -> str:
        """Write one checkpoint; return its digest."""
        return ckpt.write(self.folder, step, tensors, state_text, meta, self.saving.keep)
