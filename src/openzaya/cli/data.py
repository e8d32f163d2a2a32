"""`openzaya data`: prepare data sets for training, and look at what will be trained."""

import argparse
import json
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openzaya.cli import data_aggregate
from openzaya.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openzaya.data.prepare import PrepareConfig, Progress
    from openzaya.text.document import Document
    from openzaya.text.tokenizer import TextTokenizer

NAME = "data"
SUMMARY = "Prepare your own data for training: tokenize it once, and see what will be trained."

EXAMPLES = """
examples:
  openzaya data prepare out/ chats.jsonl --tokenizer models/zaya
  openzaya data prepare out/ web=pages/ code=s3://bucket/code/ --tokenizer models/zaya -j 16
  openzaya data prepare out/ hf://datasets/OWNER/NAME --tokenizer models/zaya --loss last
  openzaya data inspect out/ --index 7 --context 4096 --context 32768
  openzaya data aggregate examples.jsonl pools.jsonl --tokenizer models/zaya
"""
PREPARE = """
A SOURCE is a file, a folder, a pattern or a URL, with NAME= in front to name the data set.
Formats: jsonl and json, also .gz and .zst, parquet, arrow, feather and the folders of Hugging Face
`datasets`; only json and .gz do without openzaya[data]. What is held out (test, validation) is not
read along with what is trained: name one of them, such as 'data/train' or 'data/**/train*'. Of a
folder whose README.md names several configurations, name the files of each that you mean.
Records: text; messages or conversations (with reasoning, think markers and tool calls); prompt and
completion; question and answer. A record of which the folder's chat template would leave something
out (reasoning, calls, tools) is bad: docs/guides/data.md has the cure, a template of your own.
Killed? Run the same command again: finished chunks are kept.
--set: max_tokens max_line_bytes chunk_bytes bad_allowed max_bad_share
"""
SHOWN_TOKENS = 160
"""Longer segments are shown by their ends, unless the whole document is asked for."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their flags."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="prepare | inspect | aggregate"
    )
    prepare = _action(actions, "prepare", "tokenize sources into a folder, once", PREPARE)
    prepare.add_argument("out", metavar="OUT", help="folder to write; may hold an unfinished run")
    prepare.add_argument("sources", metavar="SOURCE", nargs="+", help="[NAME=]file, folder or URL")
    prepare.add_argument(
        "--tokenizer", required=True, metavar="DIR", help="a model folder, or nano"
    )
    prepare.add_argument(
        "-j", "--workers", type=int, metavar="N", help="processes [one for every core]"
    )
    prepare.add_argument("--loss", choices=("all", "last"), help="assistant turns to train [all]")
    _context_flag(prepare)
    prepare.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    prepare.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change any setting"
    )
    inspect = _action(actions, "inspect", "show a document, its loss mask and its trimming")
    inspect.add_argument("folder", metavar="DIR", help="a folder that prepare finished")
    inspect.add_argument(
        "--index", type=int, default=0, metavar="N", help="which document; -1 = the last [0]"
    )
    _context_flag(inspect)
    inspect.add_argument("--whole", action="store_true", help="do not shorten long segments")
    inspect.add_argument("--verify", action="store_true", help="check the hash of every shard")
    data_aggregate.configure(
        _action(actions, "aggregate", "make aggregation examples of attempts", data_aggregate.MORE)
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    runs = {"prepare": run_prepare, "inspect": run_inspect, "aggregate": data_aggregate.run}
    return runs[args.action](args)


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare and print the data card."""
    from openzaya.cli.samplers import model_folder
    from openzaya.data.card import markdown
    from openzaya.data.prepare import prepare
    from openzaya.sandbox.executor import num_cores

    config = prepare_config(args)
    workers = num_cores() if args.workers is None else args.workers
    if workers < 1:
        raise ConfigError(
            f"--workers is {workers}, expected at least 1; leave it out for all cores"
        )
    sources, folder = named_sources(args.sources), model_folder(args.tokenizer)
    with told_when_stopped(args.out), ProgressBar(quiet=args.quiet) as report:
        card = prepare(args.out, sources, folder, config, workers=workers, report=report)
    print(json.dumps(card) if args.json else markdown(card), end="\n" if args.json else "")
    return 0


@contextmanager
def told_when_stopped(out: str) -> "Iterator[None]":
    """End in order at SIGTERM as at Ctrl-C, and say what stays."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        kept = f"finished chunks are kept in {out}: the same command goes on from there"
        print(f"openzaya: {kept}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def run_inspect(args: argparse.Namespace) -> int:
    """Print one document."""
    from openzaya.data.shards import load_prepared, planned_contexts
    from openzaya.text.tokenizer import TextTokenizer

    folder = Path(args.folder)
    prepared = load_prepared(folder, verify=args.verify)
    if not -len(prepared) <= args.index < len(prepared):
        raise ConfigError(
            f"--index is {args.index}, but {folder} has {len(prepared)} documents; choose "
            f"0 to {len(prepared) - 1}, or -1 for the last"
        )
    tokenizer = TextTokenizer.load(folder / "tokenizer")
    document = prepared[args.index]
    found = describe(document, tokenizer, args.context or planned_contexts(folder))
    found = {"index": args.index % len(prepared), "of": len(prepared), **found}
    if args.json:
        print(json.dumps(found))
    else:
        show(found, document, tokenizer, None if args.whole else SHOWN_TOKENS)
    return 0


def prepare_config(args: argparse.Namespace) -> "PrepareConfig":
    """Return the settings of the flags; --set wins."""
    from dataclasses import replace

    from openzaya.core.config import resolve
    from openzaya.data.prepare import PrepareConfig

    config = PrepareConfig()
    if args.loss:
        config = replace(config, loss=args.loss)
    if args.context:
        config = replace(config, contexts=tuple(args.context))
    return resolve(config, [], args.set)


def named_sources(words: list[str]) -> dict[str, str]:
    """Return place by name; without one the name is the file's or folder's own."""
    sources: dict[str, str] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or "/" in name:
            place = word
            name = Path(word.rstrip("/")).name.partition(".")[0]
        if not name or not place or name in sources:
            raise ConfigError(
                f"the source {word!r} has the name {name!r}, expected one that is not empty and "
                "not taken; write NAME=PATH"
            )
        sources[name] = place
    return sources


def describe(
    document: "Document", tokenizer: "TextTokenizer", contexts: list[int]
) -> dict[str, Any]:
    """Return a document's segments and what trimming does to it, ready for JSON."""
    segments = [
        {
            "kind": part.kind,
            "role": part.role,
            "start": part.start,
            "tokens": part.length,
            "trained": part.loss,
            "text": tokenizer.decode(document.tokens[part.start : part.end].tolist()),
        }
        for part in document.segments
    ]
    return {
        "source": document.source,
        "tokens": len(document),
        "trained_tokens": int(document.loss_mask().sum()),
        "segments": segments,
        "trim": {str(context): trimming(document, tokenizer, context) for context in contexts},
    }


def trimming(document: "Document", tokenizer: "TextTokenizer", context: int) -> dict[str, Any]:
    """Return what one context length leaves of a document, and where it is cut."""
    from openzaya.data.ap_trim import fit

    pieces = fit(document, context)
    cuts: list[dict[str, Any]] = []
    for piece in pieces if len(pieces) == 1 else []:
        for before, after in zip(piece.spans, piece.spans[1:], strict=False):
            end = before.start + before.length
            if end < after.start:
                tail = tokenizer.decode(document.tokens[max(before.start, end - 16) : end].tolist())
                cuts.append({"at": end, "tokens": after.start - end, "after": tail})
    return {
        "rule": pieces[0].rule if pieces else "dropped",
        "pieces": len(pieces),
        "kept_tokens": sum(piece.length for piece in pieces),
        "reasoning_cut_tokens": sum(piece.cut_reasoning_tokens for piece in pieces),
        "cuts": cuts,
    }


def show(
    found: dict[str, Any], document: "Document", tokenizer: "TextTokenizer", most: int | None
) -> None:
    """Print a document for people: its text with the mask in color, then its trimming."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from openzaya.data.loss_mask import colored, count_trained_tokens

    console = Console(highlight=False)
    console.print(
        f"document {found['index']} of {found['of']}, {found['source']}: {found['tokens']} tokens, "
        f"{found['trained_tokens']} trained (green)",
        markup=False,
    )
    console.print(Text.from_markup(colored(document, tokenizer, most)), soft_wrap=True)
    kinds = Table("role/kind", "tokens", "trained", box=None, pad_edge=False)
    for key, count in count_trained_tokens([document]).items():
        kinds.add_row(key, str(count.total), str(count.trained))
    trims = Table("context", "rule", "kept", "cut", "where", box=None, pad_edge=False)
    for context, cut in found["trim"].items():
        where = "; ".join(f"{c['tokens']} tokens after {c['after']!r}" for c in cut["cuts"])
        lost = str(found["tokens"] - cut["kept_tokens"])
        trims.add_row(context, cut["rule"], str(cut["kept_tokens"]), lost, Text(where))
    console.print()
    console.print(kinds)
    console.print()
    console.print(trims)


class ProgressBar:
    """A bar on stderr on a terminal; one line at the end elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        """Draw nothing when `quiet`."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar = Bar(
            TextColumn("preparing"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}% {task.description}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "Callable[[Progress], None]":
        """Start drawing and return what to call after every chunk."""
        self._bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self._bar.stop()

    def _update(self, progress: "Progress") -> None:
        counts = f"{progress.documents:,} documents, {progress.tokens:,} tokens"
        bad = f", {progress.bad:,} bad" if progress.bad else ""
        self._bar.update(
            self._task,
            total=progress.total_bytes,
            completed=progress.done_bytes,
            description=counts + bad,
        )


def _action(actions: Any, name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=EXAMPLES + more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for machines")
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return parser


def _context_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context",
        type=int,
        action="append",
        metavar="TOKENS",
        help="a context to trim to; may be repeated [4096 32768 131072, or as prepared]",
    )
