"""The command that torchrun starts on every rank.

torchrun --nproc-per-node=8 -m openzaya.train.distributed \\
    --model zaya1-8b --data prepared/web=3 --data prepared/code=1 \\
    --config stage.toml --mesh cp=2 --param-dtype bfloat16 --out runs/pretrain --export model

Run again, it goes on from the newest checkpoint in OUT, on any number of ranks. SIGTERM or SIGUSR1
saves the step and ends with exit code 0. OUT/DONE or OUT/STOPPED says how the run ended.
"""

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from openzaya.core.config import load_toml, resolve
from openzaya.core.errors import ConfigError, OpenZayaError, TrainingStopped
from openzaya.core.log import MetricWriter
from openzaya.core.seeding import stream_seed
from openzaya.data.mixture import Mixture
from openzaya.data.shards import load_prepared
from openzaya.data.windows import build_windows
from openzaya.model.checkpoint import load
from openzaya.model.presets import PRESETS, preset
from openzaya.model.zaya import Zaya
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.export import export_model
from openzaya.train.distributed.mesh import MeshConfig, Ranks
from openzaya.train.evaluate import held_out_loss
from openzaya.train.loop import NextWindows, OnStep, is_time_to_evaluate, run_stage
from openzaya.train.saver import Saving
from openzaya.train.stages import StageConfig
from openzaya.train.state import TrainState
from openzaya.train.step import StepReport

DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
DONE, STOPPED = "DONE", "STOPPED"

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    flags = argparse.ArgumentParser(
        prog="python -m openzaya.train.distributed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("--model", required=True, help="a preset for fresh weights, or a folder")
    flags.add_argument(
        "--data", action="append", required=True, metavar="FOLDER[=WEIGHT]", help="prepared data"
    )
    flags.add_argument(
        "--held-out",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="prepared data to watch the loss on, every evaluate_every_steps and at the end",
    )
    flags.add_argument("--out", required=True, type=Path, help="checkpoints and metrics")
    flags.add_argument("--config", required=True, type=Path, help="TOML with a StageConfig")
    flags.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    flags.add_argument("--mesh", default="", help="dp_replicate=,dp_shard=,ep=,cp=; default all")
    flags.add_argument("--param-dtype", choices=DTYPES, default="float32")
    flags.add_argument("--export", type=Path, help="write the trained model as a folder")
    return flags


def main(argv: Sequence[str]) -> int:
    """Train one stage as one rank of `WORLD_SIZE`; return the exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    device = start()
    try:
        train(args, device)
    except TrainingStopped as stop:
        log.info("%s", stop)
        return stop.exit_code
    except OpenZayaError as error:
        log.error("rank %d: %s", dist.get_rank(), error)
        return error.exit_code
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def start() -> torch.device:
    """Join the process group that torchrun describes; return this rank's device."""
    if "RANK" not in os.environ:
        raise SystemExit(
            "no RANK in the environment; start with torchrun --nproc-per-node=N -m "
            "openzaya.train.distributed, which sets it"
        )
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    return device


def train(args: argparse.Namespace, device: torch.device) -> None:
    """Run the stage, mark how it ended, export the model."""
    config = stage_of(args)
    mesh = MeshConfig.parse(args.mesh, dist.get_world_size())
    model = model_of(args.model, config.seed).to(device)
    cluster = Cluster(model, Ranks(mesh, device.type), DTYPES[args.param_dtype])
    windows = windows_of(args.data, config)
    if cluster.is_first:
        log.info("mesh %s, %d parameters", mesh, model.config.num_parameters())
        for name in (DONE, STOPPED):
            (args.out / name).unlink(missing_ok=True)
    try:
        run_stage(
            model,
            config,
            windows,
            args.out,
            on_step=watch_of(args.held_out, config, model, cluster),
            writer=MetricWriter(args.out / "metrics.jsonl") if cluster.is_first else None,
            saving=Saving(tokenizer_hash=tokenizer_hash(args.data)),
            parallel=cluster,
        )
    except TrainingStopped:
        mark(args.out / STOPPED, cluster)
        raise
    if args.export is not None:
        export_model(model, cluster, args.export)
    mark(args.out / DONE, cluster)


def mark(path: Path, cluster: Cluster) -> None:
    """Leave an empty file."""
    if cluster.is_first:
        path.touch()


def watch_of(folders: Sequence[Path], config: StageConfig, model: Zaya, cluster: Cluster) -> OnStep:
    """Return what follows a step: rank 0 logs it; all evaluate together when it is time."""
    held_out = [
        window
        for folder in folders
        for window in build_windows(load_prepared(folder), config.context_tokens, seed=config.seed)
    ]

    def watch(state: TrainState, step: StepReport) -> dict[str, float]:
        found = {}
        if held_out and is_time_to_evaluate(state.step, config):
            found = held_out_loss(model, held_out, config.micro_tokens, cluster)
        if cluster.is_first:
            log.info("step %d loss %.4f norm %.3f", state.step, step.loss, step.grad_norm)
            for name, value in found.items():
                log.info("step %d %s %.4f", state.step, name, value)
        return found

    return watch


def stage_of(args: argparse.Namespace) -> StageConfig:
    """Return the stage that the file and --set describe."""
    table = load_toml(args.config)
    missing = [name for name in ("name", "steps") if name not in table]
    if missing:
        raise ConfigError(f"{args.config} has no {missing[0]!r}; a stage needs name and steps")
    base = StageConfig(name=str(table["name"]), steps=int(table["steps"]))
    return resolve(base, [args.config], args.set)


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


def windows_of(data: Sequence[str], config: StageConfig) -> NextWindows:
    """Return the windows of a step: the same for every rank and every number of ranks."""
    entries = [split_weight(entry) for entry in data]
    sources = {
        str(folder): build_windows(load_prepared(folder), config.context_tokens, seed=config.seed)
        for folder, _ in entries
    }
    mixture = Mixture(sources, {str(folder): weight for folder, weight in entries})
    return lambda step: mixture.windows_for_step(config.seed, step, config.tokens_per_step)


def tokenizer_hash(data: Sequence[str]) -> str:
    """Return a hash of the tokenizers that the data were prepared with."""
    digest = hashlib.sha256()
    for folder, _ in map(split_weight, data):
        for path in sorted((folder / "tokenizer").glob("*")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
