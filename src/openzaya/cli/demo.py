"""`openzaya demo`: the bundled model on held-out problems, then one question in full."""

import argparse
import asyncio
import json
import sys
import time
from typing import Any

NAME = "demo"
SUMMARY = "Answer held-out problems on the bundled model: one rollout, vote, Markovian RSA."
JSON = True

EXAMPLES = """
examples:
  openzaya demo                      126 problems, then one question with its rounds
  openzaya demo --problems 5         fewer: 5 of each of the nine tasks
  openzaya demo --model runs/nano/model    the model that `openzaya speedrun` made
"""

QUESTION = "subset 2 of a4 b8 c7 d1 e4 = 5"
"""Answered in full at the end: finding is harder than checking, and several answers are right."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--model", default="nano", help="nano or a model folder [nano]")
    parser.add_argument(
        "--problems", type=int, default=14, metavar="N", help="of each of nine tasks [14]"
    )
    parser.add_argument("--seed", type=int, default=1, help="names the random streams [1]")
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Compare the three methods, then show one question's rounds."""
    import torch

    from openzaya.backends.machine import choose_threads

    torch.set_num_threads(choose_threads())
    report = compare_methods(args)
    if args.json:
        print(json.dumps(report))
        return 0
    show_comparison(report)
    return show_question(args)


def compare_methods(args: argparse.Namespace) -> dict[str, Any]:
    """Return the comparison on held-out problems of the harder level."""
    from openzaya.cli.samplers import model_folder
    from openzaya.core.errors import ConfigError
    from openzaya.eval.rollouts import Codec
    from openzaya.model.checkpoint import load
    from openzaya.recipes.nano.evaluation import compare_ttc, ttc_items
    from openzaya.recipes.nano.tasks import HELD_OUT_PER_LEVEL
    from openzaya.text.chat import ChatTemplate
    from openzaya.text.tokenizer import TextTokenizer
    from openzaya.ttc.presets import preset

    if not 1 <= args.problems <= HELD_OUT_PER_LEVEL:
        raise ConfigError(
            f"--problems is {args.problems}; there are {HELD_OUT_PER_LEVEL} held-out problems a "
            f"task, choose 1 to {HELD_OUT_PER_LEVEL}"
        )
    folder = model_folder(args.model)
    codec = Codec(TextTokenizer.load(folder), ChatTemplate.load(folder))
    items = ttc_items(args.problems)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            end = "\n" if done == len(items) else ""
            print(f"\r{done}/{len(items)} problems", end=end, file=sys.stderr, flush=True)

    print(f"{len(items)} held-out problems of nine tasks, three ways", file=sys.stderr)
    begun = time.monotonic()
    table = compare_ttc(load(folder), codec, items, preset("nano"), args.seed, tick)
    return {
        "problems": len(items),
        "seconds": round(time.monotonic() - begun, 1),
        "rollouts in the vote": table.majority_rollouts,
        "rows": table.rows(),
    }


def show_comparison(report: dict[str, Any]) -> None:
    """Print the comparison as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['problems']} held-out problems of the harder level")
    table.add_column("method")
    table.add_column("right (+- standard error)", justify="right")
    table.add_column("generated tokens a problem", justify="right")
    for row in report["rows"]:
        score = f"{row['score']:.3f} +- {row['error']:.3f}"
        table.add_row(row["method"], score, f"{row['tokens']:.0f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "the majority vote may generate as many tokens as Markovian RSA did: "
        f"{report['rollouts in the vote']:.1f} rollouts a problem; "
        f"{report['seconds']:.0f} s\n"
    )


def show_question(args: argparse.Namespace) -> int:
    """Answer one question with its rounds shown."""
    from openzaya.cli import solve
    from openzaya.cli.journals import OFF
    from openzaya.cli.progress import show_result
    from openzaya.ttc.presets import preset

    print(f"and one question in full: {QUESTION} (two letters whose digits sum to 5, modulo 10)")
    sys.stdout.flush()
    args.upstream_model, args.journal = "", OFF
    result = asyncio.run(solve.solve(QUESTION, preset("nano"), args))
    show_result(result, "rounds")
    return 0
