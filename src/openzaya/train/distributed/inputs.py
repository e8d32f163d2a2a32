"""What a run reads: its stage, model, data. Every rank reads it alone, and all must find the same.

Ranks that differ would train a mixture of two runs, or wait for each other for ever.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from openzaya.core.config import diff, load_toml, resolve, to_mapping
from openzaya.core.errors import ConfigError, DataError, OpenZayaError
from openzaya.core.seeding import stream_seed
from openzaya.data.mixture import Mixture
from openzaya.data.shards import load_prepared
from openzaya.data.windows import Window, build_windows
from openzaya.model.balance import BalanceConfig
from openzaya.model.checkpoint import load
from openzaya.model.lora import LoraConfig, add_lora
from openzaya.model.presets import PRESETS, preset
from openzaya.model.zaya import Zaya
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train.distributed.mesh import MeshConfig
from openzaya.train.distributed.talk import all_values, first_error
from openzaya.train.lineage import content_of
from openzaya.train.loop import NextWindows
from openzaya.train.manifest import sha256
from openzaya.train.stages import StageConfig

CLAIM = "run.json"
"""What `openzaya train` leaves in its folder."""
LORA = "lora_"
"""Begins the names of the adapters' settings, as in `openzaya train`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What one rank has read."""

    config: StageConfig
    mesh: MeshConfig
    model: Zaya
    windows: NextWindows
    """The windows of a step: the same for every rank and every number of ranks."""
    held_out: Sequence[Window]
    tokenizer: Path
    """Folder of the tokenizer that all data were prepared with."""
    tokenizer_hash: str
    data: Mapping[str, str]
    """Weight and fingerprint of every folder."""
    checksums: str
    """Names the weights of a model folder; "" for fresh ones."""
    base: str = ""
    """Names the model under adapters; "" where the whole model is trained."""


def read_alike(args: argparse.Namespace) -> Inputs:
    """Read what the flags name. A collective call: what is wrong on one rank ends all.

    Raises ConfigError on every rank when two of them read something else.
    """
    everybody = dist.group.WORLD
    assert everybody is not None, "the process group exists"
    error: OpenZayaError | None = None
    try:
        inputs = read(args)
    except OpenZayaError as caught:
        error = caught
    found = first_error(str(error or ""), everybody)
    if error is not None:
        raise error
    if found:
        raise OpenZayaError(f"ended with {found}")
    about = {
        "stage": to_mapping(inputs.config),
        "mesh": str(inputs.mesh),
        "model": to_mapping(inputs.model.config) | {"checksums": inputs.checksums},
        "tokenizer": inputs.tokenizer_hash,
        "data": dict(inputs.data),
        "held out": [len(inputs.held_out), sum(map(len, inputs.held_out))],
        "adapters of": inputs.base,
        "lora": to_mapping(lora) if (lora := lora_of(args)) else {},
        "flags": [args.param_dtype, str(args.export), args.allow_changed],
    }
    first, *others = all_values(about, everybody)
    for rank, other in enumerate(others, start=1):
        if other != first:
            raise ConfigError(
                f"rank 0 and rank {rank} read something else ({'; '.join(diff(first, other)[:4])});"
                " start all ranks with the same command and the same files"
            )
    return inputs


def read(args: argparse.Namespace) -> Inputs:
    """Read what the flags name."""
    if (args.out / CLAIM).exists():
        raise ConfigError(
            f"{args.out} holds a run of `openzaya train`; choose another folder with --out"
        )
    config = stage_of(args)
    mesh = MeshConfig.parse(args.mesh, dist.get_world_size())
    entries = dict(map(split_weight, args.data))
    if len(entries) < len(args.data):
        raise ConfigError(f"a folder is named twice in --data {', '.join(args.data)}; once will do")
    prepared = {folder: load_prepared(folder) for folder in (*entries, *args.held_out)}
    model = model_of(args.model, config.seed)
    config.check_model(model.config.max_position_embeddings)
    base = adapt(model, args, config)
    tokenizer = tokenizer_of(list(prepared), args.model, model)
    filled = {
        folder: build_windows(documents, config.context_tokens, seed=config.seed)
        for folder, documents in prepared.items()
    }
    sources = {str(folder): filled[folder] for folder in entries}
    mixture = Mixture(sources, {str(folder): weight for folder, weight in entries.items()})
    checksums = Path(args.model) / "checksums.json"
    return Inputs(
        config=config,
        mesh=mesh,
        model=model,
        windows=lambda step: mixture.windows_for_step(config.seed, step, config.tokens_per_step),
        held_out=[window for folder in args.held_out for window in filled[folder]],
        tokenizer=next(iter(entries)) / "tokenizer",
        tokenizer_hash=tokenizer.sha256,
        data={
            str(folder): f"{weight!r} of {prepared[folder].fingerprint[:16]}"
            for folder, weight in entries.items()
        },
        checksums=sha256(checksums) if checksums.is_file() else "",
        base=base,
    )


def stage_of(args: argparse.Namespace) -> StageConfig:
    """Return the stage that the file and --set describe."""
    table = load_toml(args.config)
    missing = [name for name in ("name", "steps") if name not in table]
    if missing:
        raise ConfigError(f"{args.config} has no {missing[0]!r}; a stage needs name and steps")
    base = StageConfig(name="", steps=1)  # both come from the file
    if args.lora is not None:  # adapters are nothing to a model whose biases have moved
        base = replace(base, balance=BalanceConfig(learning_rate=0.0))
    return resolve(base, [args.config], [word for word in args.set if not is_of_lora(word)])


def is_of_lora(word: str) -> bool:
    """Tell whether an assignment is one of `openzaya train`'s settings of adapters."""
    return word.startswith(LORA)


def lora_of(args: argparse.Namespace) -> LoraConfig | None:
    """Return the adapters that --lora and --set lora_... describe."""
    words = [word.removeprefix(LORA) for word in args.set if is_of_lora(word)]
    if args.lora is not None:
        return resolve(LoraConfig(), [], [f"rank={args.lora}", *words])
    if words:
        raise ConfigError(
            f"--set {LORA}{words[0]} is for adapters; add --lora RANK, or leave it out"
        )
    return None


def adapt(model: Zaya, args: argparse.Namespace, config: StageConfig) -> str:
    """Add the adapters that are wanted, the same on every rank; return the name of their base.

    Raises ConfigError for adapters of weights that no file holds, or that the export would replace.
    """
    lora = lora_of(args)
    if lora is None:
        return ""
    if args.model in PRESETS:
        raise ConfigError(
            f"--lora adapts a finished model, and --model {args.model} names fresh weights; give "
            "the folder of one"
        )
    if args.export is not None and args.export.resolve() == Path(args.model).resolve():
        raise ConfigError(
            f"--export {args.export} would replace the model that the adapters belong to; choose "
            "another folder"
        )
    base = content_of(model)
    add_lora(model, lora, stream_seed(config.seed, "lora"))
    return base


def model_of(name: str, seed: int) -> Zaya:
    """Return fresh weights of a preset, the same on every rank, or those of a folder."""
    if name in PRESETS:
        model = Zaya(replace(preset(name), precision="paper"))
        model.init_weights(torch.Generator().manual_seed(stream_seed(seed, "init")))
        return model
    return load(name, dtype="float32", precision="paper")


def split_weight(entry: str) -> tuple[Path, float]:
    """Read FOLDER or FOLDER=WEIGHT; raises ConfigError for a weight that is no number."""
    folder, separator, weight = entry.rpartition("=")
    if not separator:
        return Path(entry), 1.0
    try:
        return Path(folder), float(weight)
    except ValueError as error:
        raise ConfigError(f"--data {entry}: {weight!r} is no weight; write FOLDER=2.5") from error


def tokenizer_of(folders: Sequence[Path], name: str, model: Zaya) -> TextTokenizer:
    """Return the one tokenizer of all data.

    Raises DataError when they have several, and when the model has another or fewer ids.
    """
    tokenizer = TextTokenizer.load(folders[0] / "tokenizer")
    others = {folder: TextTokenizer.load(folder / "tokenizer") for folder in folders[1:]}
    if (Path(name) / "tokenizer.json").is_file():
        others[Path(name)] = TextTokenizer.load(name)
    for folder, other in others.items():
        if other.sha256 != tokenizer.sha256:
            raise DataError(
                f"{folders[0]} was prepared with the tokenizer {tokenizer.sha256[:12]}, but "
                f"{folder} has {other.sha256[:12]}; prepare all data with the model's tokenizer"
            )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise DataError(
            f"{folders[0]} was prepared with a tokenizer of {tokenizer.vocab_size} ids, but the "
            f"model has {model.config.vocab_size}; prepare it with the model's tokenizer, or train "
            "another model"
        )
    return tokenizer
