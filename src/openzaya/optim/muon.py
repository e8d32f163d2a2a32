"""Muon for stacks: matrices of one shape are updated together, as many as fit the cache on a CPU.

Letters: N matrices of one shape, I rows, O columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.core.seeding import stream_seed
from openzaya.optim.cores import one_core_each
from openzaya.optim.groups import Claim, Rule
from openzaya.optim.native.library import HalfStep
from openzaya.optim.newton_schulz import (
    CPU_CHUNK_ELEMENTS,
    STEPS,
    Arithmetic,
    newton_schulz,
    takes_half,
)

UpdateScale = Literal["match_rms_adamw", "none"]
MomentumDtype = Literal["float32", "bfloat16"]

PART_ELEMENTS = 1 << 27
"""Elements that are updated together on an accelerator: half a GiB in fp32."""
PART_ELEMENTS_CPU = CPU_CHUNK_ELEMENTS
"""The same on a CPU: from gradient to weight everything stays in a core's cache."""
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW update in units of the learning rate (arXiv:2502.16982)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonConfig:
    """Constants of Muon.

    Paper: IV-B1(e) (reinforcement learning: momentum 0, no rescaling).
    """

    lr: float = 4e-4
    """Peak learning rate; with match_rms_adamw it means what it means to AdamW."""
    momentum: float | None = 0.95
    """Decay of the gradient average. none = use the gradient itself and keep no buffer."""
    nesterov: bool = True
    """True mixes the fresh gradient into the averaged one once more."""
    momentum_warmup_steps: int = 0
    """Steps over which the momentum rises from momentum_start. 0 = constant."""
    momentum_start: float = 0.85
    """Momentum of step 0 when there is a momentum warm-up."""
    num_ns_steps: int = STEPS
    """Newton-Schulz iterations."""
    arithmetic: Arithmetic = "auto"
    """auto iterates in the fastest arithmetic that the device is known to do well in: bf16 on
    accelerators, fp16 with sums in fp32 on CPUs that have it, else fp32. float32 = everywhere in
    fp32. Deviation: D-064."""
    scale: UpdateScale = "match_rms_adamw"
    """match_rms_adamw multiplies by 0.2 * sqrt(max(rows, columns)); none leaves norm-1 updates."""
    momentum_dtype: MomentumDtype = "float32"
    """bfloat16 halves the memory of the gradient average."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices, multiplied by the learning rate."""
    router_rate: float = 1.0
    """Learning rate of the routers' matrices in units of lr. Muon's step has the same size however
    small the gradient, and a router that changes as fast as the rest outruns its balancing.
    Deviation: D-047."""

    def __post_init__(self) -> None:
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum}; choose it in [0, 1) or none")
        if min(self.lr, self.weight_decay, self.router_rate) < 0:
            raise ConfigError(
                f"lr is {self.lr}, weight_decay {self.weight_decay} and router_rate "
                f"{self.router_rate}; none may be negative"
            )
        if self.num_ns_steps < 1:
            raise ConfigError(f"num_ns_steps is {self.num_ns_steps}; choose at least 1")
        if self.arithmetic not in get_args(Arithmetic):
            raise ConfigError(
                f"arithmetic is {self.arithmetic!r}; choose of {', '.join(get_args(Arithmetic))}"
            )

    def momentum_at(self, step: int) -> float:
        """Return the momentum of optimizer step `step`, counted from 0; 0 for momentum none."""
        if self.momentum is None:
            return 0.0
        if step >= self.momentum_warmup_steps:
            return self.momentum
        share = step / self.momentum_warmup_steps
        return self.momentum_start + share * (self.momentum - self.momentum_start)

    def lr_of(self, rule: Rule) -> float:
        """Return the peak learning rate of a rule's matrices."""
        return self.lr * self.router_rate if rule.is_router else self.lr

    def factor(self, rows: int, columns: int) -> float:
        """Return what a matrix update is multiplied by, beside the learning rate."""
        return ADAMW_RMS * float(max(rows, columns)) ** 0.5 if self.scale != "none" else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Matrices:
    """Some matrices of one parameter."""

    claim: Claim
    first: int
    stop: int
    """One after the last."""
    momentum: Tensor | None
    """The parameter's gradient average, all matrices of it."""

    @property
    def weight(self) -> Tensor:
        """A view of the weights, [n, I, O]."""
        return self._of(self.claim.parameter.detach())

    @property
    def average(self) -> Tensor | None:
        """A view of the gradient average, [n, I, O]."""
        return None if self.momentum is None else self._of(self.momentum)

    def gradient(self) -> Tensor:
        """Return the gradient in fp32, [n, I, O]; a missing one is zero."""
        if self.claim.grad is None:
            return torch.zeros_like(self.weight, dtype=torch.float32)
        return self._of(self.claim.grad.contiguous()).float()

    def _of(self, tensor: Tensor) -> Tensor:
        return self.claim.matrices(tensor)[self.first : self.stop]


class Part:
    """Matrices of one shape on one device, which are updated together."""

    def __init__(self, members: list[Matrices]) -> None:
        self.members = members
        self.rule = members[0].claim.rule
        self.rows, self.columns = members[0].weight.shape[1:]

    def is_plain(self) -> bool:
        """Tell whether weights and averages are plain rows of fp32 on a CPU."""
        tensors = [matrices.weight for matrices in self.members]
        tensors += [x for matrices in self.members if (x := matrices.average) is not None]
        return all(
            x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
            for x in tensors
        )

    def averaged(self, momentum: float, *, nesterov: bool) -> list[Tensor]:
        """Take the gradients into the averages; return what is to be orthogonalized."""
        gradients = [matrices.gradient() for matrices in self.members]
        averages = [x for matrices in self.members if (x := matrices.average) is not None]
        if not averages:
            return gradients
        wide = [average.float() for average in averages]
        torch._foreach_lerp_(wide, gradients, 1.0 - momentum)
        if averages[0].dtype != torch.float32:
            torch._foreach_copy_(averages, wide)
        return list(torch._foreach_lerp(gradients, wide, momentum)) if nesterov else wide

    def move(self, direction_NIO: Tensor, keep: float, factor: float, seed: int) -> None:
        """Set every weight to weight * keep + direction * factor.

        Below fp32 it is rounded at random, by the generator that `seed` begins.
        """
        weights = [matrices.weight for matrices in self.members]
        wide = [weight.float() for weight in weights]
        if keep != 1.0:
            torch._foreach_mul_(wide, keep)
        directions = torch.split(direction_NIO, [len(weight) for weight in weights])
        torch._foreach_add_(wide, directions, alpha=factor)
        if weights[0].dtype == torch.float32:
            return
        generator = torch.Generator(weights[0].device).manual_seed(seed)
        for weight, exact in zip(weights, wide, strict=True):
            weight.copy_(round_at_random(exact, weight.dtype, generator))


def round_at_random(exact: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return fp32 values in bf16, up or down with the chances that keep the mean.

    An update far below what bf16 resolves would vanish by rounding to the nearest.
    Raises ConfigError for a dtype that is not bf16.

    Deviation: D-042.
    """
    if dtype is not torch.bfloat16:
        raise ConfigError(f"weights without masters are {dtype}; expected torch.bfloat16")
    noise = torch.empty(exact.shape, dtype=torch.int32, device=exact.device)
    noise.random_(0, 1 << 16, generator=generator)
    bits = exact.contiguous().view(torch.int32).add(noise).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).to(dtype)


class Muon:
    """Momentum, orthogonalized, applied to matrices; every matrix of a stack on its own.

    Its cost does not depend on the number of tokens: about 5 * (4 m + 2 m^2 / n) FLOP per
    parameter of an m x n matrix, m <= n.

    Paper: IV-B1(e).
    Source: Muon (Jordan et al., 2024); update scale as arXiv:2502.16982. Momentum is an
    exponential average as in torch.optim.Muon, which only takes single matrices.
    """

    def __init__(self, claims: list[Claim], config: MuonConfig) -> None:
        self.config = config
        self.num_steps = 0
        self.averages: dict[str, Tensor] = {}
        """The gradient average of every parameter; empty without momentum."""
        if config.momentum is not None:
            dtype = getattr(torch, config.momentum_dtype)
            self.averages = {
                claim.name: torch.zeros_like(claim.parameter.detach(), dtype=dtype)
                for claim in claims
            }
        by_shape: dict[tuple[object, ...], list[Claim]] = {}
        for claim in claims:
            shape = claim.matrices(claim.parameter).shape[1:]
            kind = (claim.rule.decay, claim.rule.is_router)
            key = (*shape, claim.parameter.device, claim.parameter.dtype, *kind)
            by_shape.setdefault(key, []).append(claim)
        self.parts = [
            part for members in by_shape.values() for part in parts_of(members, self.averages)
        ]

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0) -> None:
        """Update every matrix once at learning rate lr * lr_scale."""
        works = [
            partial(self._update, part, lr_scale, index) for index, part in enumerate(self.parts)
        ]
        if self.parts and self.parts[0].members[0].weight.device.type == "cpu":
            one_core_each(works)
        else:
            for work in works:
                work()
        self.num_steps += 1

    def _update(self, part: Part, lr_scale: float, index: int) -> None:
        momentum = self.config.momentum_at(self.num_steps)
        lr = self.config.lr_of(part.rule) * lr_scale
        keep = 1.0 - lr * self.config.weight_decay if part.rule.decay else 1.0
        factor = -lr * self.config.factor(part.rows, part.columns)
        if part.is_plain() and takes_half(part.members[0].weight.device, self.config.arithmetic):
            step = HalfStep(
                num_ns_steps=self.config.num_ns_steps,
                keep=keep,
                factor=factor,
                momentum=momentum,
                nesterov=self.config.nesterov,
            )
            for matrices in part.members:
                step.apply(matrices.weight, matrices.gradient(), matrices.average)
            return
        averaged = part.averaged(momentum, nesterov=self.config.nesterov)
        stack_NIO = averaged[0] if len(averaged) == 1 else torch.cat(averaged)
        del averaged
        direction_NIO = newton_schulz(stack_NIO, self.config.num_ns_steps, self.config.arithmetic)
        seed = stream_seed(0, "muon", "rounding", self.num_steps, index)
        part.move(direction_NIO, keep, factor, seed)

    def state_dict(self) -> dict[str, Tensor]:
        """Return {"step": ..., "<parameter>/momentum": ...}; the tensors are no copies."""
        state = {"step": torch.tensor(self.num_steps)}
        return state | {f"{name}/momentum": average for name, average in self.averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state in; raise CheckpointError when names or shapes differ."""
        mine = self.state_dict()
        check_same_names("Muon", mine, state)
        for name, tensor in mine.items():
            if state[name].shape != tensor.shape:
                raise CheckpointError(
                    f"optimizer state {name!r} has shape {tuple(state[name].shape)}, but the model "
                    f"needs {tuple(tensor.shape)}; resume with the model it was saved from"
                )
            tensor.copy_(state[name])
        self.num_steps = int(state["step"])


def parts_of(members: list[Claim], averages: dict[str, Tensor]) -> Iterator[Part]:
    """Yield the matrices of one shape in parts whose working copies fit a bounded memory."""
    on_cpu = members[0].parameter.device.type == "cpu"
    most = PART_ELEMENTS_CPU if on_cpu else PART_ELEMENTS
    stacks = [claim.matrices(claim.parameter) for claim in members]
    room = size = max(1, most // max(1, stacks[0][0].numel()))
    part: list[Matrices] = []
    for claim, stack in zip(members, stacks, strict=True):
        first = 0
        while first < len(stack):
            stop = min(len(stack), first + room)
            part.append(Matrices(claim, first, stop, averages.get(claim.name)))
            room -= stop - first
            first = stop
            if not room:
                yield Part(part)
                part, room = [], size
    if part:
        yield Part(part)


def check_same_names(what: str, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless both states have the same keys."""
    missing, extra = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    if missing or extra:
        raise CheckpointError(
            f"{what} state does not fit the model: missing {missing[:3]}, unknown {extra[:3]}; "
            "resume with the model and the optimizer settings it was saved from"
        )
