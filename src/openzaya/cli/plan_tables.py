"""The tables of `openzaya plan`."""

from collections.abc import Sequence
from itertools import product

from openzaya.model.config import ZayaConfig
from openzaya.recipes.planner.hardware import Device
from openzaya.recipes.planner.known import KNOWN_RUNS, achieved_flops
from openzaya.recipes.planner.memory import USABLE
from openzaya.recipes.planner.planner import Plan
from openzaya.recipes.planner.serving import Capacity

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


def show(config: ZayaConfig, plans: Sequence[Plan], share: float, from_hardware: bool) -> None:
    """Print the tables of a training plan."""
    hardware = plans[0].device
    active = config.num_active_parameters(with_head=False)
    print(
        f"{plans[0].layout.ranks} x {hardware.name}; {config.num_parameters():,} parameters, "
        f"{active:,} active and {config.num_active_parameters():,} with the head"
    )
    rate = f"{hardware.flops_per_s / 1e12:,.4g}"
    why = hardware.utilization_source if from_hardware else "as asked"
    print(f"utilization {share:.1%} of {rate} TFLOP/s ({why})\n")
    print(table([TABLE_TRAINING, *map(training_row, plans)]))
    for line in known_lines(config, plans):
        print(f"{line}\n")
    print(table([TABLE_FLOPS, *map(flops_row, plans)]))
    room = f"total of {hardware.memory_bytes * USABLE / UNIT:.1f}"
    print(table([(*TABLE_MEMORY, "logits", room), *map(memory_row, plans)]))
    rows = [row for plan in plans for row in wire_rows(plan)]
    if rows:
        print(table([TABLE_WIRE, *rows]))


def known_lines(config: ZayaConfig, plans: Sequence[Plan]) -> list[str]:
    """Return what published runs of just these plans took, and the rate that this amounts to."""
    lines = []
    for plan, run in product(plans, KNOWN_RUNS):
        if run.is_of(config, plan):
            rate = achieved_flops(config, plan.work, run.ranks, run.step_s)
            lines.append(
                f"known: {plan.work.name}, {run.source}: {run.step_s} s a step, "
                f"{rate / 1e12:.1f} TFLOP/s a device, {rate / plan.device.flops_per_s:.1%} of its "
                f"rate; planned {time_text(plan.step_s)}"
            )
    return lines


def training_row(plan: Plan) -> tuple[str, ...]:
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


def flops_row(plan: Plan) -> tuple[str, ...]:
    """Return a phase's operations: forward by part, and all of training."""
    f = plan.flops
    values = (f.dense, f.expert, f.attention, f.head, f.train)
    return (plan.work.name, *(f"{value / UNIT:.3g}" for value in values))


def memory_row(plan: Plan) -> tuple[str, ...]:
    """Return a phase's memory by use."""
    m = plan.memory
    values = (m.weights, m.gradients, m.optimizer, m.gathered, m.activations, m.logits, m.total)
    return (plan.work.name, *(gb_text(value) for value in values))


def wire_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return a phase's traffic by kind, and its sum."""
    if not plan.traffic:
        return []
    lines = [
        (f"{plan.work.name}: {t.name}", str(t.group), gb_text(t.num_bytes), f"{t.seconds:.3f}")
        for t in plan.traffic
    ]
    return [*lines, (f"{plan.work.name}: all", "", gb_text(plan.wire_bytes), f"{plan.wire_s:.3f}")]


def show_serving(found: Sequence[Capacity], hardware: Device) -> None:
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
