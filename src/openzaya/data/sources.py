"""Sources of records: JSON lines, parquet and Hugging Face data-set folders, in chunks.

A chunk is what one process reads in one go and what is never done twice: a byte range of a JSON
lines file, row groups of a parquet file, or a whole compressed, json or arrow file. A json file
holds an array of records, one record, or lines after all. A place may be a local path or pattern
or, with fsspec installed, any URL it knows (`s3://...`, `hf://datasets/owner/name`).
"""

import gzip
import hashlib
import importlib
import io
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from openzaya.core.errors import DataError
from openzaya.data.arrow import arrow_batches
from openzaya.data.subsets import check_subsets

_ARROW = (".arrow", ".feather")
_JSON = (".json", ".json.gz", ".json.zst")
SUFFIXES = (
    *(kind + packed for kind in (".jsonl", ".ndjson") for packed in ("", ".gz", ".zst")),
    *(*_JSON, ".parquet", *_ARROW),
)
"""What a folder is searched for."""
_NOT_DATA = (
    *("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"),
    "state.json",
)
"""Descriptions that lie beside data. Source: `datasets` 5.2, data_files.py; it writes the last."""
_VERSIONS = ("ETag", "etag", "blob_id", "Last-Modified")
"""What file systems of fsspec call the version of a file: S3 and HTTP, others, the Hub, HTTP."""
_ODD = (RecursionError, OverflowError, MemoryError, SystemError)
_SPLIT = r"(?:^|[-._ 0-9/])(?:{})(?=[-._ 0-9/]|$)"
_TRAIN = re.compile(_SPLIT.format("train|training"))
_HELD_OUT = re.compile(_SPLIT.format("validation|valid|dev|val|test|testing|eval|evaluation"))
"""How names of files and folders tell a split. Source: `datasets` 5.2, data_files.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A stretch of one file."""

    source: str
    """Name of the data set."""
    file: str
    """Path or URL."""
    size_bytes: int
    """Size of the whole file when the plan was made."""
    version: str
    """Changes with the file's contents: when a local file was last written, a URL's etag."""
    start: int
    """First byte (JSON lines) or first row group (parquet); 0 for whole files."""
    end: int
    """Byte or row group behind the last one."""
    weight_bytes: int
    """About how much of the file this is, for progress."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that cannot be read."""

    reason: str
    """Short, without values, so that equal faults can be counted."""
    excerpt: str
    """The beginning of what was found."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a chunk."""

    place: int
    """Byte offset of its line, or number of its row in the file."""
    value: object
    """The decoded record, or a Fault."""


def chunks_of(name: str, place: str, chunk_bytes: int) -> list[Chunk]:
    """Return the chunks of a file or folder in a fixed order.

    Raises DataError when there is nothing to read or a package for the format is missing.
    """
    found: list[Chunk] = []
    for file in _files(place):
        size, version = _state(file)
        whole: dict[str, Any] = {
            "source": name,
            "file": file,
            "size_bytes": size,
            "version": version,
        }
        if file.endswith(".parquet"):
            found.extend(_row_groups(whole, chunk_bytes))
        elif file.endswith((".gz", ".zst", ".json", *_ARROW)):
            found.append(Chunk(**whole, start=0, end=size, weight_bytes=size))
        else:
            for start in range(0, size, chunk_bytes):
                end = min(start + chunk_bytes, size)
                found.append(Chunk(**whole, start=start, end=end, weight_bytes=end - start))
    return found


def rows_of(chunk: Chunk, most_bytes: int, fields: Collection[str] = ()) -> Iterator[Row]:
    """Go through the records of a chunk; lines longer than `most_bytes` come as faults.

    Of a table that has any of these `fields`, no other column is read.
    Raises DataError when the file changed since the plan or is damaged as a whole.
    """
    if _state(chunk.file) != (chunk.size_bytes, chunk.version):
        raise DataError(
            f"{chunk.file} changed since the plan was made (then {chunk.size_bytes} bytes, now "
            f"{_state(chunk.file)[0]}); prepare it into a new folder"
        )
    try:
        if chunk.file.endswith((".parquet", *_ARROW)):
            yield from _table_rows(chunk, fields)
        elif chunk.file.endswith(_JSON):
            yield from _whole_or_lines(chunk, most_bytes)
        else:
            yield from _lines(chunk, most_bytes)
    # pyarrow's errors are ValueErrors and OSErrors, of dates out of range OverflowErrors, of sizes
    # with flipped bits MemoryErrors and SystemErrors; a cut gzip stream is an EOFError.
    except (OSError, ValueError, EOFError, *_ODD, zlib.error) as error:
        raise DataError(
            f"{chunk.file} is damaged or cannot be read ({error}); fetch it again, or leave it out"
        ) from error


def file_hash(file: str) -> str:
    """Return the SHA-256 of a file."""
    with _open(file) as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _files(place: str) -> list[str]:
    if "://" in place:
        files = _remote_files(place)
    elif Path(place).is_dir():
        files = _data_in(Path(place).rglob("*"), Path(place))
        card = Path(place) / "README.md"
        readme = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        check_subsets(place, readme, [Path(file).relative_to(place).as_posix() for file in files])
    elif Path(place).is_file():
        files = [place]
    else:
        root = Path(place).anchor
        files = _data_in(Path(root).glob(str(Path(place).relative_to(root))), Path(place))
    if not files:
        hub = place if re.fullmatch(r"[\w.-]+/[\w.-]+", place) else "OWNER/NAME"
        raise DataError(
            f"{place} has nothing to read; expected a file, folder or pattern of "
            f"{', '.join(SUFFIXES)}, or hf://datasets/{hub} for a data set of the Hub"
        )
    if wrong := [file for file in files if not file.endswith(SUFFIXES)]:
        raise DataError(f"{wrong[0]} has no known format; expected one of {', '.join(SUFFIXES)}")
    _check_splits(place, files)
    return sorted(files)


def _check_splits(place: str, files: Iterable[str]) -> None:
    """Refuse to read what is held out along with what is trained."""
    kinds: dict[bool, str] = {}
    for file in sorted(files):
        below = "/".join(_below(Path(file), Path(place)))
        if _TRAIN.search(below) or _HELD_OUT.search(below):
            kinds.setdefault(_TRAIN.search(below) is None, file)
    if len(kinds) == 2:
        raise DataError(
            f"{place} holds data to train and data held out from training ({kinds[False]} and "
            f"{kinds[True]}); name what you mean by a folder or pattern, such as 'DIR/train' or "
            "'DIR/**/train*', or each as a source of its own"
        )


def _data_in(paths: Iterable[Path], asked: Path) -> list[str]:
    return [str(path) for path in paths if path.is_file() and _is_data(path, asked)]


def _is_data(path: Path, asked: Path) -> bool:
    """Say whether a file that was found is meant to be read; hidden ones must be asked for."""
    if any(part.startswith((".", "__")) for part in _below(path, asked)) or path.name in _NOT_DATA:
        return False
    # The cache of `datasets` beside the data holds the same rows once more.
    return path.name.endswith(SUFFIXES) and not path.name.startswith("cache-")


def _below(path: Path, asked: Path) -> list[str]:
    return [part for part in path.parts if part not in asked.parts]


def _remote_files(place: str) -> list[str]:
    core = _package("fsspec.core")
    with _reaching(place):
        system, path = core.url_to_fs(place)
        if "http" in system.protocol and path.endswith(SUFFIXES):
            return [place]  # to list it would fetch it whole, and take its links for files
        is_folder, root = system.isdir(path), f"{path.rstrip('/')}/"
        paths = list(map(str, system.find(path) if is_folder else system.glob(path)))
        has_card = is_folder and f"{root}README.md" in paths
        readme = system.cat_file(f"{root}README.md").decode(errors="replace") if has_card else ""
    named = [item for item in paths if _is_data(Path(item), Path(path))]
    check_subsets(place, readme, [item.removeprefix(root) for item in named])
    return [str(system.unstrip_protocol(item)) for item in named]


@contextmanager
def _reaching(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every file system has errors of its own
        raise DataError(
            f"{place} cannot be reached ({type(error).__name__}: {error}); check the address, the "
            "network and your rights, or give a local path"
        ) from error


def _open(file: str) -> IO[bytes]:
    if "://" in file:
        return cast(IO[bytes], _package("fsspec").open(file, "rb").open())
    return Path(file).open("rb")


def _state(file: str) -> tuple[int, str]:
    """Return the size of a file and its version, empty where the file system knows none."""
    if "://" not in file:
        state = Path(file).stat()
        return state.st_size, str(state.st_mtime_ns)
    system, path = _package("fsspec.core").url_to_fs(file)
    with _reaching(file):
        info = system.info(path)
        version = next((info[name] for name in _VERSIONS if info.get(name)), "")
        if not version:
            with suppress(NotImplementedError):
                version = system.modified(path)
        return int(info["size"]), str(version)


def _row_groups(whole: dict[str, Any], chunk_bytes: int) -> Iterator[Chunk]:
    """Join neighboring row groups until they are about `chunk_bytes` together."""
    try:
        with _open(whole["file"]) as stream:
            meta = _package("pyarrow.parquet").ParquetFile(stream).metadata
            sizes = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{whole['file']} is no readable parquet file ({error}); fetch it again"
        ) from error
    start = weight = 0
    for group, size in enumerate(sizes):
        weight += size
        if weight >= chunk_bytes or group == len(sizes) - 1:
            yield Chunk(**whole, start=start, end=group + 1, weight_bytes=weight)
            start, weight = group + 1, 0


@contextmanager
def unpacked(file: str) -> Iterator[IO[bytes]]:
    """Open a file or URL and read it unpacked, where its name says that it is packed."""
    with _open(file) as raw:
        yield _unpacked(raw, file)


def _lines(chunk: Chunk, most_bytes: int) -> Iterator[Row]:
    """Go through the lines that begin inside the chunk."""
    with _open(chunk.file) as raw:
        stream = _unpacked(raw, chunk.file)
        end = chunk.end if stream is raw else 1 << 62
        place = chunk.start
        if place:
            stream.seek(place - 1)
            place += _skip_line(stream, end - place + 1) - 1
        while place < end and (line := stream.readline(most_bytes + 1)):
            begun = place
            place += len(line)
            if len(line) > most_bytes and not line.endswith(b"\n"):
                place += _skip_line(stream, end - place)
                yield Row(begun, _fault("line too long", line))
            elif line.strip():
                yield Row(begun, decode(line))


def _unpacked(raw: IO[bytes], file: str) -> IO[bytes]:
    if file.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if file.endswith(".zst"):
        packed = _package("pyarrow").CompressedInputStream(raw, "zstd")
        return cast(IO[bytes], io.BufferedReader(packed))
    return raw


def _whole_or_lines(chunk: Chunk, most_bytes: int) -> Iterator[Row]:
    """Go through a JSON file, which is an array of records, one record, or has one a line."""
    text = b""
    with unpacked(chunk.file) as stream:
        while not text and (line := stream.readline(most_bytes + 1)):
            text = line.removeprefix(b"\xef\xbb\xbf").lstrip()
        is_array = text.startswith(b"[")
        is_line = len(text) > most_bytes or not isinstance(decode(text), Fault)
        if is_array or not is_line:
            text += stream.read()
    values = None
    if is_array or not is_line:
        try:
            found = json.loads(text)
            values = found if is_array else [found]
        except ValueError:
            if is_array:
                raise
    if values is None:
        yield from _lines(chunk, most_bytes)
        return
    for number, value in enumerate(values):
        yield Row(number, decode(json.dumps(value).encode()) if b"\\u" in text else value)


def _skip_line(stream: IO[bytes], most: int) -> int:
    """Go behind the line's end, or `most` bytes, without holding it; return the bytes passed."""
    passed = 0
    while passed < most and (part := stream.readline(min(1 << 20, most - passed))):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def decode(line: bytes) -> object:
    """Return what a line of JSON holds, or a fault."""
    try:
        value = json.loads(line.decode("utf-8-sig"))  # files of Windows begin with a mark
        if b"\\u" in line:  # half of a surrogate pair is legal JSON, but it is no text
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        return _fault("invalid UTF-8", line)
    except (ValueError, RecursionError):
        return _fault("invalid JSON", line)
    return value


def _fault(reason: str, line: bytes) -> Fault:
    return Fault(reason, line[:200].decode("utf-8", "backslashreplace").strip())


def _table_rows(chunk: Chunk, fields: Collection[str]) -> Iterator[Row]:
    """Go through the rows of parquet row groups or of an arrow file."""
    number = 0
    with _open(chunk.file) as stream:
        if chunk.file.endswith(_ARROW):
            batches = arrow_batches(stream, fields)
        else:
            file = _package("pyarrow.parquet").ParquetFile(stream)
            groups = range(chunk.start)
            number = sum(file.metadata.row_group(i).num_rows for i in groups)
            names = [name for name in file.schema_arrow.names if name in fields] or None
            batches = file.iter_batches(256, range(chunk.start, chunk.end), names)
        for batch in batches:
            for at, value in enumerate(_values(batch)):
                yield Row(number + at, value)
            number += batch.num_rows


def _values(batch: Any) -> list[object]:
    try:
        return list(batch.to_pylist())
    except UnicodeError:  # one bad row must not take its neighbors along
        if batch.num_rows == 1:
            return [Fault("invalid UTF-8", "")]
        return [value for at in range(batch.num_rows) for value in _values(batch.slice(at, 1))]


def _package(name: str) -> Any:
    """Import an optional package; `main` turns a missing one into advice."""
    return importlib.import_module(name)
