"""The optimizer on divided parameters: the numbers of one process, with the work divided too.

AdamW and momentum act on single values, so each rank does its part. Newton-Schulz needs whole
matrices: stacks divided by expert have them; every other matrix has one owner among its ranks, who
gets the parts, orthogonalizes, and sends the parts of the update back.

Paper: III (Muon divided over ranks in the manner of ZeRO).
Deviation: D-046.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openzaya.model.zaya import Zaya
from openzaya.optim import MuonConfig, OptimConfig, Optimizers, newton_schulz
from openzaya.optim.groups import Claim, claim_parameters
from openzaya.optim.muon import Muon
from openzaya.optim.optimizers import build_adamw
from openzaya.train.distributed.exchange import move
from openzaya.train.distributed.shard import axis_of, local_of, part_sizes, shard_group


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A matrix parameter of which this rank has a part."""

    whole: Claim
    """The divided parameter."""
    local: nn.Parameter
    """This rank's part of it; same memory."""
    axis: int
    """Divided along this axis."""
    sizes: list[int]
    """How much each rank of its group has."""

    @property
    def has_whole_matrices(self) -> bool:
        """Tell whether the part is made of whole matrices."""
        return len(self.sizes) == 1 or (self.whole.rule.layout == "stack" and self.axis == 0)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of its matrices."""
        shape = self.whole.parameter.shape
        if self.whole.rule.layout == "grouped_conv":
            return shape[1], shape[1] * shape[2]
        return shape[-2], shape[-1]

    @property
    def work(self) -> int:
        """What Newton-Schulz costs, up to a factor."""
        return self.whole.parameter.numel() * min(self.matrix_shape)

    def part_shape(self, rank: int) -> list[int]:
        """Return the shape of a rank's part."""
        shape = list(self.whole.parameter.shape)
        shape[self.axis] = self.sizes[rank]
        return shape


def owners_of(work: Sequence[int], num_ranks: int) -> list[int]:
    """Return a rank for each piece of work: the largest first, each to the least busy rank."""
    loads = [0] * num_ranks
    owners = [0] * len(work)
    for index in sorted(range(len(work)), key=lambda i: (-work[i], i)):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += work[index]
    return owners


class Owners:
    """The matrices that one group of ranks divides by rows, each with an owner among them."""

    def __init__(self, held: Sequence[Held], group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.num_ranks = dist.get_rank(group), dist.get_world_size(group)
        self.by_owner: list[list[Held]] = [[] for _ in range(self.num_ranks)]
        for matrix, owner in zip(
            held, owners_of([h.work for h in held], self.num_ranks), strict=True
        ):
            self.by_owner[owner].append(matrix)
        self.mine = self.by_owner[self.rank]
        self._sends = [sum(h.local.numel() for h in owned) for owned in self.by_owner]
        self._receives = [
            sum(math.prod(h.part_shape(rank)) for h in self.mine) for rank in range(self.num_ranks)
        ]

    def gather(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole tensors of the matrices that this rank owns."""
        flat = [parts[h.whole.name].flatten() for owned in self.by_owner for h in owned]
        got = move(torch.cat(flat), self._sends, self._receives, self.group)
        pieces: dict[str, list[Tensor]] = {h.whole.name: [] for h in self.mine}
        start = 0
        for rank in range(self.num_ranks):
            for h in self.mine:
                shape = h.part_shape(rank)
                stop = start + math.prod(shape)
                pieces[h.whole.name].append(got[start:stop].view(shape))
                start = stop
        return {h.whole.name: torch.cat(pieces[h.whole.name], dim=h.axis) for h in self.mine}

    def scatter(self, whole: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return this rank's parts of what the owners have; `like` gives their dtype."""
        flat = [next(iter(like.values())).new_empty(0)]
        for rank in range(self.num_ranks):
            for h in self.mine:
                start = list(accumulate(h.sizes, initial=0))[rank]
                flat.append(whole[h.whole.name].narrow(h.axis, start, h.sizes[rank]).flatten())
        got = move(torch.cat(flat), self._receives, self._sends, self.group)
        parts: dict[str, Tensor] = {}
        start = 0
        for h in (h for owned in self.by_owner for h in owned):
            stop = start + h.local.numel()
            parts[h.whole.name] = got[start:stop].view(h.local.shape)
            start = stop
        return parts


class DividedMuon(Muon):
    """Muon on parts of matrices; see `optim.muon` for the rule, which is the same."""

    def __init__(self, held: list[Held], config: MuonConfig) -> None:
        self.config = config
        self.num_steps = 0
        self.parts = []
        self.held = held
        dtype = getattr(torch, config.momentum_dtype)
        self.averages: dict[str, Tensor] = {}
        if config.momentum is not None:
            self.averages = {
                h.whole.name: torch.zeros_like(h.local.detach(), dtype=dtype) for h in held
            }
        by_group: dict[dist.ProcessGroup, list[Held]] = {}
        for h in held:
            if not h.has_whole_matrices:
                by_group.setdefault(shard_group(h.whole.parameter), []).append(h)
        self.owners = [Owners(matrices, group) for group, matrices in by_group.items()]

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0) -> None:
        """Update every matrix once at learning rate lr * lr_scale."""
        momentum = self.config.momentum_at(self.num_steps)
        wanted = {h.whole.name: self._averaged(h, momentum) for h in self.held}
        whole = {h.whole.name: wanted[h.whole.name] for h in self.held if h.has_whole_matrices}
        claims = {h.whole.name: h for h in self.held}
        for owners in self.owners:
            whole |= owners.gather(wanted)
        directions = self._orthogonal({claims[name]: tensor for name, tensor in whole.items()})
        parts = dict(directions)
        for owners in self.owners:
            parts |= owners.scatter(directions, wanted)
        for h in self.held:
            lr = self.config.lr_of(h.whole.rule) * lr_scale
            if h.whole.rule.decay and self.config.weight_decay:
                h.local.mul_(1.0 - lr * self.config.weight_decay)
            factor = self.config.factor(*h.matrix_shape)
            h.local.add_(parts[h.whole.name], alpha=-lr * factor)
        self.num_steps += 1

    def _averaged(self, held: Held, momentum: float) -> Tensor:
        """Return the gradient, averaged over steps; a missing one is zero."""
        grad = held.local.grad
        update = torch.zeros_like(held.local) if grad is None else grad.float()
        average = self.averages.get(held.whole.name)
        if average is None:
            return update
        wide = average.float().lerp(update, 1.0 - momentum)
        average.copy_(wide)
        return update.lerp(wide, momentum) if self.config.nesterov else wide

    def _orthogonal(self, whole: dict[Held, Tensor]) -> dict[str, Tensor]:
        """Orthogonalize all matrices of one shape together."""
        by_shape: dict[tuple[int, int], list[Held]] = {}
        for held in whole:
            by_shape.setdefault(held.matrix_shape, []).append(held)
        out: dict[str, Tensor] = {}
        for matrices in by_shape.values():
            stacks = [h.whole.matrices(whole[h].contiguous()) for h in matrices]
            done_NIO = newton_schulz(
                torch.cat(stacks), self.config.num_ns_steps, self.config.arithmetic
            )
            done_parts = torch.split(done_NIO, [len(stack) for stack in stacks])
            for h, done in zip(matrices, done_parts, strict=True):
                out[h.whole.name] = done.reshape(whole[h].shape)
        return out

    def state_dict(self) -> dict[str, Tensor]:
        """Return this rank's part of Muon's state, under the names of one process."""
        state = {"step": torch.tensor(self.num_steps)}
        return state | {f"{name}/momentum": tensor for name, tensor in self.averages.items()}


class DividedOptimizers(Optimizers):
    """One optimizer for a divided model; the clip is by the norm over all ranks."""

    def __init__(self, model: Zaya, config: OptimConfig, replica: dist.ProcessGroup) -> None:
        self.config = config
        self.claims = []
        self.masters = []
        self.replica = replica
        self.whole = claim_parameters(model.named_parameters())
        held: list[Held] = []
        self.adamw_claims = []
        for claim in self.whole:
            local = nn.Parameter(local_of(claim.parameter.detach()))
            own = Claim(claim.name, local, claim.rule)
            self.claims.append(own)
            if claim.rule.owner == "muon":
                axis = axis_of(claim.parameter)
                held.append(Held(claim, local, axis, part_sizes(claim.parameter)))
            else:
                self.adamw_claims.append(own)
        self.muon = DividedMuon(held, config.muon)
        self.adamw = build_adamw(self.adamw_claims, config)

    @torch.no_grad()
    def grad_norm(self) -> float:
        """Return the norm of all gradients of all ranks; also hands them to the local parts."""
        for whole, own in zip(self.whole, self.claims, strict=True):
            grad = whole.parameter.grad
            own.parameter.grad = None if grad is None else local_of(grad)
        grads = [c.parameter.grad for c in self.claims if c.parameter.grad is not None]
        total = torch.zeros((), dtype=torch.float64, device=self.claims[0].parameter.device)
        for norm in torch._foreach_norm(grads) if grads else []:
            total += norm.double().square()
        # A replica has every value once, and all replicas have the same gradients.
        dist.all_reduce(total, group=self.replica)
        return math.sqrt(float(total))

    def zero_grad(self) -> None:
        """Forget all gradients, here and in the model."""
        super().zero_grad()
        for claim in self.whole:
            claim.parameter.grad = None
