"""Documents on disk: one flat token file and one segment table per corpus, memory-mapped.

Trimming and packing for any context length are arithmetic on the table; the token file is written
once and never copied.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import DataError
from openzaya.text.document import (
    KINDS,
    ROLES,
    Document,
    Segment,
)

_FORMAT = 1
_FILES = ("tokens.npy", "segments.npy", "documents.npy")
_COLUMNS = 4  # kind, role, length, loss


StoredTokens = NDArray[np.int32] | NDArray[np.uint16]


class StoredDocuments(Sequence[Document], ABC):
    """Documents on disk, by number or slice; a subclass says how many and reads one."""

    __slots__ = ()

    @abstractmethod
    def document(self, number: int) -> Document:
        """Return one document; `number` counts from 0 and is in range."""

    @abstractmethod
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of every document, from the tables alone."""

    @abstractmethod
    def source_names(self) -> list[str]:
        """Return the data set of every document."""

    @overload
    def __getitem__(self, key: int) -> Document: ...

    @overload
    def __getitem__(self, key: slice) -> list[Document]: ...

    def __getitem__(self, key: int | slice) -> Document | list[Document]:
        """Return one document or a list of them."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        number = key + len(self) if key < 0 else key
        if not 0 <= number < len(self):
            raise IndexError(key)
        return self.document(number)

    def __iter__(self) -> Iterator[Document]:
        """Go through all documents in order."""
        return map(self.document, range(len(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Corpus(StoredDocuments):
    """Documents of a folder, read on demand."""

    folder: Path
    """Where its files lie."""
    table: NDArray[np.int32]
    """[segments, 4]: kind, role, length, loss."""
    places: NDArray[np.int64]
    """[documents + 1, 2]: first token and first segment of every document."""
    source_of: NDArray[np.int32]
    """[documents]: index into `sources`."""
    sources: tuple[str, ...]
    """Names of the data sets."""
    fingerprint: str
    """Hash of all contents; the same documents always give the same one."""
    written: tuple[int, int]
    """Size of the token file in bytes, and when it was written last, in nanoseconds."""

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.places) - 1

    @property
    def tokens(self) -> StoredTokens:
        """Return all tokens, memory-mapped."""
        return _mapped(self)

    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of every document, from the tables alone."""
        return np.diff(self.places[:, 0])

    def source_names(self) -> list[str]:
        """Return the data set of every document."""
        return [self.sources[i] for i in self.source_of.tolist()]

    def document(self, number: int) -> Document:
        """Return one document, a view into an int32 file; `number` counts from 0."""
        (first, row), (end, row_end) = (
            self.places[number].tolist(),
            self.places[number + 1].tolist(),
        )
        segments: list[Segment] = []
        start = 0
        for kind, role, length, loss in self.table[row:row_end].tolist():
            segments.append(Segment(KINDS[kind], ROLES[role], start, length, bool(loss)))
            start += length
        source = self.sources[int(self.source_of[number])]
        tokens = np.asarray(self.tokens[first:end], dtype=np.int32)
        return Document(tokens, tuple(segments), source)


def token_dtype(vocab_size: int) -> Literal["<u2", "<i4"]:
    """Return the smallest type on disk that holds every id of a vocabulary."""
    return "<u2" if vocab_size <= 1 << 16 else "<i4"


def save_corpus(
    folder: str | Path, documents: Iterable[Document], dtype: Literal["<u2", "<i4"] = "<i4"
) -> str:
    """Write documents into a folder and return the fingerprint; ids are stored as `dtype`.

    The token file is streamed, so memory holds the table only. Raises DataError when the folder
    already holds a corpus or there is no document.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if (root / "corpus.json").exists():
        raise DataError(f"{root} already holds a corpus; choose an empty folder or delete it first")
    rows: list[tuple[int, int, int, int]] = []
    index: list[tuple[int, int]] = [(0, 0)]
    names: dict[str, int] = {}
    source_of: list[int] = []
    total = 0
    raw = root / "tokens.tmp"
    with raw.open("wb") as file:
        for document in documents:
            file.write(np.ascontiguousarray(document.tokens, dtype=dtype).tobytes())
            total += len(document)
            for part in document.segments:
                kind, role = KINDS.index(part.kind), ROLES.index(part.role)
                rows.append((kind, role, part.length, int(part.loss)))
            index.append((total, len(rows)))
            source_of.append(names.setdefault(document.source, len(names)))
    if not total:
        raw.unlink()
        raise DataError(f"no documents for {root}, expected at least one; check the reader")
    tokens = np.memmap(raw, dtype=dtype, mode="r", shape=(total,))
    np.save(root / "tokens.npy", tokens)
    del tokens
    raw.unlink()
    np.save(root / "segments.npy", np.asarray(rows, dtype="<i4").reshape(-1, _COLUMNS))
    places = np.asarray(index, dtype="<i8")
    which = np.asarray([*source_of, -1], dtype="<i8")
    np.save(root / "documents.npy", np.column_stack([places, which]))
    fingerprint = _fingerprint(root, list(names))
    meta = {"format": _FORMAT, "sources": list(names), "fingerprint": fingerprint}
    # Written last: a folder without it is not a corpus.
    (root / "corpus.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return fingerprint


def load_corpus(folder: str | Path, *, verify: bool = False) -> Corpus:
    """Open a corpus without reading its tokens; `verify` hashes all files first.

    Raises DataError when files are missing, damaged or of another format.
    """
    root = Path(folder)
    try:
        meta = json.loads((root / "corpus.json").read_text(encoding="utf-8"))
        table = np.load(root / "segments.npy", allow_pickle=False)
        places = np.load(root / "documents.npy", allow_pickle=False)
        tokens = np.load(root / "tokens.npy", mmap_mode="r", allow_pickle=False)
        sources, fingerprint = tuple(map(str, meta["sources"])), str(meta["fingerprint"])
    # What headers of numpy and tables in JSON with flipped bits bring about.
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, KeyError) as error:
        raise DataError(
            f"{root} cannot be read as a corpus ({error}); expected corpus.json and "
            f"{', '.join(_FILES)}: prepare the data again"
        ) from error
    if meta.get("format") != _FORMAT:
        raise DataError(
            f"{root} has corpus format {meta.get('format')}, expected {_FORMAT}; "
            "prepare the data again"
        )
    if verify and _fingerprint(root, sources) != fingerprint:
        raise DataError(
            f"{root} does not match its fingerprint {fingerprint}: its files changed after "
            "they were written; prepare the data again"
        )
    if not _agree(table, places, tokens, len(sources)):
        raise DataError(
            f"{root} is damaged: its tables, of {len(places) - 1} documents and {len(table)} "
            f"segments, do not describe its {len(tokens)} tokens; prepare the data again"
        )
    return Corpus(
        folder=root,
        table=table,
        places=np.ascontiguousarray(places[:, :2]),
        source_of=places[:-1, 2].astype(np.int32),
        sources=sources,
        fingerprint=fingerprint,
        written=_written(root),
    )


def _agree(
    table: NDArray[np.int32], places: NDArray[np.int64], tokens: StoredTokens, num_sources: int
) -> bool:
    """Say whether the tables divide all tokens into documents, and those into segments."""
    shapes = table.ndim, table.shape[1:], places.ndim, places.shape[1:], tokens.ndim
    types = table.dtype.str, places.dtype.str
    if shapes != (2, (_COLUMNS,), 2, (3,), 1) or types != ("<i4", "<i8"):
        return False
    rows, source_of = places[:, 1], places[:-1, 2]
    if (table < [0, 0, 1, 0]).any() or (table >= [len(KINDS), len(ROLES), 1 << 31, 2]).any():
        return False
    if rows[0] or rows[-1] != len(table) or (np.diff(rows) < 1).any():
        return False
    ends = np.concatenate([[0], np.cumsum(table[:, 2], dtype=np.int64)])
    known = tokens.dtype.str in ("<u2", "<i4") and bool(
        ((source_of >= 0) & (source_of < num_sources)).all()
    )
    return known and ends[-1] == len(tokens) and np.array_equal(ends[rows], places[:, 0])


@lru_cache(maxsize=64)
def _mapped(corpus: Corpus) -> StoredTokens:
    """Map a token file; each one that stays mapped costs a file descriptor, so only some do."""
    if _written(corpus.folder) != corpus.written:
        raise DataError(
            f"{corpus.folder} was replaced while it was read; stop what writes there, and start "
            "again what reads it"
        )
    found: StoredTokens = np.load(corpus.folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
    return found


def _written(folder: Path) -> tuple[int, int]:
    """Return size and time of the token file, zeros when it is gone."""
    try:
        state = (folder / "tokens.npy").stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _fingerprint(root: Path, sources: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, list(sources)]).encode())
    for name in _FILES:
        with (root / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
