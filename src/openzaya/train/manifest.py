"""The manifest of a checkpoint: which files belong to it, their hashes, and a digest of itself.

    {"schema": 2, "step": 120, "files": {"state.json": {"sha256": ..., "crc32": ..., "bytes": ...}},
     "meta": {...}, "digest": "sha256 of all the above"}

It names every file of the folder, however many there are, so a sharded checkpoint needs nothing
else. Single bit flips are found anywhere, in the manifest's own white space too: its bytes must be
the ones that writing it again would give.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from openzaya.core.errors import CheckpointError
from openzaya.core.files import sync

SCHEMA = 2
READABLE = (1, 2)
"""Schemas that this version loads. 1 recorded neither tokenizer nor code."""
MANIFEST = "MANIFEST.json"
READ_BYTES = 1 << 20
"""Bytes hashed at a time."""

Kind = Literal["crc32", "sha256"]


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are not what was written; an older one may be whole."""


def write_manifest(
    folder: Path, step: int, meta: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> str:
    """Sync all files of `folder`, then write and sync their manifest; return its digest.

    It comes last: what it vouches for is on the disk. Files in `known` were synced and described
    by the ranks that wrote them.
    """
    described = dict(known or {})
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.name not in described:
            sync(path)
            described[path.name] = describe(path)
    described = dict(sorted(described.items()))
    manifest = {"schema": SCHEMA, "step": step, "files": described, "meta": dict(meta)}
    # As it will be read back: JSON turns tuples into lists and number keys into text.
    manifest = json.loads(json.dumps(manifest))
    manifest["digest"] = digest_of(manifest)
    (folder / MANIFEST).write_bytes(encode(manifest))
    sync(folder / MANIFEST)
    sync(folder)
    return str(manifest["digest"])


def read_manifest(folder: Path, kind: Kind) -> dict[str, Any]:
    """Return the manifest when it is intact and every file matches it.

    Raises DamagedCheckpoint for anything missing, changed or left over, and CheckpointError for
    another schema or a file that this user cannot read: those checkpoints may be whole.
    """
    try:
        manifest = decode(folder / MANIFEST)
        check_schema(folder, manifest)
        check_names(folder, manifest)
        for name, known in manifest["files"].items():
            check_file(folder / name, known, kind)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedCheckpoint(
            f"{folder} is damaged: {Path(error.filename).name} is missing"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read ({error}); mend the disk or the permissions, then resume"
        ) from error
    return manifest


def decode(path: Path) -> dict[str, Any]:
    """Read a manifest; raise DamagedCheckpoint unless it is what was written, to the bit."""
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        known = dict(manifest)
        if known.pop("digest") == digest_of(known) and encode(manifest) == raw:
            return dict(manifest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"{path} is damaged: it cannot be read ({type(error).__name__}: {error})"
        ) from error
    raise DamagedCheckpoint(f"{path} is damaged: it does not match its digest")


def check_schema(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a schema that this version does not read."""
    if manifest["schema"] not in READABLE:
        raise CheckpointError(
            f"{folder} has schema {manifest['schema']}, this version reads "
            f"{' and '.join(map(str, READABLE))}; resume with the version that wrote it"
        )


def check_names(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise DamagedCheckpoint for a manifest of another step or a file it does not name."""
    if folder.name.startswith("step_") and folder.name[5:] != f"{manifest['step']:08d}":
        raise DamagedCheckpoint(
            f"{folder} is damaged: its {MANIFEST} is that of step {manifest['step']}"
        )
    extra = {path.name for path in folder.iterdir()} - {MANIFEST, *manifest["files"]}
    if extra:
        raise DamagedCheckpoint(f"{folder} is damaged: nobody wrote {', '.join(sorted(extra))}")


def check_file(path: Path, known: Mapping[str, Any], kind: Kind) -> None:
    """Raise DamagedCheckpoint unless a file has the size and the hash that were written down."""
    size = path.stat().st_size
    if size != known["bytes"]:
        raise DamagedCheckpoint(
            f"{path} is damaged: it has {size} bytes, expected {known['bytes']}"
        )
    found = crc32(path) if kind == "crc32" else sha256(path)
    if found != known[kind]:
        raise DamagedCheckpoint(f"{path} is damaged: {kind} is {found}, expected {known[kind]}")


def encode(manifest: Mapping[str, Any]) -> bytes:
    """Return the one way to write a manifest."""
    return json.dumps(manifest, indent=1).encode()


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its digest; the same in every schema."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """Return hashes and size of a file."""
    return {"sha256": sha256(path), "crc32": crc32(path), "bytes": path.stat().st_size}


def sha256(path: Path) -> str:
    """Return a file's SHA-256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32(path: Path) -> str:
    """Return a file's CRC-32, 8 hex digits."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
