"""Prepared data on disk: shards that appear whole or not at all, and a manifest of their hashes.

    OUT/plan.json             what was asked for and the chunks of the sources; written first
    OUT/shards/00000/         one chunk's documents, a folder that is renamed into place
        tokens.npy            <u2 (vocabulary up to 65,536) or <i4, one dimension, memory-mapped
        segments.npy          <i4 [segments, 4]: kind, role, length, loss (as in `Corpus`)
        documents.npy         <i8 [documents + 1, 3]: first token, first segment, source (0)
        corpus.json           format, source names, SHA-256 fingerprint of the three arrays
        bad.jsonl             records left out: file, place, reason, excerpt
        shard.json            counts, reasons, what trimming would do, hash of the source file
    OUT/tokenizer/            tokenizer and chat template that the ids belong to
    OUT/manifest.json         written last: every shard with its fingerprint, and one of them all
    OUT/card.json, DATA_CARD.md, quarantine.jsonl

A shard whose records were all left out has no arrays. Kind and role are positions in `KINDS` and
`ROLES` of text/document.py. All numbers are little-endian. plan.json and shard.json hold a hash of
themselves, the manifest's fingerprint is one.
"""

import hashlib
import json
import os
import re
import shutil
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import DataError
from openzaya.core.files import sync, write_whole
from openzaya.data.documents import Corpus, StoredDocuments, load_corpus
from openzaya.text.document import Document

FORMAT = 1
"""Of manifest.json."""
PLAN_FORMAT = 2
"""Of plan.json and shard.json: what a run needs to continue."""
_PART = re.compile(r"\.(\d{5,}|(plan|manifest|card)\.json|DATA_CARD\.md|quarantine\.jsonl)\.\d+")
"""Names that `write_folder` and `write_whole` give to what is not finished."""
_CONTINUE = (
    "expected a folder that `openzaya data prepare` finished: run it again, it continues where it "
    "stopped"
)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedData(StoredDocuments):
    """The documents of a prepared folder in the order of their sources, read on demand."""

    shards: tuple[Corpus, ...]
    """Those with documents."""
    ends: list[int]
    """Documents up to the end of each shard."""
    fingerprint: str
    """Hash of all contents; the same sources and settings always give the same one."""

    def __len__(self) -> int:
        """Return the number of documents."""
        return self.ends[-1]

    def document(self, number: int) -> Document:
        """Return one document; `number` counts from 0."""
        shard = bisect_right(self.ends, number)
        before = self.ends[shard - 1] if shard else 0
        return self.shards[shard].document(number - before)

    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of every document, from the tables alone."""
        return np.concatenate([shard.lengths() for shard in self.shards])

    def source_names(self) -> list[str]:
        """Return the data set of every document."""
        return [name for shard in self.shards for name in shard.source_names()]


def load_prepared(folder: str | Path, *, verify: bool = False) -> PreparedData:
    """Open a prepared folder without reading its tokens; `verify` hashes every shard first.

    Raises DataError when it is not finished, damaged or of another format.
    """
    root = Path(folder)
    manifest = read_table(root / "manifest.json")
    _check_format(root, manifest)
    fingerprint = str(manifest.get("fingerprint"))
    entries: Any = manifest.get("shards")
    if fingerprint != _fingerprint(entries):  # so every entry is as it was written
        raise DataError(
            f"{root}/manifest.json is damaged: its shards do not match its fingerprint "
            f"{fingerprint}; prepare the data again, what is done is kept"
        )
    shards: list[Corpus] = []
    ends: list[int] = []
    for entry in entries:
        if not entry["documents"]:
            continue
        corpus = load_corpus(root / "shards" / entry["name"], verify=verify)
        found = corpus.fingerprint, len(corpus), corpus.sources
        if found != (entry["fingerprint"], entry["documents"], (entry["source"],)):
            raise DataError(
                f"shard {entry['name']} of {root} is not the one in the manifest; prepare the "
                "data again"
            )
        shards.append(corpus)
        ends.append((ends[-1] if ends else 0) + len(corpus))
    return PreparedData(tuple(shards), ends, fingerprint)


def write_manifest(root: Path, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the manifest of finished shards and return it."""
    names = ("name", "source", "documents", "tokens", "fingerprint")
    entries = [{name: shard[name] for name in names} for shard in shards]
    manifest = {"format": FORMAT, "fingerprint": _fingerprint(entries), "shards": entries}
    write_whole(root / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a new folder that appears complete or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    fill(part)
    for file in part.iterdir():
        sync(file)
    sync(part)
    try:
        part.rename(path)
    except OSError:
        if not path.is_dir():
            raise
        shutil.rmtree(part)  # a worker of a killed run was faster; it wrote the same
    sync(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed had begun, and nothing else that is hidden."""
    for path in folder.glob(".*"):
        if not _PART.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_table(path: Path, cure: str = _CONTINUE) -> dict[str, Any]:
    """Return the table in one of our JSON files. Raises DataError, with `cure`, without one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); {cure}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected a table; {cure}")
    return value


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with a hash of its contents, so that `read_sealed` notices damage."""
    return {**table, "sha256": hashlib.sha256(json.dumps(table).encode()).hexdigest()}


def read_sealed(path: Path, cure: str) -> dict[str, Any]:
    """Return a table that was `sealed`, without its hash; raises DataError when it is damaged."""
    found = read_table(path, cure)
    table = {key: value for key, value in found.items() if key != "sha256"}
    if sealed(table) != found:
        raise DataError(f"{path} is damaged: its contents do not match its sha256; {cure}")
    return table


def read_plan(root: Path, cure: str) -> dict[str, Any]:
    """Return the plan of a folder, which is sealed but for those of earlier versions."""
    plan = read_table(root / "plan.json", cure)
    is_sealed = plan.get("format") == PLAN_FORMAT
    return read_sealed(root / "plan.json", cure) if is_sealed else plan


def planned_contexts(root: Path) -> list[int]:
    """Return the context lengths that a folder was prepared for. Raises DataError without any."""
    cure = "name the contexts that you mean with --context"
    settings = read_plan(root, cure).get("settings")
    found = settings.get("contexts") if isinstance(settings, dict) else None
    if not isinstance(found, list) or not all(isinstance(c, int) and c > 0 for c in found):
        raise DataError(
            f"{root}/plan.json is damaged: its contexts are {found!r}, expected numbers of tokens; "
            f"{cure}"
        )
    return found


def _fingerprint(entries: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, entries]).encode()).hexdigest()


def _check_format(root: Path, table: dict[str, Any]) -> None:
    if table.get("format") != FORMAT:
        raise DataError(
            f"{root} has format {table.get('format')}, expected {FORMAT}; prepare the data again"
        )
