"""Checkpoints that are either whole or absent: tensors, JSON state and a manifest of hashes.

    step_00000120/
        tensors.safetensors     every tensor
        state.json              everything else; no pickle anywhere
        MANIFEST.json           sha256, crc32 and size of both, written last, with its own digest
    LATEST                      name of the newest one, for people and scripts

A checkpoint is written under a temporary name, synced, and renamed. Loading takes the newest that
verifies and moves broken ones aside. One process writes to a folder at a time. Used by supervised
stages and by RL.
"""

import hashlib
import json
import logging
import os
import shutil
import uuid
import zlib
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
TENSORS, STATE, MANIFEST, LATEST = "tensors.safetensors", "state.json", "MANIFEST.json", "LATEST"
FREE_SPACE_FACTOR = 1.2
"""Free disk space wanted before writing, as a multiple of the tensors' size."""
READ_BYTES = 1 << 20
"""Bytes hashed at a time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One verified checkpoint."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    meta: dict[str, Any]
    path: Path

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
    keep_last: int = 2,
) -> Path:
    """Write the checkpoint of `step` and forget all but the `keep_last` newest.

    `meta` holds "config_hash" and "config"; a resume with another hash is refused. Raises
    CheckpointError for tensors that are not finite, a full disk or a folder that cannot be
    written; older checkpoints then stay as they were.
    """
    target = folder / f"step_{step:08d}"
    work = folder / f"{target.name}.tmp-{uuid.uuid4().hex[:8]}"
    state_text = json.dumps(dict(state))
    _check_finite(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        _check_space(folder, tensors)
        work.mkdir()
        # Cloned: safetensors refuses tensors that share memory, and views of larger ones.
        whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(whole, work / TENSORS)
        (work / STATE).write_text(state_text, encoding="utf-8")
        _write_manifest(work, step, meta)
        if target.exists():
            _remove(target)
        work.rename(target)
        _sync(folder)
        _point_latest(folder, target.name)
        for old in checkpoints(folder)[: -max(1, keep_last)]:
            _remove(old)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {target} could not be written ({error}); the older ones are intact: make "
            "room or choose another folder"
        ) from error
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first, without looking inside."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.glob("step_*") if p.is_dir() and p.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


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
    """Read one checkpoint. Raises CheckpointError unless sizes and checksums are as written.

    Checksums are crc32, three times as fast as sha256; `verify` compares sha256.
    """
    manifest = _check_files(path, "crc32")
    try:
        return Loaded(
            step=int(manifest["step"]),
            tensors=load_file(path / TENSORS),
            state=json.loads((path / STATE).read_text(encoding="utf-8")),
            meta=manifest["meta"],
            path=path,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}); resume from an older one"
        ) from error


def verify(path: Path) -> None:
    """Raise CheckpointError unless every file has the sha256 that was written down."""
    _check_files(path, "sha256")


def _check_files(path: Path, kind: str) -> dict[str, Any]:
    """Return the manifest when it is intact and the files match it."""
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        digest = manifest.pop("digest", None)
        if digest is not None and digest != _digest(manifest):
            raise CheckpointError(f"{path / MANIFEST} is damaged: it does not match its digest")
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path} has schema {manifest['schema']}, this version reads {SCHEMA}; "
                "resume with the version that wrote it"
            )
        for name in (TENSORS, STATE):
            _check_file(path / name, manifest["files"][name], kind)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}); resume from an older one"
        ) from error
    return manifest


def _check_file(path: Path, known: Mapping[str, Any], kind: str) -> None:
    if path.stat().st_size != known["bytes"]:
        raise CheckpointError(
            f"{path} is damaged: it has {path.stat().st_size} bytes, expected {known['bytes']}"
        )
    kind = kind if kind in known else "sha256"
    found = _describe(path)[kind] if kind == "sha256" else _crc32(path)
    if found != known[kind]:
        raise CheckpointError(f"{path} is damaged: {kind} is {found}, expected {known[kind]}")


def _write_manifest(work: Path, step: int, meta: Mapping[str, Any]) -> None:
    """Sync the files, then write and sync the manifest: it vouches for what is on the disk."""
    for name in (TENSORS, STATE):
        _sync(work / name)
    files = {name: _describe(work / name) for name in (TENSORS, STATE)}
    manifest = {"schema": SCHEMA, "step": step, "files": files, "meta": dict(meta)}
    # As it will be read back: JSON turns tuples into lists and number keys into text.
    manifest = json.loads(json.dumps(manifest))
    manifest["digest"] = _digest(manifest)
    (work / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(work / MANIFEST)
    _sync(work)


def _point_latest(folder: Path, name: str) -> None:
    work = folder / f"{LATEST}.tmp"
    work.write_text(name + "\n", encoding="utf-8")
    _sync(work)
    work.replace(folder / LATEST)
    _sync(folder)


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


def _remove(path: Path) -> None:
    """Delete a checkpoint; killed halfway, it is a leftover and not a damaged checkpoint."""
    doomed = path.with_name(f"{path.name}.tmp-old-{uuid.uuid4().hex[:8]}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob("step_*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _crc32(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "crc32": _crc32(path), "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
