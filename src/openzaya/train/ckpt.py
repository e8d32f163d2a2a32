"""Checkpoints that are either whole or absent: tensors, JSON state and a manifest of hashes.

    step_00000120/
        tensors.safetensors     every tensor
        state.json              everything else; no pickle anywhere
        MANIFEST.json           sha256 and size of both, written last

A checkpoint is written under a temporary name, synced, and renamed. Loading takes the newest that
verifies and moves broken ones aside. Used by supervised stages and by RL.
"""

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openzaya.core.config import diff
from openzaya.core.errors import CheckpointError

SCHEMA = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "MANIFEST.json"
FREE_SPACE_FACTOR = 1.2
"""Free disk space wanted before writing, as a multiple of the tensors' size."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One verified checkpoint."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    meta: dict[str, Any]
    path: Path


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    keep_last: int = 2,
) -> Path:
    """Write the checkpoint of `step` and forget all but the `keep_last` newest.

    `meta` holds "config_hash" and "config"; a resume with another hash is refused. Raises
    CheckpointError for tensors that are not finite, a full disk or a folder that cannot be
    written; older checkpoints then stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    _check_finite(tensors)
    _check_space(folder, tensors)
    target = folder / f"step_{step:08d}"
    work = folder / f"{target.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        work.mkdir()
        # Cloned: safetensors refuses tensors that share memory, and views of larger ones.
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, work / TENSORS)
        (work / STATE).write_text(json.dumps(dict(state)), encoding="utf-8")
        files = {name: _describe(work / name) for name in (TENSORS, STATE)}
        manifest = {"schema": SCHEMA, "step": step, "files": files, "meta": dict(meta)}
        for name in (TENSORS, STATE):
            _sync(work / name)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(work / MANIFEST)
        _sync(work)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {target} could not be written ({error}); the older ones are intact: make "
            "room or choose another folder"
        ) from error
    for old in checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first, without looking inside."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("step_*") if p.is_dir() and p.name[5:].isdigit())


def load_newest(folder: Path, meta: Mapping[str, Any] | None = None) -> Loaded | None:
    """Return the newest checkpoint that verifies, None when there is none.

    Broken ones are renamed to *.quarantined with a message. With `meta`, raises CheckpointError
    when the checkpoint was made with another configuration, and says what differs.
    """
    for path in reversed(checkpoints(folder)):
        try:
            loaded = load(path)
        except CheckpointError as error:
            aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.quarantined")
            path.rename(aside)
            log.warning("%s; moved to %s, trying the one before", error, aside.name)
            continue
        if meta is not None and loaded.meta.get("config_hash") != meta.get("config_hash"):
            changed = diff(loaded.meta.get("config", {}), meta.get("config", {}))
            raise CheckpointError(
                f"{path} was made with other settings ({'; '.join(changed[:5])}); resume with the "
                "same settings or start in another folder"
            )
        return loaded
    return None


def load(path: Path) -> Loaded:
    """Read one checkpoint. Raises CheckpointError unless every byte is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path} has schema {manifest['schema']}, this version reads {SCHEMA}; "
                "resume with the version that wrote it"
            )
        for name, known in manifest["files"].items():
            found = _describe(path / name)
            if found != known:
                raise CheckpointError(
                    f"{path / name} is damaged: {found['bytes']} bytes with sha256 "
                    f"{found['sha256'][:12]}, expected {known['bytes']} with {known['sha256'][:12]}"
                )
        return Loaded(
            step=int(manifest["step"]),
            tensors=load_file(path / TENSORS),
            state=json.loads((path / STATE).read_text(encoding="utf-8")),
            meta=manifest["meta"],
            path=path,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"tensor {name!r} is not finite, so this step is not saved; go on from the last "
                "checkpoint with a lower learning rate"
            )


def _check_space(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    needed = int(FREE_SPACE_FACTOR * sum(t.numel() * t.element_size() for t in tensors.values()))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder} has {free} bytes left, a checkpoint needs {needed}; the older ones are "
            "intact: make room or choose another folder"
        )


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob("step_*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
