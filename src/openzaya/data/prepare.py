"""Preparing data: sources in, shards out; once, in parallel, restartable at every chunk.

What a chunk becomes depends on the chunk and the settings alone, so the number of processes and a
kill at any moment change nothing in the result.
"""

import fcntl
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.files import write_whole
from openzaya.data.card import shard_counts, write_card
from openzaya.data.documents import load_corpus, save_corpus, token_dtype
from openzaya.data.encoding import BadRecord, Encoder
from openzaya.data.recognize import FIELDS
from openzaya.data.shards import (
    PLAN_FORMAT,
    read_plan,
    read_sealed,
    remove_leftovers,
    sealed,
    write_folder,
    write_manifest,
)
from openzaya.data.sources import Chunk, chunks_of, file_hash, rows_of
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer

Shard = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """What the result depends on, besides the sources and the tokenizer."""

    loss: Literal["all", "last"] = "all"
    """Which assistant turns are trained: all, or only the last of a conversation."""
    max_tokens: int = 1 << 20
    """Longer documents are left out and counted."""
    max_line_bytes: int = 1 << 26
    """Longer lines are left out without being held in memory."""
    chunk_bytes: int = 1 << 25
    """About how much of a source one process reads in one go; one chunk gives one shard."""
    bad_allowed: int = 20
    """So many bad records never stop a run."""
    max_bad_share: float = 0.01
    """Beyond that, a larger share of bad records stops the run."""
    contexts: tuple[int, ...] = (4_096, 32_768, 131_072)
    """Context lengths for which the data card says what trimming does."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        small = [self.max_tokens, self.max_line_bytes, self.chunk_bytes, *self.contexts]
        if min(small) < 1 or self.bad_allowed < 0 or not 0 <= self.max_bad_share <= 1:
            raise ConfigError(
                f"the settings {asdict(self)} hold a size below 1, a negative bad_allowed or a "
                "share outside 0 to 1; correct it"
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done_bytes: int
    """Of the sources, as they lie on disk."""
    total_bytes: int
    """All of them."""
    documents: int
    """Made so far."""
    tokens: int
    """Made so far."""
    bad: int
    """Records left out so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What every worker knows."""

    root: Path
    config: PrepareConfig
    batch_threads: bool
    """True when one process may use all cores for its batches."""


def prepare(
    out: str | Path,
    sources: Mapping[str, str],
    tokenizer_folder: str | Path,
    config: PrepareConfig | None = None,
    *,
    workers: int = 1,
    report: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Tokenize sources (name to path or URL) into the folder `out` and return its data card.

    Run it again after a kill: finished chunks are kept. Raises DataError when a source changed
    meanwhile, the folder was begun with other settings, or too many records are bad.
    """
    settings = config or PrepareConfig()
    root, given = Path(out), Path(tokenizer_folder)
    tokenizer, chat = TextTokenizer.load(given), ChatTemplate.load(given)
    chunks = _chunks(root, sources, settings)
    plan: dict[str, Any] = {
        "format": PLAN_FORMAT,
        "settings": _result_settings(settings),
        "tokenizer": file_hash(str(given / "tokenizer.json")),
        "template": chat.sha256,
        "bos_token": chat.bos_token,
        "eos_token": chat.eos_token,
        "chunks": [asdict(chunk) for chunk in chunks],
    }
    with _locked(root):  # only what can begin takes the folder
        remove_leftovers(root)
        remove_leftovers(root / "shards")
        _claim(root, plan, tokenizer, chat)
        job = _Job(root=root, config=settings, batch_threads=workers == 1)
        shards: list[Shard] = []
        progress = Progress(0, sum(chunk.weight_bytes for chunk in chunks), 0, 0, 0)
        for chunk, shard in zip(chunks, _run(job, chunks, workers), strict=True):
            shards.append(shard)
            progress = _after(progress, chunk, shard)
            report(progress)
            _check_bad(root, shards, progress, settings)
        if not any(shard["documents"] for shard in shards):
            raise DataError(
                f"no documents for {root}, expected at least one{_reasons(shards)}; see "
                "shards/*/bad.jsonl"
            )
        manifest = write_manifest(root, shards)
        quarantine = [
            (root / "shards" / shard["name"] / "bad.jsonl").read_text(
                encoding="utf-8", errors="replace"
            )
            for shard in shards
        ]
        write_whole(root / "quarantine.jsonl", "".join(quarantine))
        return write_card(root, manifest, shards)


def _chunks(root: Path, sources: Mapping[str, str], settings: PrepareConfig) -> list[Chunk]:
    """Return the chunks of all sources; none may hold the folder that they are prepared into."""
    for place in sources.values():
        if "://" not in place and root.resolve().is_relative_to(Path(place).resolve()):
            raise DataError(
                f"{root} lies in the source {place}, which would find its own files there next "
                "time; choose a folder outside"
            )
    return [
        chunk
        for name, place in sources.items()
        for chunk in chunks_of(name, place, settings.chunk_bytes)
    ]


def _claim(root: Path, plan: dict[str, Any], tokenizer: TextTokenizer, chat: ChatTemplate) -> None:
    """Write down what is to be done, or refuse a folder that was begun with something else."""
    path, own = root / "plan.json", root / "tokenizer"
    if not path.exists():
        tokenizer.save(own)
        chat.save(own)
        write_whole(path, json.dumps(sealed(plan), indent=1) + "\n")
    cure = "choose an empty folder or delete this one"
    before = read_plan(root, cure)
    changed = [key for key in plan if before.get(key) != plan[key]]
    if changed:
        known = "format" not in changed and "chunks" in changed
        files = _changed_files(before["chunks"], plan["chunks"]) if known else []
        named = f" (other files, sizes or versions: {', '.join(files[:3])})" if files else ""
        raise DataError(
            f"{root} was begun with other {', '.join(changed)}{named}; use what it was begun with "
            f"(plan.json), {cure}"
        )


def _changed_files(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """Return the files that are new, gone, or of another size or version."""

    def states(chunks: list[dict[str, Any]]) -> set[tuple[str, int, str | None]]:
        return {(chunk["file"], chunk["size_bytes"], chunk.get("version")) for chunk in chunks}

    return sorted({file for file, *_ in states(before) ^ states(now)})


def _result_settings(settings: PrepareConfig) -> dict[str, Any]:
    """Return the settings that shards depend on; when to stop is not one of them."""
    named = {**asdict(settings), "contexts": list(settings.contexts)}
    return {key: value for key, value in named.items() if "bad" not in key}


def _run(job: _Job, chunks: Sequence[Chunk], workers: int) -> Iterator[Shard]:
    """Go through the shards in order; those on disk are not made again."""
    names = [f"{number:05d}" for number in range(len(chunks))]
    if workers == 1:
        yield from map(partial(_shard, job), names, chunks)
        return
    # A spawned process has no threads of ours; it ends when we close our end of the pipe or die.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with, initargs=(theirs,))
    try:
        with _interrupts_held():  # Ctrl-C reaches the whole group, but only we answer it
            shards = [pool.submit(_shard, job, *one) for one in zip(names, chunks, strict=True)]
        for shard in shards:
            yield shard.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed, most likely for lack of memory; run the command again, "
            "it continues: with fewer workers or a smaller chunk_bytes in a new folder"
        ) from error
    finally:
        ours.close()
        pool.shutdown()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let SIGINT wait; processes that are started meanwhile never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(pipe: Connection) -> None:
    """Let the process end, in whatever it does, when nobody holds the other end of the pipe."""

    def watch() -> None:
        wait([pipe])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_encoders: dict[Path, tuple[TextTokenizer, ChatTemplate]] = {}


def _shard(job: _Job, name: str, chunk: Chunk) -> Shard:
    """Make one shard unless it is there, and return its record."""
    folder = job.root / "shards" / name
    if not folder.exists():
        if not job.batch_threads:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        write_folder(folder, lambda part: _fill(part, name, job, chunk))
    return read_sealed(folder / "shard.json", f"delete {folder} and run it again: it is made anew")


def _fill(part: Path, name: str, job: _Job, chunk: Chunk) -> None:
    """Write the files of one shard."""
    settings = job.config
    own = job.root / "tokenizer"
    if own not in _encoders:
        _encoders[own] = (TextTokenizer.load(own), ChatTemplate.load(own))
    tokenizer, chat = _encoders[own]
    encoder = Encoder(tokenizer, chat, loss=settings.loss, most_tokens=settings.max_tokens)
    rows = rows_of(chunk, settings.max_line_bytes, FIELDS)
    documents = encoder.documents(rows, chunk.source)
    fingerprint, made = "", list(islice(documents, 1))
    stored = None
    if made:  # written as they come and counted from the disk: a compressed file may be large
        dtype = token_dtype(tokenizer.vocab_size)
        fingerprint = save_corpus(part, chain(made, documents), dtype)
        stored = load_corpus(part)
    shard = {
        "name": name,
        "source": chunk.source,
        "file": chunk.file,
        "range": [chunk.start, chunk.end],
        "file_sha256": file_hash(chunk.file) if chunk.start == 0 else None,
        "fingerprint": fingerprint,
        "bad": encoder.reasons(),
        **shard_counts(stored, settings.contexts),
    }
    bad = [_bad_line(chunk, record) for record in sorted(encoder.bad, key=lambda r: r.place)]
    (part / "bad.jsonl").write_text("".join(bad), encoding="utf-8")
    (part / "shard.json").write_text(json.dumps(sealed(shard)) + "\n", encoding="utf-8")


def _bad_line(chunk: Chunk, record: BadRecord) -> str:
    return json.dumps({"source": chunk.source, "file": chunk.file, **asdict(record)}) + "\n"


def _after(before: Progress, chunk: Chunk, shard: Shard) -> Progress:
    return Progress(
        done_bytes=before.done_bytes + chunk.weight_bytes,
        total_bytes=before.total_bytes,
        documents=before.documents + shard["documents"],
        tokens=before.tokens + shard["tokens"],
        bad=before.bad + sum(shard["bad"].values()),
    )


def _check_bad(
    root: Path, shards: Sequence[Shard], progress: Progress, settings: PrepareConfig
) -> None:
    """Halt when more records are bad than the settings allow."""
    seen = progress.bad + progress.documents
    allowed = max(settings.bad_allowed, int(settings.max_bad_share * seen))
    if progress.bad <= allowed:
        return
    raise DataError(
        f"{progress.bad} of {seen} records are bad, expected at most {allowed}{_reasons(shards)}. "
        f"They are listed in {root}/shards/*/bad.jsonl; mend the source and start a new folder, or "
        "raise max_bad_share or bad_allowed and run it again: what is done is kept"
    )


def _reasons(shards: Sequence[Shard]) -> str:
    """Return the most frequent reasons for leaving records out, as the end of a sentence."""
    reasons: Counter[str] = Counter()
    for shard in shards:
        reasons.update(shard["bad"])
    worst = [f"{reason} ({count})" for reason, count in reasons.most_common(3)]
    return f": {'; '.join(worst)}" if worst else ""


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock goes with the process.

    What the file system refuses meanwhile is told with its cure.
    """
    try:
        (root / "shards").mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DataError(
                    f"another run is writing to {root}; wait for it or choose another folder"
                ) from error
            yield
    except OSError as error:
        raise DataError(
            f"{root} could not be filled ({error}); expected a folder with room that may be "
            "written: mend that and run the command again, it continues"
        ) from error
