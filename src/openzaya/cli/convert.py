"""The verb `convert`: rewrite a model folder in another layout, or with integer weights."""

import argparse
import json
import math
import shutil
from pathlib import Path

NAME = "convert"
SUMMARY = "Rewrite a model folder: current or legacy layout, full or 8- or 4-bit weights."
JSON = True

_EXAMPLES = """examples:
  openzaya convert ZAYA1-8B-legacy ZAYA1-8B                   for openzaya and transformers
  openzaya convert ZAYA1-8B ZAYA1-8B-legacy --layout legacy   for SGLang
  openzaya convert ZAYA1-8B ZAYA1-8B-int4 --weights int4      5 GB, for our engine on a CPU

Tensors stream one by one and keep their dtype. Checksums of SRC are verified first, those of DST
are written beside its shards.
"""
_SIDE_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


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
        "--weights",
        choices=("same", "int8", "int4"),
        default="same",
        help="store the large matrices as integers; routers, norms and scales stay [same]",
    )
    parser.add_argument(
        "--max-shard-gb", type=float, default=5.0, metavar="GB", help="size of a shard [5]"
    )


def run(args: argparse.Namespace) -> int:
    """Convert the folder with its tokenizer and chat template; the target appears whole."""
    from openzaya.core.errors import ConfigError
    from openzaya.model.checkpoint import Source
    from openzaya.model.convert import convert
    from openzaya.model.quantize import FORMATS

    if not 0 < args.max_shard_gb < math.inf:
        raise ConfigError(f"--max-shard-gb is {args.max_shard_gb}; give a number above 0")
    target = Path(args.target)
    is_other = target.is_symlink() or (target.exists() and not target.is_dir())
    if not target.name or is_other or (target.exists() and any(target.iterdir())):
        raise ConfigError(f"{target} is not an empty folder; name a new one")
    source = Source(args.source)
    partial = target.with_name(f"{target.name}.partial")
    if partial.resolve() in (source.folder.resolve(), *source.folder.resolve().parents):
        raise ConfigError(
            f"{source.folder} lies where a new {target} would be built, and would be deleted; name "
            "another target, or move the source"
        )
    plan = {
        "source": str(source.folder),
        "source_layout": source.layout,
        "parameters": source.config.num_parameters(),
        "gigabytes": round(source.shards.num_bytes / 1e9, 3),
        "target": str(target),
        "target_layout": args.layout,
        "weights": args.weights,
    }
    as_json = getattr(args, "json", False)
    if not as_json:
        print("\n".join(f"{name}: {value}" for name, value in plan.items()))
    shutil.rmtree(partial, ignore_errors=True)
    convert(
        source,
        partial,
        args.layout,
        form=FORMATS.get(args.weights),
        max_shard_bytes=int(args.max_shard_gb * 1e9),
    )
    for pattern in _SIDE_FILES:
        for path in sorted(source.folder.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, partial / path.name)
    if target.exists():
        target.rmdir()
    partial.rename(target)
    print(json.dumps(plan) if as_json else "done")
    return 0
