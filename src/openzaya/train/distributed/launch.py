"""The command that torchrun starts on every rank.

torchrun --nproc-per-node=8 -m openzaya.train.distributed \\
    --model zaya1-8b --data prepared/web=3 --data prepared/code=1 \\
    --config stage.toml --mesh cp=2 --param-dtype bfloat16 --out runs/pretrain --export model

Run again, it goes on from the newest checkpoint in OUT, on any number of ranks. SIGTERM or SIGUSR1
saves the step and ends every rank with exit code 75, so that who starts it (torchrun, an operator)
starts it again. OUT/DONE or OUT/STOPPED says how the run ended.
"""

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from openzaya.core.errors import OpenZayaError, TrainingStopped
from openzaya.core.log import MetricWriter
from openzaya.data.windows import Window
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.export import export_adapter, export_model
from openzaya.train.distributed.inputs import Inputs, read_alike
from openzaya.train.distributed.mesh import Ranks
from openzaya.train.evaluate import held_out_loss
from openzaya.train.lineage import REFUSED
from openzaya.train.loop import OnStep, is_time_to_evaluate, run_stage
from openzaya.train.saver import Saving
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
    flags.add_argument(
        "--lora",
        type=int,
        metavar="RANK",
        help="train adapters of this rank only, into OUT/adapter; more by --set lora_alpha=, "
        "lora_targets=",
    )
    flags.add_argument("--mesh", default="", help="dp_replicate=,dp_shard=,ep=,cp=; default all")
    flags.add_argument("--param-dtype", choices=DTYPES, default="float32")
    flags.add_argument(
        "--allow-changed",
        action="append",
        default=[],
        choices=REFUSED,
        help="go on although this is not what the checkpoint was made with",
    )
    flags.add_argument(
        "--export", type=Path, help="write the trained model as a folder, with the data's tokenizer"
    )
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
    except (OpenZayaError, OSError, RuntimeError, KeyboardInterrupt) as error:
        said, code = verdict_of(error)
        if not said:
            raise
        log.error("rank %d: %s", dist.get_rank(), said)
        return code
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
    inputs = read_alike(args)
    model = inputs.model.to(device)
    cluster = Cluster(model, Ranks(inputs.mesh, device.type), DTYPES[args.param_dtype])
    if cluster.is_first:
        log.info("%s", plan_of(inputs, cluster))

    def windows(step: int) -> Sequence[Window]:
        mark(args.out, cluster)  # not before: a start that is refused leaves what the last one said
        return inputs.windows(step)

    try:
        run_stage(
            model,
            inputs.config,
            windows,
            args.out,
            on_step=watch_of(inputs, cluster),
            writer=MetricWriter(args.out / "metrics.jsonl") if cluster.is_first else None,
            saving=Saving(
                tokenizer_hash=inputs.tokenizer_hash,
                data=inputs.data,
                base=inputs.base,
                allow_changed=tuple(args.allow_changed),
            ),
            parallel=cluster,
        )
    except TrainingStopped:
        mark(args.out, cluster, STOPPED)
        raise
    if inputs.base:
        folder = Path(args.model)
        base = str(folder.resolve()) if folder.is_dir() else args.model
        export_adapter(model, cluster, args.out / "adapter", base)
    if args.export is not None:
        export_model(model, cluster, args.export, tokenizer=inputs.tokenizer)
    mark(args.out, cluster, DONE)


def plan_of(inputs: Inputs, cluster: Cluster) -> str:
    """Return what is about to be trained, in a line."""
    trained = {name for name, p in inputs.model.named_parameters() if p.requires_grad}
    count = sum(math.prod(cluster.parts[name].shape) for name in trained)
    config = inputs.config
    return (
        f"{config.name}: {config.steps} steps of {config.tokens_per_step} tokens, "
        f"{count:,} trained, mesh {inputs.mesh}"
    )


def verdict_of(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error and the exit code; "" for one that wants a traceback."""
    again = "run the same command to go on from the newest checkpoint"
    if isinstance(error, OpenZayaError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        cure = "check the path, who may use it, and the space on its disk"
        return f"{error}; {cure}", 2 if error.filename else 1
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by Ctrl-C, which saves nothing as SIGTERM does; {again}", 130
    if isinstance(error, RuntimeError) and is_of_others(error):
        cause = f"and says why in its own log ({str(error).partition('. ')[0]})"
        return f"another rank is gone or does not answer, {cause}; {again}", 1
    return "", 1


def is_of_others(error: RuntimeError) -> bool:
    """Tell whether another rank is the cause; gloo has no class of errors of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def mark(folder: Path, cluster: Cluster, end: str = "") -> None:
    """Let a folder say how its run ended, by an empty file; nothing while it goes on."""
    if not cluster.is_first:
        return
    for name in (DONE, STOPPED):
        if name != end:
            (folder / name).unlink(missing_ok=True)
    if end:
        (folder / end).touch()


def watch_of(inputs: Inputs, cluster: Cluster) -> OnStep:
    """Return what follows a step: rank 0 logs it; all evaluate together when it is time."""
    config, held_out = inputs.config, inputs.held_out

    def watch(state: TrainState, step: StepReport) -> dict[str, float]:
        found = {}
        if held_out and is_time_to_evaluate(state.step, config):
            found = held_out_loss(inputs.model, held_out, config.micro_tokens, cluster)
        if cluster.is_first:
            log.info("step %d loss %.4f norm %.3f", state.step, step.loss, step.grad_norm)
            for name, value in found.items():
                log.info("step %d %s %.4f", state.step, name, value)
        return found

    return watch
