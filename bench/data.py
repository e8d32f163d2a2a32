"""What preparing and packing data costs, beside `datasets.map` with the same tokenizer.

    python bench/data.py                       packing: density and documents per second
    python bench/data.py --prepare             tokenizing and preparing, beside datasets.map
    python bench/data.py --prepare --megabytes 64 --rounds 5

The file is made of Python's own standard library, one document a source file, and the tokenizer is
a byte-level BPE of 16,384 tokens learnt from it, so anybody can repeat the run. All work is done by
one process with one thread: figures are per core. The sides alternate; medians are printed with
the smallest and largest. CPU seconds matter more than wall seconds on a machine with other work.
`--prepare` needs datasets and transformers.
"""

import argparse
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from openzaya.data.packing import pack
from openzaya.text.markers import ALL_MARKERS

WINDOWS = (4_096, 32_768, 131_072)
VOCABULARY = 16_384


def main() -> None:
    """Run what the flags ask for and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=100_000)
    args = parser.parse_args()
    if args.prepare:
        found = preparing(args.megabytes << 20, args.rounds)
    else:
        found = {str(window): packing(window, args.documents, args.rounds) for window in WINDOWS}
    print(json.dumps(found, indent=1))


def packing(window: int, documents: int, rounds: int) -> dict[str, float]:
    """Return density and speed on log-normal lengths, clipped to the window."""
    rng = np.random.default_rng(5)
    lengths = np.clip(rng.lognormal(6.5, 1.3, documents).astype(int), 1, window).tolist()
    bound = -(-sum(lengths) // window)
    seconds = []
    for _ in range(rounds):
        begun = time.thread_time()
        windows = pack(lengths, window)
        seconds.append(time.thread_time() - begun)
    return {
        "windows": len(windows),
        "bound": bound,
        "above_bound": len(windows) / bound - 1,
        "documents_per_cpu_s": round(documents / statistics.median(seconds)),
        "slowest": round(documents / max(seconds)),
        "fastest": round(documents / min(seconds)),
    }


def preparing(size_bytes: int, rounds: int) -> dict[str, object]:
    """Return the times of both sides on one file of text and one of conversations."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = source_files(size_bytes)
        learn_tokenizer(texts, folder / "model")
        for kind, records in (("text", as_texts(texts)), ("chat", as_chats(texts))):
            file = folder / f"{kind}.jsonl"
            file.write_text("".join(json.dumps(record) + "\n" for record in records))
            found[kind] = compare(folder, file, kind, rounds)
    return found


def source_files(size_bytes: int) -> list[str]:
    """Return texts of the standard library, again from the start when it is too small."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
    texts: list[str] = []
    size = 0
    while size < size_bytes:
        for path in paths:
            text = path.read_text(encoding="utf-8", errors="ignore")
            if text.strip() and size < size_bytes:
                texts.append(f"# {len(texts)}\n{text}")
                size += len(text)
    return texts


def as_texts(texts: list[str]) -> list[dict[str, object]]:
    """Return plain records."""
    return [{"text": text} for text in texts]


def as_chats(texts: list[str]) -> list[dict[str, object]]:
    """Return conversations: a question, half of the text as thinking, the rest as the answer."""
    chats: list[dict[str, object]] = []
    for text in texts:
        half = len(text) // 2
        reply = {"role": "assistant", "content": text[half:] + "!", "reasoning": text[:half] + "!"}
        chats.append({"messages": [{"role": "user", "content": text[:200] + "?"}, reply]})
    return chats


def learn_tokenizer(texts: list[str], folder: Path) -> None:
    """Write a tokenizer folder."""
    from openzaya.text.tokenizer import TextTokenizer

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(marker, special=True) for marker in ALL_MARKERS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet
    )
    backend.train_from_iterator(texts[:500], trainer)
    TextTokenizer(backend).save(folder)


def compare(folder: Path, file: Path, kind: str, rounds: int) -> dict[str, object]:
    """Alternate our side and theirs; the first round of each warms up and is not counted."""
    sides: dict[str, Callable[[Path], int]] = {
        "prepare": lambda out: ours(folder, file, out),
        "load_and_map": lambda out: theirs(folder, file, out, kind, batched=True),
        "load_and_map_one_by_one": lambda out: theirs(folder, file, out, kind, batched=False),
    }
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    tokens: dict[str, int] = {}
    for turn in range(rounds + 1):
        for side, work in sides.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                wall, cpu = time.perf_counter(), time.process_time()
                tokens[side] = work(Path(out))
                spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                times[side].append(spent)
    cpu = {side: statistics.median(c for _, c in spent) for side, spent in times.items()}
    return {
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "tokens": tokens,
        "wall_s": {side: summary([w for w, _ in spent]) for side, spent in times.items()},
        "cpu_s": {side: summary([c for _, c in spent]) for side, spent in times.items()},
        "cpu_times_faster": {side: round(cpu[side] / cpu["prepare"], 2) for side in cpu},
        "megabytes_per_cpu_s": round(file.stat().st_size / 1e6 / cpu["prepare"], 2),
    }


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    named = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return {name: round(value, 3) for name, value in named.items()}


def ours(folder: Path, file: Path, out: Path) -> int:
    """Prepare: read, recognize, tokenize, mask, hash, write, and the card with its trimming."""
    from openzaya.data.prepare import prepare

    return int(prepare(out / "data", {"s": str(file)}, folder / "model")["tokens"])


def theirs(folder: Path, file: Path, out: Path, kind: str, *, batched: bool) -> int:
    """Load the file and map the tokenizer over it, as the library's guides do."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    tokenizer.chat_template = CHAT

    def plain(rows: dict[str, list[str]]) -> dict[str, object]:
        return dict(tokenizer(rows["text"]))

    def chat(rows: dict[str, list[object]]) -> dict[str, object]:
        return dict(
            tokenizer.apply_chat_template(
                rows["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
        )

    rows = datasets.load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(out / "cache")
    )
    mapped = rows.map(
        plain if kind == "text" else chat, batched=batched, remove_columns=rows.column_names
    )
    lengths = mapped.with_format("arrow")[:]["input_ids"]
    return sum(len(ids) for ids in lengths)


CHAT = (
    "{%- for message in messages -%}{{ '<|im_start|>' ~ message.role ~ '\n' }}"
    "{%- if message.role == 'assistant' -%}{%- generation -%}"
    "{{ '<think>\n' ~ message.reasoning ~ '\n</think>\n\n' ~ message.content ~ '<|im_end|>' }}"
    "{%- endgeneration -%}{%- else -%}{{ message.content ~ '<|im_end|>' }}{%- endif -%}"
    "{{ '\n' }}{%- endfor -%}"
)
"""The pinned template's turns in the form from which transformers can tell what is trained."""


if __name__ == "__main__":
    sys.exit(main())
