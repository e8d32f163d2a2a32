"""Checkpoints that are either whole or absent: tensors, JSON state and a manifest of hashes.

    step_00000120/
        tensors.safetensors     every tensor; with several ranks, shard-*.safetensors instead
        state.json              everything else; no pickle anywhere
        MANIFEST.json           sha256, crc32 and size of both, written last, with its own digest
    LATEST                      name of the newest one, for people and scripts

A checkpoint is written under a temporary name, synced, and renamed. Loading takes the newest that
verifies and moves broken ones aside. One process writes to a folder at a time (`train/lock.py`).
Supervised stages and RL use it through `train/saver.py`.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.core.files import sync
from openzaya.train.lineage import refuse_changes
from openzaya.train.manifest import DamagedCheckpoint, read_manifest, write_manifest
from openzaya.train.tensor_files import read_all

TENSORS, STATE, LATEST = "tensors.safetensors", "state.json", "LATEST"
FREE_SPACE_FACTOR = 1.2
"""Free disk space wanted before writing, as a multiple of the data's size."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Which checkpoints stay when a newer one is whole."""

    last: int = 2
    """The newest ones."""
    every_steps: int = 0
    """Those whose step is a multiple of this stay for good; 0 = none."""

    def __post_init__(self) -> None:
        """Refuse to keep nothing."""
        if self.last < 1 or self.every_steps < 0:
            raise ConfigError(
                f"a run keeps its last {self.last} checkpoints and every {self.every_steps} steps; "
                "choose at least 1 and at least 0"
            )

    def outdated(self, steps: Sequence[int]) -> list[int]:
        """Return the steps to forget, of those in ascending order."""
        return [s for s in steps[: -self.last] if not self.every_steps or s % self.every_steps]


DEFAULT_KEEP = Keep()


@dataclass(frozen=True, slots=True)
class Loaded:
    """One verified checkpoint."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    meta: dict[str, Any]
    path: Path
    digest: str
    """The manifest's, which names this checkpoint among all that ever were."""

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors saved as `name/...`, without that prefix."""
        prefix = f"{name}/"
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    keep: Keep = DEFAULT_KEEP,
) -> Path:
    """Write the checkpoint of `step`, then forget those that `keep` does not want.

    `meta` is the run's `lineage.identity`, or a part of it. Raises CheckpointError for tensors that
    are not finite, a full disk or a folder that cannot be written; older checkpoints then stay as
    they were.
    """
    write(folder, step, snapshot(tensors), json.dumps(dict(state)), meta, keep)
    return folder / name_of(step)


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, each whole and on its own: later steps do not reach the copy."""
    # Cloned: safetensors refuses tensors that share memory, and views of larger ones.
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state_text: str,
    meta: Mapping[str, Any],
    keep: Keep,
) -> str:
    """Do the disk's part of `save` with a `snapshot` and the state as JSON; return the digest.

    Touches nothing but its arguments, so another thread may train meanwhile.
    """
    work = work_folder(folder, step)
    check_finite(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        check_space(folder, sum(t.numel() * t.element_size() for t in tensors.values()))
        work.mkdir()
        save_file(dict(tensors), work / TENSORS)
        (work / STATE).write_text(state_text, encoding="utf-8")
        digest = write_manifest(work, step, meta)
        commit(work, folder / name_of(step), keep)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise CheckpointError(not_written(folder, step, error)) from error
    return digest


def work_folder(folder: Path, step: int) -> Path:
    """Return a temporary name for the checkpoint of a step."""
    return folder / f"{name_of(step)}.tmp-{uuid.uuid4().hex[:8]}"


def commit(work: Path, target: Path, keep: Keep) -> None:
    """Put a finished checkpoint in its place, then forget those that `keep` does not want."""
    folder = target.parent
    if target.exists():
        remove(target)
    work.rename(target)
    sync(folder)
    point_latest(folder, target.name)
    for old in keep.outdated([step_of(path) for path in checkpoints(folder)]):
        remove(folder / name_of(old))


def not_written(folder: Path, step: int, error: object) -> str:
    """Return the message for a checkpoint that did not come to be."""
    return (
        f"checkpoint {folder / name_of(step)} could not be written ({error}); the older ones are "
        "intact: make room or choose another folder"
    )


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first, without looking inside."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.glob("step_*") if p.is_dir() and p.name[5:].isdigit()]
    return sorted(found, key=step_of)


def load_newest(
    folder: Path, meta: Mapping[str, Any] | None = None, allowed: Sequence[str] = ()
) -> Loaded | None:
    """Return the newest checkpoint that verifies, None when there never was one.

    Damaged ones are renamed to *.quarantined with a message. Raises CheckpointError when all are
    damaged, when one cannot be read for another reason (schema, permissions: it may be whole), and,
    with `meta`, when the checkpoint's run had other settings, another tokenizer or other code than
    `meta` says; the message names the differences. `allowed` names parts that may differ.
    """
    damaged = []
    for path in reversed(checkpoints(folder)):
        try:
            loaded = load(path)
        except DamagedCheckpoint as error:
            damaged.append(quarantine(path))
            log.warning("%s; moved to %s, trying the one before", error, damaged[-1].name)
            continue
        if meta is not None:
            refuse_changes(path, loaded.meta, meta, allowed)
        return loaded
    if damaged:
        raise CheckpointError(
            f"all {len(damaged)} checkpoints in {folder} are damaged and were moved aside "
            f"({damaged[0].name}); put back an intact copy, or start again to train from the "
            "beginning"
        )
    return None


def load(path: Path) -> Loaded:
    """Read one checkpoint. Raises CheckpointError unless sizes and checksums are as written.

    Checksums are crc32, three times as fast as sha256; `verify` compares sha256.
    """
    manifest = read_manifest(path, "crc32")
    try:
        return Loaded(
            step=int(manifest["step"]),
            tensors=read_all(path),
            state=json.loads((path / STATE).read_text(encoding="utf-8")),
            meta=manifest["meta"],
            path=path,
            digest=manifest["digest"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}); resume from an older one"
        ) from error


def verify(path: Path) -> None:
    """Raise CheckpointError unless every file has the sha256 that was written down."""
    read_manifest(path, "sha256")


def name_of(step: int) -> str:
    """Return the name of a step's folder."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    return int(path.name[5:])


def quarantine(path: Path) -> Path:
    """Move a damaged checkpoint aside, for people to look at; return where it is."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.quarantined")
    try:
        path.rename(aside)
    except OSError as error:
        raise CheckpointError(
            f"{path} is damaged and cannot be moved aside ({error}); remove it, then resume"
        ) from error
    return aside


def point_latest(folder: Path, name: str) -> None:
    """Let LATEST name a checkpoint."""
    work = folder / f"{LATEST}.tmp"
    work.write_text(name + "\n", encoding="utf-8")
    sync(work)
    work.replace(folder / LATEST)
    sync(folder)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for a tensor with nan or inf."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name!r} is not finite, so this step is not saved; go on from the last "
                "checkpoint with a lower learning rate"
            )


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise CheckpointError when the disk is too full for a checkpoint of that size."""
    needed = int(FREE_SPACE_FACTOR * num_bytes)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder} has {free} bytes left, a checkpoint needs {needed}; the older ones are "
            "intact: make room or choose another folder"
        )


def remove(path: Path) -> None:
    """Delete a checkpoint; killed halfway, it is a leftover and not a damaged checkpoint."""
    doomed = path.with_name(f"{path.name}.tmp-old-{uuid.uuid4().hex[:8]}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left behind."""
    for leftover in folder.glob("step_*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
