"""The verb `convert`: rewrite a model folder in another layout."""

import argparse
import shutil
from pathlib import Path

NAME = "convert"
SUMMARY = "Rewrite a model folder in the current or the legacy tensor layout."

_EXAMPLES = """examples:
  openzaya convert ZAYA1-8B-legacy ZAYA1-8B                   for openzaya and transformers
  openzaya convert ZAYA1-8B ZAYA1-8B-legacy --layout legacy   for SGLang

Tensors stream one by one and keep their dtype. A checksums.json is written beside the shards.
"""
_SIDE_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("source", metavar="SRC", help="model folder, either layout")
    parser.add_argument("target", metavar="DST", help="folder to write")
    parser.add_argument(
        "--layout", choices=("native", "legacy"), default="native", help="layout of DST [native]"
    )
    parser.add_argument(
        "--max-shard-gb", type=float, default=5.0, metavar="GB", help="size of a shard [5]"
    )


def run(args: argparse.Namespace) -> int:
    """Convert the folder and copy its tokenizer and chat template."""
    from openzaya.core.errors import ConfigError
    from openzaya.model.checkpoint import Source, convert

    if args.max_shard_gb <= 0:
        raise ConfigError(f"--max-shard-gb is {args.max_shard_gb}; it must be more than 0")
    source, target = Source(args.source), Path(args.target)
    size_gb = source.shards.num_bytes / 1e9
    print(
        f"{source.folder} ({source.layout}, {source.config.num_parameters():,} parameters, "
        f"{size_gb:.2f} GB) -> {target} ({args.layout})"
    )
    convert(source, target, args.layout, max_shard_bytes=int(args.max_shard_gb * 1e9))
    for pattern in _SIDE_FILES:
        for path in sorted(source.folder.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, target / path.name)
    print(f"wrote {target}")
    return 0
