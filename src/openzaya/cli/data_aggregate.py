"""`openzaya data aggregate`: from pools of attempts to conversations that teach aggregation."""

import argparse
import json
import sys
from pathlib import Path

from openzaya.core.errors import ConfigError, DataError

MORE = """
A pool is one JSON object a line: question (or messages), attempts, and aggregated and target if
there are any; docs in openzaya/data/pools.py. Attempts are texts, with think markers or not, or
objects with reasoning, content and right. Without a target the first right attempt is learnt. An
attempt without reasoning shows nothing unless tail_source is answer_or_thinking, answer or all.
Then: openzaya data prepare out/ OUT --tokenizer DIR --loss last
--set: min_candidates max_candidates tail_tokens tail_source second_round_share hint
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("out", metavar="OUT", help="jsonl file to write: conversations")
    parser.add_argument("pools", metavar="POOLS", nargs="+", help="jsonl files, also .gz and .zst")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="a model folder, or nano")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn candidates [0]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change any setting"
    )


def run(args: argparse.Namespace) -> int:
    """Write the conversations and say what became of every pool."""
    from openzaya.cli.samplers import model_folder
    from openzaya.core.config import resolve
    from openzaya.core.files import write_whole
    from openzaya.data.aggregation import AggregationConfig, aggregation_turns
    from openzaya.data.pools import read_pools
    from openzaya.text.tokenizer import TextTokenizer

    if Path(args.out).resolve() in [Path(pools).resolve() for pools in args.pools]:
        raise ConfigError(
            f"{args.out} is read and would be overwritten; name another file to write, first of all"
        )
    config = resolve(AggregationConfig(), [], args.set)
    tokenizer = TextTokenizer.load(model_folder(args.tokenizer))
    lines: list[str] = []
    refused = 0
    for place, example in read_pools(args.pools):
        try:
            if isinstance(example, str):
                raise DataError(example)
            turns = aggregation_turns(example, tokenizer, config, args.seed)
        except DataError as error:
            refused += 1
            sys.stderr.write(f"{place}: {error}\n")
            continue
        messages = [
            {"role": turn.role, "content": turn.content}
            | ({"reasoning": turn.reasoning} if turn.reasoning else {})
            for turn in turns
        ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    if not lines:
        raise DataError("no pool could be used, so nothing was written; see the lines above")
    write_whole(Path(args.out), "".join(lines))
    told = {"examples": len(lines), "refused": refused, "out": str(args.out)}
    print(json.dumps(told) if args.json else f"examples in {args.out}: {len(lines)}")
    return 0
