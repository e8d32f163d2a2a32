"""The data card: what a prepared folder holds, where it is from and what trimming does to it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openzaya.core.files import write_whole
from openzaya.data.ap_trim import trim_report
from openzaya.data.documents import Corpus
from openzaya.data.loss_mask import count_trained_tokens
from openzaya.data.shards import PreparedData, load_prepared
from openzaya.text.document import Document

Shard = Mapping[str, Any]

QUANTILES = (0, 0.1, 0.5, 0.9, 0.99, 1)
"""Of document lengths, by nearest rank: every figure is the length of a document."""
RULES = ("whole", "cut_last", "drop_prior", "split", "dropped")
"""What trimming may do to a document."""


def shard_counts(documents: Corpus | None, contexts: Iterable[int]) -> dict[str, Any]:
    """Return what one shard adds to the card, ready for JSON; counts can be added up."""
    kept: Sequence[Document] = () if documents is None else documents
    lengths = np.zeros(0, dtype=np.int64) if documents is None else documents.lengths()
    kinds = {key: asdict(count) for key, count in count_trained_tokens(kept).items()}
    return {
        "documents": len(kept),
        "tokens": int(lengths.sum()),
        "trained_tokens": sum(count["trained"] for count in kinds.values()),
        "kinds": kinds,
        "trim": {str(context): _trim_counts(kept, lengths, context) for context in contexts},
    }


def write_card(root: Path, manifest: Mapping[str, Any], shards: Sequence[Shard]) -> dict[str, Any]:
    """Write card.json and DATA_CARD.md and return the card."""
    prepared = load_prepared(root)
    names = list(dict.fromkeys(shard["source"] for shard in shards))
    card = {
        "fingerprint": manifest["fingerprint"],
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "token_type": str(prepared.shards[0].tokens.dtype.str),
        "sources": {name: _source_card(name, shards, prepared) for name in names},
    }
    write_whole(root / "card.json", json.dumps(card, indent=1) + "\n")
    write_whole(root / "DATA_CARD.md", markdown(card))
    return card


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card for people."""
    lines = [
        "# Data card",
        "",
        f"{card['documents']:,} documents, {card['tokens']:,} tokens stored as "
        f"`{card['token_type']}`. Fingerprint `{card['fingerprint']}`.",
    ]
    for name, source in card["sources"].items():
        lines += ["", f"## {name}", "", *_source_lines(source)]
    return "\n".join(lines) + "\n"


def _trim_counts(
    documents: Sequence[Document], lengths: NDArray[np.int64], context: int
) -> dict[str, int]:
    """Count what trimming does; of what fits, the lengths say all."""
    counts = dict.fromkeys((*RULES, "tokens", "kept_tokens", "reasoning_cut_tokens"), 0)
    fitting = lengths[lengths <= context]
    counts["whole"] = len(fitting)
    counts["tokens"] = counts["kept_tokens"] = int(fitting.sum())
    longer = (documents[number] for number in np.flatnonzero(lengths > context).tolist())
    for report in trim_report(longer, context).values():
        counts = {key: counts[key] + report[key] for key in counts}
    return counts


def _source_card(name: str, shards: Sequence[Shard], prepared: PreparedData) -> dict[str, Any]:
    own = [shard for shard in shards if shard["source"] == name]
    lengths = [s.lengths() for s in prepared.shards if s.sources[0] == name]
    quantiles: dict[str, int] = {}
    if lengths:
        points = np.quantile(np.concatenate(lengths), QUANTILES, method="nearest")
        quantiles = {str(at): int(point) for at, point in zip(QUANTILES, points, strict=True)}
    return {
        "documents": sum(shard["documents"] for shard in own),
        "tokens": sum(shard["tokens"] for shard in own),
        "trained_tokens": sum(shard["trained_tokens"] for shard in own),
        "length_quantiles": quantiles,
        "kinds": _sum(shard["kinds"] for shard in own),
        "trim": _sum(shard["trim"] for shard in own),
        "bad": _sum({"reasons": shard["bad"]} for shard in own)["reasons"],
        "files": {s["file"]: s["file_sha256"] for s in own if s["file_sha256"] is not None},
    }


def _sum(tables: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Add up tables of counts, key by key."""
    total: dict[str, Counter[str]] = {}
    for table in tables:
        for key, counts in table.items():
            into = total.setdefault(key, Counter())
            for name, count in counts.items():
                into[name] += count
    return {key: dict(counts) for key, counts in total.items()}


def _source_lines(source: Mapping[str, Any]) -> list[str]:
    quantiles = source["length_quantiles"].items()
    lines = [
        f"{source['documents']:,} documents, {source['tokens']:,} tokens, of which "
        f"{source['trained_tokens']:,} are trained.",
        "",
        "Lengths in tokens: "
        + ", ".join(f"{float(at):.0%} {length:,}" for at, length in quantiles)
        + ".",
        "",
        "| role/kind | tokens | trained |",
        "|---|---:|---:|",
    ]
    for kind, count in source["kinds"].items():
        lines.append(f"| {kind} | {count['total']:,} | {count['trained']:,} |")
    lines += [
        "",
        "What trimming does (documents by rule; tokens lost with them):",
        "",
        f"| context | {' | '.join(RULES)} | tokens lost | reasoning cut |",
        "|---" * (len(RULES) + 3) + "|",
    ]
    for context, counts in source["trim"].items():
        rules = " | ".join(f"{counts[rule]:,}" for rule in RULES)
        lost = counts["tokens"] - counts["kept_tokens"]
        cut = counts["reasoning_cut_tokens"]
        share = lost / counts["tokens"] if counts["tokens"] else 0
        lines.append(f"| {int(context):,} | {rules} | {lost:,} ({share:.1%}) | {cut:,} |")
    if source["bad"]:
        lines += ["", "Records left out (quarantine.jsonl):", ""]
        lines += [f"- {reason}: {count:,}" for reason, count in source["bad"].items()]
    lines += ["", "Files:", ""]
    lines += [f"- `{file}` sha256 `{digest}`" for file, digest in source["files"].items()]
    return lines
