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
DAY_S = 86_400
UNIT = 1e9
TABLE_TRAINING = (
    "phase",
    "tokens",
    "context",
    "steps",
    "layout",
    "step",
    "tokens/s",
    "phase takes",
)
TABLE_MEMORY = ("GB a rank", "weights", "gradients", "optimizer", "gathered", "activations")
TABLE_WIRE = ("GB a rank and step", "ranks", "GB", "s")
TABLE_FLOPS = ("GFLOP a token", "dense", "expert", "attention", "head", "forward + backward")
TABLE_SERVE = ("weights", "GB", "MB a sequence", "sequences", "tokens/s of one", "of all", "bound")


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
    parser.add_argument("--config", action="append", default=[], help="TOML file for the recipe")
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
        raise ConfigError("; ".join(refused))
    return 0


def serve(
    config: "ZayaConfig",
    settings: "PlanSettings",
    hardware: "Device",
    args: argparse.Namespace,
) -> int:
    """Plan serving in every format; print what fits, then refuse the others."""
    from openzaya.core.errors import ConfigError
    from openzaya.recipes.planner.serving import capacity

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
        raise ConfigError("; ".join(refused))
    return 0


def head_json(config: "ZayaConfig", hardware: "Device", share: float) -> dict[str, Any]:
    """Return what all phases have in common."""
    return {
        "hardware": hardware.name,
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


def show(config: "ZayaConfig", plans: "Sequence[Plan]", share: float, from_hardware: bool) -> None:
    """Print the tables of a training plan."""
    from openzaya.recipes.planner.memory import USABLE

    hardware = plans[0].device
    active = config.num_active_parameters(with_head=False)
    print(
        f"{plans[0].layout.ranks} x {hardware.name}; {config.num_parameters():,} parameters, "
        f"{active:,} active and {config.num_active_parameters():,} with the head"
    )
    why = hardware.utilization_source if from_hardware else "as asked"
    print(f"utilization {share:.1%} of {hardware.flops_per_s / 1e12:,.1f} TFLOP/s ({why})\n")
    print(table([TABLE_TRAINING, *map(training_row, plans)]))
    print(table([TABLE_FLOPS, *map(flops_row, plans)]))
    room = f"total of {hardware.memory_bytes * USABLE / UNIT:.1f}"
    print(table([(*TABLE_MEMORY, "logits", room), *map(memory_row, plans)]))
    rows = [row for plan in plans for row in wire_rows(plan)]
    if rows:
        print(table([TABLE_WIRE, *rows]))


def training_row(plan: "Plan") -> tuple[str, ...]:
    """Return a phase's line of the first table."""
    layout = plan.layout
    parts = [f"shard {layout.shard}"]
    parts += [f"ep {layout.expert_parallel}"] if layout.expert_parallel > 1 else []
    parts += [f"cp {layout.context_parallel}"] if layout.context_parallel > 1 else []
    parts += ["checkpointing"] if layout.checkpointing else []
    return (
        plan.work.name,
        count_text(plan.work.tokens),
        f"{plan.work.context_tokens:,}",
        f"{plan.work.steps:,}",
        ", ".join(parts),
        time_text(plan.step_s),
        f"{plan.tokens_per_s:,.0f}",
        time_text(plan.total_s),
    )


def flops_row(plan: "Plan") -> tuple[str, ...]:
    """Return a phase's operations: forward by part, and all of training."""
    f = plan.flops
    values = (f.dense, f.expert, f.attention, f.head, f.train)
    return (plan.work.name, *(f"{value / UNIT:.3g}" for value in values))


def memory_row(plan: "Plan") -> tuple[str, ...]:
    """Return a phase's memory by use."""
    m = plan.memory
    values = (m.weights, m.gradients, m.optimizer, m.gathered, m.activations, m.logits, m.total)
    return (plan.work.name, *(gb_text(value) for value in values))


def wire_rows(plan: "Plan") -> list[tuple[str, ...]]:
    """Return a phase's traffic by kind, and its sum."""
    if not plan.traffic:
        return []
    lines = [
        (f"{plan.work.name}: {t.name}", str(t.group), gb_text(t.num_bytes), f"{t.seconds:.3f}")
        for t in plan.traffic
    ]
    return [*lines, (f"{plan.work.name}: all", "", gb_text(plan.wire_bytes), f"{plan.wire_s:.3f}")]


def show_serving(found: "Sequence[Capacity]", hardware: "Device") -> None:
    """Print the table of serving."""
    print(
        f"one {hardware.name}: {hardware.memory_bytes / UNIT:.0f} GB, "
        f"{hardware.bytes_per_s / UNIT:,.0f} GB/s; sequences of {found[0].context_tokens:,} "
        "tokens; upper bounds\n"
    )
    rows = [
        (
            line.weights,
            gb_text(line.weight_bytes),
            f"{line.kv_bytes / 1e6:.1f} + {line.state_bytes / 1e6:.3f}",
            f"{line.sequences:,}",
            f"{line.single_per_s:,.1f}",
            f"{line.full_per_s:,.0f}",
            line.bound,
        )
        for line in found
    ]
    print(table([TABLE_SERVE, *rows]))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return lines in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join(lines) + "\n"


def gb_text(num_bytes: float) -> str:
    """Return gigabytes with three figures, small ones too."""
    value = num_bytes / UNIT
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


def count_text(number: float) -> str:
    """Return a count with its unit: 1.18M, 660B, 8T."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def time_text(seconds: float) -> str:
    """Return a time in the unit that a reader wants."""
    if seconds >= 2 * DAY_S:
        return f"{seconds / DAY_S:,.1f} days"
    if seconds >= 7_200:
        return f"{seconds / 3_600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.3g} s"
