"""The verb `convert`: rewrite a model folder in another layout, or with integer weights."""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openzaya.model.checkpoint import Source

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
    parser.add_argument("source", metavar="SRC", help="model folder, either layout, or nano")
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
    from openzaya.cli.samplers import model_folder
    from openzaya.core.errors import CheckpointError, ConfigError
    from openzaya.model.checkpoint import Source

    if not 0 < args.max_shard_gb < math.inf:
        raise ConfigError(f"--max-shard-gb is {args.max_shard_gb}; give a number above 0")
    target = Path(args.target)
    refuse_used(target)
    source = Source(model_folder("nano") if args.source == "nano" else args.source)
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
    try:
        write(source, target, args)
    except OSError as error:
        if error.filename is not None:
            raise
        raise CheckpointError(
            f"{target} could not be written: {error}; make room there, or name a target on "
            "another disk"
        ) from error
    print(json.dumps(plan) if as_json else "done")
    return 0


def refuse_used(target: Path) -> None:
    """Raise ConfigError where no new folder can be put."""
    from openzaya.core.errors import ConfigError

    is_other = target.is_symlink() or (target.exists() and not target.is_dir())
    if not target.name or is_other or (target.exists() and any(target.iterdir())):
        raise ConfigError(f"{target} is not an empty folder; name a new one")


def write(source: "Source", target: Path, args: argparse.Namespace) -> None:
    """Build the target aside under a lock and put it in place; a failure leaves nothing."""
    from openzaya.model.convert import convert
    from openzaya.model.quantize import FORMATS
    from openzaya.train.lock import LOCK, RunLock

    partial = target.with_name(f"{target.name}.partial")
    refuse_foreign(partial, source.folder, LOCK)
    with RunLock(partial):
        refuse_used(target)  # by another conversion, which has ended meanwhile
        for path in partial.iterdir():  # of a conversion that was killed
            if path.name != LOCK:
                path.unlink()
        try:
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
            (partial / LOCK).unlink()
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def refuse_foreign(partial: Path, source: Path, lock: str) -> None:
    """Raise ConfigError for a folder that is not what a killed conversion has left."""
    from openzaya.core.errors import ConfigError

    ours = (partial / lock).is_file() or not (partial.exists() and any(partial.iterdir()))
    holds_source = partial.resolve() in (source.resolve(), *source.resolve().parents)
    if partial.is_symlink() or not ours or holds_source:
        raise ConfigError(
            f"the target would be built in {partial}, and what is there would be deleted; move it "
            "away, or name another target"
        )
