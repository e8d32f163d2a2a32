"""`openzaya plan`: what a recipe's phases cost on given hardware, and what a device can serve."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openzaya.model.config import ZayaConfig
    from openzaya.recipes.planner.hardware import Device
    from openzaya.recipes.planner.layout import Workload
    from openzaya.recipes.planner.planner import Plan
    from openzaya.recipes.planner.serving import Capacity
    from openzaya.recipes.planner.settings import PlanSettings

NAME = "plan"
SUMMARY = "Say what a recipe costs on given hardware: steps, time, memory, traffic; or serving."
JSON = True

EXAMPLES = """
examples:
  openzaya plan zaya1_8b --on mi300x --ranks 1024     the paper's run
  openzaya plan nano --on cpu                         the speedrun's supervised stages
  openzaya plan zaya1_8b --on h200 --ranks 64 --shard 8 --ep 8
  openzaya plan zaya1_8b --on h100 --serve --set serve.context_tokens=131072
  openzaya plan zaya1_8b --on h200 --ranks 8 --set pretrain1.train.tokens_per_step=1048576

hardware: mi300x h100 h200 cpu. Recipes: zaya1_8b, nano; their settings are --set's paths, beside
layout.checkpointing (auto, on, off), serve.context_tokens and serve.weights. Nothing is run.
docs/guides/planning.md says what is counted and what is assumed.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("recipe", help="zaya1_8b or nano")
    parser.add_argument("--on", default="cpu", metavar="HARDWARE", help="device of a rank [cpu]")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="devices [1]")
    parser.add_argument(
        "--shard", type=int, metavar="N", help="ranks that divide weights and state [fastest]"
    )
    parser.add_argument(
        "--ep", type=int, default=1, metavar="N", help="ranks that divide a layer's experts [1]"
    )
    parser.add_argument(
        "--cp", type=int, metavar="N", help="ranks that share a document [the phase's]"
    )
    parser.add_argument(
        "--utilization", type=float, metavar="SHARE", help="of the peak rate [the hardware's]"
    )
    parser.add_argument("--serve", action="store_true", help="plan serving on one device instead")
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="TOML file for the recipe"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="change one setting"
    )


def run(args: argparse.Namespace) -> int:
    """Plan and print. Raises ConfigError, after what can be planned, for what cannot."""
    from openzaya.core.config import resolve
    from openzaya.recipes.planned import planned
    from openzaya.recipes.planner.hardware import device
    from openzaya.recipes.planner.settings import PlanSettings

    hardware = device(args.on)
    own = [text for text in args.set if text.startswith(("layout.", "serve."))]
    settings = resolve(PlanSettings(), [], own)
    config, works = planned(args.recipe, args.config, [s for s in args.set if s not in own])
    if args.serve:
        return serve(config, settings, hardware, args)
    return train(config, works, settings, hardware, args)


def train(
    config: "ZayaConfig",
    works: "Sequence[Workload]",
    settings: "PlanSettings",
    hardware: "Device",
    args: argparse.Namespace,
) -> int:
    """Plan every phase; print those that can be laid out, then refuse the others."""
    from openzaya.cli.plan_tables import show
    from openzaya.core.errors import ConfigError
    from openzaya.recipes.planner.layout import Layout
    from openzaya.recipes.planner.planner import best_plan, candidates

    share = hardware.utilization if args.utilization is None else args.utilization
    plans: list[Plan] = []
    refused: list[str] = []
    for work in works:
        layout = Layout(
            ranks=args.ranks,
            expert_parallel=args.ep,
            context_parallel=work.context_parallel if args.cp is None else args.cp,
        )
        try:
            layouts = list(candidates(layout, args.shard, settings.layout.checkpointing))
            plans.append(best_plan(config, work, layouts, hardware, share))
        except ConfigError as error:
            refused.append(str(error))
    if args.json:
        shown = [to_json(plan) for plan in plans]
        print(
            json.dumps(head_json(config, hardware, share) | {"phases": shown, "refused": refused})
        )
    elif plans:
        show(config, plans, share, from_hardware=args.utilization is None)
    if refused:
        raise ConfigError("; ".join(dict.fromkeys(refused)))
    return 0


def serve(
    config: "ZayaConfig",
    settings: "PlanSettings",
    hardware: "Device",
    args: argparse.Namespace,
) -> int:
    """Plan serving in every format; print what fits, then refuse the others."""
    from openzaya.cli.plan_tables import show_serving
    from openzaya.core.errors import ConfigError
    from openzaya.recipes.planner.serving import capacity

    given = {f"--{name}": getattr(args, name) for name in ("shard", "cp", "utilization")}
    idle = [flag for flag, value in given.items() if value is not None]
    idle += [flag for flag, value in (("--ranks", args.ranks), ("--ep", args.ep)) if value != 1]
    if idle:
        raise ConfigError(f"--serve plans one device and takes no {', '.join(idle)}; leave it out")
    context = min(settings.serve.context_tokens, config.max_position_embeddings)
    found: list[Capacity] = []
    refused: list[str] = []
    for weights in settings.serve.weights:
        try:
            found.append(capacity(config, weights, context, hardware))
        except ConfigError as error:
            refused.append(str(error))
    if args.json:
        rows = [asdict(line) for line in found]
        print(json.dumps({"hardware": hardware.name, "serve": rows, "refused": refused}))
    elif found:
        show_serving(found, hardware)
    if refused:
        raise ConfigError("; ".join(dict.fromkeys(refused)))
    return 0


def head_json(config: "ZayaConfig", hardware: "Device", share: float) -> dict[str, Any]:
    """Return what all phases have in common."""
    return {
        "hardware": hardware.name,
        "hardware_source": hardware.source,
        "utilization": share,
        "parameters": config.num_parameters(),
        "active_parameters": config.num_active_parameters(),
        "active_parameters_without_head": config.num_active_parameters(with_head=False),
    }


def to_json(plan: "Plan") -> dict[str, Any]:
    """Return one phase for machines: bytes, seconds, operations."""
    totals = {
        "passes": plan.layout.passes(plan.work),
        "tokens": plan.work.tokens,
        "compute_s": plan.compute_s,
        "muon_s": plan.muon_s,
        "wire_s": plan.wire_s,
        "wire_bytes": plan.wire_bytes,
        "step_s": plan.step_s,
        "total_s": plan.total_s,
        "tokens_per_s": plan.tokens_per_s,
    }
    return {
        **asdict(plan.work),
        "layout": asdict(plan.layout),
        "flops_per_token": asdict(plan.flops) | {"train": plan.flops.train},
        "memory": asdict(plan.memory) | {"total": plan.memory.total},
        "traffic": [asdict(line) for line in plan.traffic],
        **totals,
    }
