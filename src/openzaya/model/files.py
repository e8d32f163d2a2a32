"""JSON files and checksums of model folders, with errors that say what to do."""

import hashlib
import json
from pathlib import Path
from typing import Any

from openzaya.core.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON table. Raises CheckpointError when it is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); expected a JSON table: download the folder again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a {type(value).__name__}, expected a JSON table: download it again"
        )
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON table through a temporary file, so that it is never half there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def describe(path: Path) -> dict[str, Any]:
    """Return size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def verify_files(folder: Path, name: str) -> None:
    """Compare the files that a checksum table names; nothing to do without a table.

    Raises CheckpointError for a file that differs by a single bit.
    """
    if not (folder / name).is_file():
        return
    for file, known in read_json(folder / name).items():
        path = folder / file
        found = describe(path) if path.is_file() else None
        if found != known:
            what = "missing" if found is None else f"damaged ({found['bytes']} bytes)"
            raise CheckpointError(
                f"{path} is {what}; {name} says {known['bytes']} bytes with sha256 "
                f"{known['sha256'][:12]}: copy or download the folder again, or delete {name} if "
                "you changed the weights on purpose"
            )
