"""One optimizer for a whole model: Muon for matrices, AdamW for the rest, one clip over both."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.optim.groups import RULES, Claim, Rule, claim_parameters
from openzaya.optim.muon import Muon, MuonConfig, check_same_names

Masters = Literal["all", "adamw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Settings of both optimizers.

    Paper: IV-B1(e) names the split; the constants are ours where it is silent.
    """

    muon: MuonConfig = field(default_factory=MuonConfig)
    """Constants of Muon, which owns the matrices."""
    lr_adamw: float = 4e-4
    """Peak learning rate of AdamW: embedding, vectors, depthwise taps."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's two averages."""
    eps: float = 1e-8
    """AdamW's guard against division by zero."""
    clip_norm: float = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""
    masters: Masters = "all"
    """Weights below fp32 that get an fp32 copy to move: all, or only AdamW's, which leaves Muon's
    matrices in bf16 with updates rounded at random: a third of the memory. Deviation: D-042."""

    def __post_init__(self) -> None:
        if self.clip_norm <= 0 or self.lr_adamw < 0:
            raise ConfigError(
                f"clip_norm is {self.clip_norm} and lr_adamw {self.lr_adamw}; "
                "choose clip_norm > 0 (inf = never clip) and lr_adamw >= 0"
            )
        if self.eps <= 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"betas are {self.betas} and eps is {self.eps}; choose betas in [0, 1) and eps > 0"
            )


class Optimizers:
    """Steps, clips, skips and saves; keyed by parameter names throughout.

    Parameters below fp32 get fp32 masters: an RL step of 1e-6 is far below what bf16 resolves.
    Masters are copied from the model when this object is made, so load weights first.
    """

    def __init__(self, claims: list[Claim], config: OptimConfig) -> None:
        self.config = config
        self.claims = claims
        self.masters: list[tuple[Claim, nn.Parameter]] = []
        owned = [self._with_master(claim) for claim in claims]
        self.muon = Muon([claim for claim in owned if claim.rule.owner == "muon"], config.muon)
        self.adamw_claims = [claim for claim in owned if claim.rule.owner == "adamw"]
        self.adamw = build_adamw(self.adamw_claims, config) if self.adamw_claims else None

    def _with_master(self, claim: Claim) -> Claim:
        """Return the claim on the tensor to optimize: the parameter or its fp32 master."""
        leaves = self.config.masters == "adamw" and claim.rule.owner == "muon"
        if claim.parameter.dtype == torch.float32 or leaves:
            return claim
        master = nn.Parameter(claim.parameter.detach().float())
        self.masters.append((claim, master))
        return Claim(claim.name, master, claim.rule, source=claim.parameter)

    @torch.no_grad()
    def grad_norm(self) -> float:
        """Return the norm of all gradients together; nan or inf when any is not finite."""
        grads = [c.parameter.grad for c in self.claims if c.parameter.grad is not None]
        if not grads:
            return 0.0
        norms = torch._foreach_norm(grads)
        return float(torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms])))

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0, grad_norm: float | None = None) -> float:
        """Clip and apply the gradients; return their norm before clipping.

        Nothing changes when the norm is not finite. `grad_norm` spares computing it again.
        """
        norm = self.grad_norm() if grad_norm is None else grad_norm
        if not math.isfinite(norm):
            return norm
        if norm > self.config.clip_norm:
            grads = [c.parameter.grad for c in self.claims if c.parameter.grad is not None]
            torch._foreach_mul_(grads, self.config.clip_norm / norm)
        self.muon.step(lr_scale)
        if self.adamw is not None:
            for claim in self.adamw_claims:
                if claim.source is not None:
                    claim.parameter.grad = None if claim.grad is None else claim.grad.float()
            for group in self.adamw.param_groups:
                group["lr"] = self.config.lr_adamw * lr_scale
            self.adamw.step()
        for claim, master in self.masters:
            claim.parameter.copy_(master)
            master.grad = None
        return norm

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for claim in self.claims:
            claim.parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return flat names like "muon/<parameter>/momentum"; tensors are views where possible."""
        state = {f"muon/{key}": value for key, value in self.muon.state_dict().items()}
        for claim in self.adamw_claims:
            for key, value in self._adamw_state(claim).items():
                state[f"adamw/{claim.name}/{key}"] = value
        state |= {f"master/{claim.name}": master.detach() for claim, master in self.masters}
        return state

    def _adamw_state(self, claim: Claim) -> dict[str, Any]:
        """Return AdamW's own state of one parameter, made of zeros before the first step."""
        assert self.adamw is not None, "only called for AdamW's parameters"
        state: dict[str, Any] = self.adamw.state[claim.parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=claim.parameter.device)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(claim.parameter, memory_format=torch.preserve_format)
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state in; raise CheckpointError when it does not fit the model."""
        mine = self.state_dict()
        check_same_names("optimizer", mine, state)
        prefix = "muon/"
        muon_state = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        self.muon.load_state_dict(muon_state)
        for name, tensor in mine.items():
            if name.startswith(prefix):
                continue
            if tensor.shape != state[name].shape:
                raise CheckpointError(
                    f"optimizer state {name!r} has shape {tuple(state[name].shape)}, but the model "
                    f"needs {tuple(tensor.shape)}; resume with the model it was saved from"
                )
            tensor.copy_(state[name])


def build_adamw(claims: list[Claim], config: OptimConfig) -> torch.optim.AdamW:
    """Return torch's fused AdamW over the claims; only rules with decay are decayed."""
    groups = [
        {
            "params": [claim.parameter for claim in claims if claim.rule.decay == decay],
            "weight_decay": config.muon.weight_decay if decay else 0.0,
        }
        for decay in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr_adamw,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def build_optimizer(
    model: nn.Module | Iterable[tuple[str, nn.Parameter]],
    config: OptimConfig | None = None,
    rules: tuple[Rule, ...] = RULES,
) -> Optimizers:
    """Return the optimizer of a model (or of named parameters) with every parameter claimed once.

    Raises ConfigError for a parameter that no rule claims.
    """
    named = model.named_parameters() if isinstance(model, nn.Module) else model
    return Optimizers(claim_parameters(named, rules), config or OptimConfig())
