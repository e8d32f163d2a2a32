"""The plan of a phase: tokens, steps, operations, memory, time and traffic; and its best layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.recipes.planner.flops import TokenFlops, muon_flops, token_flops
from openzaya.recipes.planner.hardware import Device
from openzaya.recipes.planner.layout import Layout, Workload
from openzaya.recipes.planner.memory import USABLE, Memory, memory
from openzaya.recipes.planner.settings import Checkpointing
from openzaya.recipes.planner.wire import Traffic, traffic

MUON_UTILIZATION = 0.5
"""Share of the peak that Newton-Schulz steps are planned with: products of whole matrices."""
MAX_SHARD = 64
"""Largest shard group that the search tries; larger ones must be asked for."""
AS_FAST = 1.05
"""Steps that are at most that much longer than the shortest count as equally fast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one phase costs; every figure of time and traffic is of one rank and one step."""

    work: Workload
    layout: Layout
    device: Device
    flops: TokenFlops
    """Operations of a token."""
    muon_flops: float
    """Operations of the Newton-Schulz steps of one rank."""
    memory: Memory
    traffic: Sequence[Traffic]
    """By kind, in bytes that one rank receives."""
    compute_s: float
    """Forward and backward at the device's planned share of its rate."""
    muon_s: float
    """Newton-Schulz steps."""

    @property
    def wire_s(self) -> float:
        """All traffic, one kind after the other, at the full rate of its link."""
        return sum(line.seconds for line in self.traffic)

    @property
    def wire_bytes(self) -> float:
        """All traffic."""
        return sum(line.num_bytes for line in self.traffic)

    @property
    def step_s(self) -> float:
        """A step, traffic hidden behind computation as far as that lasts."""
        return max(self.compute_s, self.wire_s) + self.muon_s

    @property
    def total_s(self) -> float:
        """The whole phase."""
        return self.step_s * self.work.steps

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all ranks in a second."""
        return self.work.tokens_per_step / self.step_s


def _plan(
    config: ZayaConfig, work: Workload, layout: Layout, device: Device, utilization: float
) -> Plan:
    if not 0 < utilization <= 1:
        raise ConfigError(f"utilization is {utilization}; it is a share, choose it in (0, 1]")
    layout.check(config, work)
    flops = token_flops(config, work.context_tokens)
    done = flops.train + (flops.recompute if layout.checkpointing else 0.0)
    dense, expert = muon_flops(config)
    # A rank has its part of the stacks, at least one matrix of each; others are dealt to owners.
    muon = dense / layout.shard + expert / min(layout.shard, config.num_experts)
    return Plan(
        work=work,
        layout=layout,
        device=device,
        flops=flops,
        muon_flops=muon,
        memory=memory(config, work, layout, device),
        traffic=traffic(config, work, layout, device),
        compute_s=done * layout.rank_tokens(work) / (device.flops_per_s * utilization),
        muon_s=muon / (device.flops_per_s * MUON_UTILIZATION),
    )


def _misfit(plan: Plan, room: float) -> ConfigError:
    need = plan.memory.total
    cures = []
    if plan.layout.shard < plan.layout.ranks:
        cures.append("a larger --shard")
    else:
        cures.append("more --ranks with a larger --shard")
    if not plan.layout.checkpointing:
        cures.append("--set layout.checkpointing=on")
    cures.append("a smaller micro_tokens")
    have, missing = plan.device.memory_bytes / 1e9, (need - room) / 1e9
    return ConfigError(
        f"{plan.work.name} does not fit: a rank needs {need / 1e9:.1f} GB, but plans fill at most "
        f"{room / 1e9:.1f} GB ({USABLE:.0%} of the {have:.0f} GB of {plan.device.name}); "
        f"{missing:.1f} GB are missing; try {', or '.join(cures)}"
    )


def best_plan(
    config: ZayaConfig,
    work: Workload,
    layouts: Sequence[Layout],
    device: Device,
    utilization: float,
) -> Plan:
    """Return the fastest plan that fits; of those as fast, the one with the least traffic.

    `utilization` is the share of the device's rate that forward and backward reach. Raises
    ConfigError for an impossible layout, and when no plan fits, with what the smallest needs.
    """
    plans = [_plan(config, work, layout, device, utilization) for layout in layouts]
    room = device.memory_bytes * USABLE
    fitting = [plan for plan in plans if plan.memory.total <= room]
    if not fitting:
        raise _misfit(min(plans, key=lambda plan: plan.memory.total), room)
    limit = AS_FAST * min(plan.step_s for plan in fitting)
    fast = [plan for plan in fitting if plan.step_s <= limit]
    return min(fast, key=lambda plan: (plan.wire_s, plan.step_s))


def candidates(layout: Layout, shard: int | None, checkpointing: Checkpointing) -> Iterator[Layout]:
    """Yield layouts with what is left open filled in: `shard` None, `checkpointing` "auto"."""
    shards = [shard] if shard is not None else shard_sizes(layout)
    choices = {"auto": (False, True), "on": (True,), "off": (False,)}[checkpointing]
    for size in shards:
        for keep_inputs in choices:
            yield replace(layout, shard=size, checkpointing=keep_inputs)


def shard_sizes(layout: Layout) -> list[int]:
    """Return shard groups worth trying; all ranks, which `check` may refuse, when there is none."""
    limit = min(layout.ranks, MAX_SHARD)
    sizes = [n for n in range(1, limit + 1) if layout.ranks % n == 0]
    return [n for n in sizes if n % max(1, layout.expert_parallel) == 0] or [layout.ranks]
