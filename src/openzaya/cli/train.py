"""`openzaya train`: SFT and continued pretraining of a model folder on prepared data."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from openzaya.core.errors import ConfigError

NAME = "train"
SUMMARY = "Train a model folder on prepared data: SFT or more pretraining, whole or by LoRA."

EXAMPLES = """
examples:
  openzaya data prepare chats/ mine.jsonl --tokenizer models/zaya
  openzaya train sft --model models/zaya --data chats/ --lora 16
  openzaya train sft --model nano --data chats/ --out runs/mine --set epochs=2 --set lr=1e-4
  openzaya train continue --model models/zaya --data web=web/ --data code=code/ \\
      --set weights.web=3 --set weights.code=1 --set device=cuda --set dtype=bfloat16

Killed? Run the same command again: it goes on from the newest checkpoint, bit for bit (after an
upgrade of openzaya or torch with --set allow_changed=code, then not to the last bit). OUT/model is
the result as a model folder (adapters merged), OUT/adapter the adapters alone as PEFT loads them,
OUT/metrics.jsonl the log; TensorBoard files are written where it is installed. --set names are the
fields of FinetuneConfig in openzaya/recipes/finetune.py: recompute=true, lora_targets=experts ...
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their flags."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="sft | continue")
    _action(actions, "sft", "train on conversations, on the assistant's tokens")
    _action(actions, "continue", "train on as the model was pretrained, on all tokens")


def run(args: argparse.Namespace) -> int:
    """Train or resume; print where the result is."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1" and "RANK" in os.environ:
        raise ConfigError(
            f"`openzaya train` is one process, and torchrun started {world}; start it by itself, "
            "or train over many with torchrun -m openzaya.train.distributed"
        )
    import torch

    from openzaya.cli.samplers import model_folder, run_threads
    from openzaya.core.config import resolve
    from openzaya.recipes.finetune import FinetuneConfig, finetune, named
    from openzaya.train.memory import keep_freed_memory

    if args.lora is not None and args.lora < 1:
        raise ConfigError(
            f"--lora is {args.lora}; give a rank from 1, or leave it out to train the whole model"
        )
    words = [] if args.lora is None else [f"lora_rank={args.lora}"]
    config = resolve(FinetuneConfig(), args.config, words + args.set)
    if config.device == "cpu":
        torch.set_num_threads(run_threads(args.threads, Path(args.out)))
        keep_freed_memory()

    def echo(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    report = finetune(
        args.action, model_folder(args.model), named(args.data), Path(args.out), config, echo
    )
    if args.json:
        print(json.dumps(report))
    else:
        loss = report["held-out loss"]
        print(f"held-out loss {loss['before']:.4f} -> {loss['after']:.4f}")
        print(f"the model is in {report['model']}")
    return 0


def _action(actions: Any, name: str, summary: str) -> None:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder, or nano")
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="[NAME=]DIR",
        help="a folder that `openzaya data prepare` finished; may be repeated",
    )
    parser.add_argument(
        "--out", default=f"runs/{name}", metavar="DIR", help=f"where to work [runs/{name}]"
    )
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank only")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads [free cores]"
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="TOML file with settings"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for machines")
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
