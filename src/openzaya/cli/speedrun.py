"""`openzaya speedrun`: the nano recipe from random weights to the report card."""

import argparse
import json
import time
from pathlib import Path

NAME = "speedrun"
SUMMARY = "Train the nano model through every stage of the recipe and print its report card."
JSON = True

EXAMPLES = """
examples:
  openzaya speedrun                              about seven minutes on two idle cores
  openzaya speedrun --run-dir runs/try --set rl.train.steps=20
  openzaya speedrun --run-dir runs/try           again: resumes where it was killed

The run folder holds config.toml, metrics.jsonl, every stage's checkpoints and model,
report.json, REPORT.md with load_entropy.svg, and the final model folder.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--run-dir", default="runs/nano", metavar="DIR", help="where to work [runs/nano]"
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="TOML file with settings"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads [free cores]"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="change one setting"
    )
    parser.add_argument(
        "--allow-changed",
        action="append",
        default=[],
        choices=("code", "model", "tokenizer"),
        help="resume although this changed since the checkpoint was written",
    )
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Run or resume; print the report card."""
    import torch

    from openzaya.cli.samplers import run_threads
    from openzaya.core.config import resolve
    from openzaya.recipes.nano.speedrun import SpeedrunConfig, speedrun

    config = resolve(SpeedrunConfig(), args.config, args.set)
    folder = Path(args.run_dir)
    threads = run_threads(args.threads, folder)
    torch.set_num_threads(threads)
    begun = time.monotonic()

    def echo(line: str) -> None:
        if not args.json:
            print(f"{time.monotonic() - begun:6.0f} s  {line}", flush=True)

    echo(f"{folder} on {config.device}, threads: {threads}")
    report = speedrun(folder, config, echo, tuple(args.allow_changed))
    if args.json:
        print(json.dumps(report))
    else:
        print((folder / "REPORT.md").read_text(encoding="utf-8"))
        print(f"{time.monotonic() - begun:.0f} s in all; the model is in {folder / 'model'}")
    return 0
