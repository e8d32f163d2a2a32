"""Muon for stacks: one batched Newton-Schulz call for all matrices of one shape.

Letters: N matrices of one shape, I rows, O columns.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.optim.groups import Claim
from openzaya.optim.newton_schulz import STEPS, newton_schulz

UpdateScale = Literal["match_rms_adamw", "none"]

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
    scale: UpdateScale = "match_rms_adamw"
    """match_rms_adamw multiplies by 0.2 * sqrt(max(rows, columns)); none leaves norm-1 updates."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices, multiplied by the learning rate."""

    def __post_init__(self) -> None:
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum}; choose it in [0, 1) or none")
        if self.lr < 0 or self.weight_decay < 0:
            raise ConfigError(
                f"lr is {self.lr} and weight_decay {self.weight_decay}; neither may be negative"
            )

    def momentum_at(self, step: int) -> float:
        """Return the momentum of optimizer step `step`, counted from 0; 0 for momentum none."""
        if self.momentum is None:
            return 0.0
        if step >= self.momentum_warmup_steps:
            return self.momentum
        share = step / self.momentum_warmup_steps
        return self.momentum_start + share * (self.momentum - self.momentum_start)

    def factor(self, rows: int, columns: int) -> float:
        """Return what a matrix update is multiplied by, beside the learning rate."""
        return ADAMW_RMS * float(max(rows, columns)) ** 0.5 if self.scale != "none" else 1.0


class ShapeGroup:
    """All matrices of one shape on one device; their momentum is one tensor [N, I, O]."""

    def __init__(self, claims: list[Claim], has_momentum: bool) -> None:
        self.claims = claims
        first = claims[0].matrices(claims[0].parameter)
        self.counts = [claim.matrices(claim.parameter).shape[0] for claim in claims]
        self.rows, self.columns = first.shape[1], first.shape[2]
        self.decay = claims[0].rule.decay
        self.momentum_NIO: Tensor | None = None
        if has_momentum:
            shape = (sum(self.counts), self.rows, self.columns)
            self.momentum_NIO = torch.zeros(shape, dtype=torch.float32, device=first.device)

    def gradient(self) -> Tensor:
        """Return all gradients as one stack [N, I, O]; a missing gradient is zero."""
        parts = []
        for claim in self.claims:
            grad = claim.parameter.grad
            known = torch.zeros_like(claim.parameter) if grad is None else grad
            parts.append(claim.matrices(known.contiguous()).float())
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def weights(self) -> list[Tensor]:
        """Return the parameters as writable views [n, I, O], in the order of the stack."""
        return [claim.matrices(claim.parameter.detach()) for claim in self.claims]


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
        by_shape: dict[tuple[object, ...], list[Claim]] = {}
        for claim in claims:
            shape = claim.matrices(claim.parameter).shape[1:]
            key = (*shape, claim.parameter.device, claim.rule.decay)
            by_shape.setdefault(key, []).append(claim)
        has_momentum = config.momentum is not None
        self.groups = [ShapeGroup(members, has_momentum) for members in by_shape.values()]

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0) -> None:
        """Update every matrix once at learning rate lr * lr_scale."""
        lr = self.config.lr * lr_scale
        momentum = self.config.momentum_at(self.num_steps)
        for group in self.groups:
            update_NIO = group.gradient()
            if group.momentum_NIO is not None:
                group.momentum_NIO.lerp_(update_NIO, 1.0 - momentum)
                if self.config.nesterov:
                    update_NIO = update_NIO.lerp(group.momentum_NIO, momentum)
                else:
                    update_NIO = group.momentum_NIO
            update_NIO = newton_schulz(update_NIO, self.config.num_ns_steps)
            weights = group.weights()
            if group.decay and self.config.weight_decay:
                torch._foreach_mul_(weights, 1.0 - lr * self.config.weight_decay)
            factor = self.config.factor(group.rows, group.columns)
            updates = list(torch.split(update_NIO, group.counts))
            torch._foreach_add_(weights, updates, alpha=-lr * factor)
        self.num_steps += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return {"step": ..., "<parameter>/momentum": ...}; the tensors are views, not copies."""
        state = {"step": torch.tensor(self.num_steps)}
        for group in self.groups:
            if group.momentum_NIO is None:
                continue
            parts = torch.split(group.momentum_NIO, group.counts)
            for claim, part in zip(group.claims, parts, strict=True):
                state[f"{claim.name}/momentum"] = part.view(claim.parameter.shape)
        return state

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


def check_same_names(what: str, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless both states have the same keys."""
    missing, extra = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    if missing or extra:
        raise CheckpointError(
            f"{what} state does not fit the model: missing {missing[:3]}, unknown {extra[:3]}; "
            "resume with the model and the optimizer settings it was saved from"
        )
