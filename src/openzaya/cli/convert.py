"""`openzaya convert`: read any ZAYA folder, write the Hugging Face layout."""

import argparse
import json
import shutil
import time
from pathlib import Path

from openzaya.core.errors import ConfigError

NAME = "convert"
SUMMARY = "Read a checkpoint in either layout and write it in the Hugging Face layout."
JSON = True

EXAMPLES = """
examples:
  openzaya convert ZAYA1-8B-legacy ZAYA1-8B              legacy layout to the current one
  openzaya convert runs/nano/model small --dtype bfloat16
"""
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("source", help="model folder or hub id, current or legacy layout")
    parser.add_argument("target", help="folder to write; must not exist or be empty")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--shard-gb", type=float, default=5.0, help="largest file in GB [5]")
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Convert; the target appears whole or not at all."""
    from openzaya.model.checkpoint import load, resolve_folder, save_model

    target = Path(args.target)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty; choose a new folder")
    if args.shard_gb <= 0:
        raise ConfigError(f"--shard-gb is {args.shard_gb}; choose more than 0")
    begun = time.monotonic()
    folder = resolve_folder(args.source)
    model = load(folder, dtype=args.dtype)
    work = target.with_name(target.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    save_model(model, work, shard_bytes=int(args.shard_gb * 1e9))
    for name in TEXT_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    if target.exists():
        target.rmdir()
    work.rename(target)
    summary = {
        "target": str(target),
        "layers": model.config.num_hidden_layers,
        "parameters": model.config.num_parameters(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(summary) if args.json else "\n".join(f"{k}: {v}" for k, v in summary.items()))
    return 0
