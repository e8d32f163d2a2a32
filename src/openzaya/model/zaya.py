"""The ZAYA language model over packed token sequences.

Paper: II.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openzaya.core.errors import ConfigError, RequestError
from openzaya.model.block import Block
from openzaya.model.cache import Cache
from openzaya.model.config import ZayaConfig
from openzaya.model.fused.experts import reason_against_grouping
from openzaya.model.fused.layout import Packed, pack_layout
from openzaya.model.fused.native import rows
from openzaya.model.fused.native.library import library_name, reason_against_native
from openzaya.model.norm import RMSNorm
from openzaya.model.plan import Plan, check_lengths, make_plan
from openzaya.model.precision import is_low, rules_of
from openzaya.model.recompute import on_host, recomputed
from openzaya.model.router import SKIP_BIAS, Routing

HEAD_CHUNK_ROWS = 16_384
"""Vocabulary rows raised to fp32 at a time when a bf16 head must be computed in fp32."""
EMBEDDING_STD = 0.02
ROUTER_OUTPUT_FACTOR = 0.1
"""Scale of the router's last projection at the start: choices begin nearly uniform."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """What the layers make of the tokens."""

    hidden_TD: Tensor
    """After the final norm, ready for the head."""
    experts_TL: Tensor
    """Chosen class of every token and layer as int64; E means skip."""
    probs_TLX: Tensor | None = None
    """Probability of every class where the model `keeps_probs`, without gradient."""


class Zaya(nn.Module):
    """The ZAYA model; parameter names are those of transformers without the `model.` prefix.

    Sequences come packed, one after another, with their lengths; nothing leaks from one to the
    next. The head is the embedding.

    Paper: II.
    """

    input_hidden_states_scale: Tensor
    input_hidden_states_bias: Tensor

    def __init__(self, config: ZayaConfig) -> None:
        """Make the modules; call `init_weights` or load a checkpoint before use."""
        super().__init__()
        self.config = config
        self.rules = rules_of(config.precision)
        self.rope_thetas = config.rope_thetas
        self.embed_tokens = nn.Embedding(
            config.vocab_size,
            config.hidden_size,
            _weight=torch.empty(config.vocab_size, config.hidden_size),
        )
        self.input_hidden_states_scale = nn.Parameter(torch.ones(config.hidden_size))
        self.input_hidden_states_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, self.rules)
        self.fused: Literal["auto", "on", "off"] = "auto"
        """Train by the fused forward: on CUDA with the paper's fp32 set and on a CPU in fp32,
        always, or never. On a CPU it runs in our C++ where that compiles. Tokens that are laid
        out elsewhere (`trunk(layout=...)`) always take it."""
        self.recompute = False
        """Keep only the layers' inputs for the backward pass (activation checkpointing)."""
        self.offload = False
        """Keep what the backward pass needs of the layers in the host's memory."""
        self.keeps_probs = False
        """Return the routers' probabilities from `trunk` in training, where balancing uses them."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; balancing biases are always fp32."""
        return self.embed_tokens.weight.dtype

    def forward(self, ids_T: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Return the logits [T, V] of packed sequences; no lengths means one sequence."""
        return self.head(self.trunk(ids_T, lengths=lengths).hidden_TD)

    def trunk(
        self,
        ids_T: Tensor,
        lengths: Sequence[int] | None = None,
        cache: Cache | None = None,
        slots: list[int] | None = None,
        replay_TL: Tensor | None = None,
        layout: Packed | None = None,
    ) -> Trunk:
        """Run all layers over packed sequences.

        A `layout` that was made elsewhere takes the place of the lengths.

        With a cache, sequence i continues slot `slots[i]` (slot i by default) and the cache
        advances; this is for use without gradients. `replay_TL` fixes every token's choice in
        every layer (E means skip) while the gates stay live.

        Raises RequestError for lengths, slots, ids or a replay that do not fit.
        """
        known = check_lengths(lengths if layout is None else None, ids_T.shape[0])
        self._check_replay(replay_TL, ids_T.shape[0])
        if cache is not None and torch.is_grad_enabled():
            raise RequestError("a cache holds no gradients; call trunk under torch.no_grad()")
        chosen = None if cache is None else cache.select(slots, known)
        plan: Plan | Packed
        if layout is not None:
            plan = layout
        elif cache is None and self.takes_fused():
            plan = pack_layout(
                self.config, self.rope_thetas, known, self.device, native=self.has_native()
            )
        else:
            plan = make_plan(self.config, self.rope_thetas, known, self.device, chosen)
        native = isinstance(plan, Packed) and plan.native
        x_TD = self._embed_native(ids_T) if native else self.embed(ids_T)
        state_TR: Tensor | None = None
        choices: list[Tensor] = []
        probs: list[Tensor] = []
        with on_host(self.device, wanted=self.offload and torch.is_grad_enabled()):
            for index, block in enumerate(self._blocks()):
                replay_T = None if replay_TL is None else replay_TL[:, index].to(torch.int64)
                x_TD, routing = self._run(block, (x_TD, state_TR, replay_T), plan, cache)
                state_TR = routing.state_TR
                choices.append(routing.expert_T)
                if self.keeps_probs and torch.is_grad_enabled():
                    probs.append(routing.probs_TX)
        if cache is not None and chosen is not None:
            cache.advance(chosen, known)
        probs_TLX = torch.stack(probs, dim=1) if probs else None
        return Trunk(self.norm(x_TD), torch.stack(choices, dim=-1), probs_TLX)

    def _run(
        self,
        block: Block,
        inputs: tuple[Tensor, Tensor | None, Tensor | None],
        plan: Plan | Packed,
        cache: Cache | None,
    ) -> tuple[Tensor, Routing]:
        if not (self.recompute and torch.is_grad_enabled()):
            x_TD, routing = block(*inputs, plan, cache)
            return x_TD, routing
        return recomputed(lambda *parts: block(*parts, plan, None), *inputs)

    def takes_fused(self) -> bool:
        """Tell whether a forward pass without a cache goes the fused way now."""
        if self.fused == "auto":
            # The fused way rounds as the paper's set does, not as transformers does.
            fits = self.device.type == "cuda" and self.rules.fp32_cca
            fits = torch.is_grad_enabled() and (fits or self.has_native())
            return fits and not self.reason_against_fused()
        reason = self.reason_against_fused() if self.fused == "on" else ""
        if reason:
            raise ConfigError(f"the fused forward cannot run: {reason}; set fused to 'off'")
        return self.fused == "on"

    def has_native(self) -> bool:
        """Tell whether our C++ takes these weights; where it must, it compiles first (seconds)."""
        return not reason_against_native(self.dtype, self.device)

    def kernels_of_training(self) -> str:
        """Return a name for what computes the element-wise steps, which the last bits depend on.

        The loss takes our C++ also where the forward does not.
        """
        return library_name() if self.has_native() else "torch"

    def reason_against_fused(self) -> str:
        """Return why the fused forward cannot run on this device; "" when it can."""
        widths = [self.config.hidden_size, self.config.moe_intermediate_size]
        return reason_against_grouping(self.dtype, self.device, widths)

    def embed(self, ids_T: Tensor) -> Tensor:
        """Return the residual stream's start, fp32 for weights of coarser dtypes."""
        x_TD = F.embedding(ids_T, self.embed_tokens.weight)
        if self.rules.fp32_residual and is_low(x_TD.dtype):
            x_TD = x_TD.float()
        x_TD = (x_TD + self.input_hidden_states_bias) * self.input_hidden_states_scale
        return x_TD.float() if is_low(x_TD.dtype) else x_TD

    def _embed_native(self, ids_T: Tensor) -> Tensor:
        x_TD = F.embedding(ids_T, self.embed_tokens.weight)
        return rows.shift_and_scale(
            x_TD, self.input_hidden_states_bias, self.input_hidden_states_scale
        )

    def head(self, hidden_ND: Tensor) -> Tensor:
        """Return logits [N, V] of any N rows: the weight dtype, or fp32 for the paper's set."""
        weight_VD = self.embed_tokens.weight
        if not (self.rules.fp32_head and is_low(weight_VD.dtype)):
            return F.linear(hidden_ND.to(weight_VD.dtype), weight_VD)
        # In chunks: an fp32 copy of the whole 8B embedding would take 2.1 GB.
        wide_ND = hidden_ND.float()
        chunks = torch.split(weight_VD, HEAD_CHUNK_ROWS)
        return torch.cat([F.linear(wide_ND, chunk.float()) for chunk in chunks], dim=-1)

    def router_biases(self) -> list[Tensor]:
        """Return the balancing bias of each layer, [X] in fp32; changing them changes the model."""
        return [block.mlp.gate.balancing_biases for block in self._blocks()]

    def set_rope_theta(self, theta: float | Mapping[str, float]) -> None:
        """Change the rotary base of all layers, or of the layer types given.

        Raises ConfigError for a layer type that the model does not have.
        """
        wanted = theta if isinstance(theta, Mapping) else dict.fromkeys(self.rope_thetas, theta)
        for kind, value in wanted.items():
            if kind not in self.rope_thetas:
                raise ConfigError(
                    f"the model has no {kind!r} layers; its layer types are "
                    f"{', '.join(self.rope_thetas)}"
                )
            if value <= 0:
                raise ConfigError(f"rope theta of {kind!r} is {value}; it must be > 0")
        self.rope_thetas = {**self.rope_thetas, **{k: float(v) for k, v in wanted.items()}}

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw all parameters from `generator`.

        Matrices get 1/sqrt(fan in), output projections also 1/sqrt(2L), the embedding 0.02, the
        router's last projection a tenth. Scales and temperatures start at 1, biases and the depth
        average at 0, balancing biases at 0 and -1 for the skip class.

        Paper: II.
        Deviation: D-004.
        """
        depth_factor = 1 / math.sqrt(2 * self.config.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                one = name.endswith((".weight", "_scale", ".temp")) and not name.endswith(
                    "router_states_scale"
                )
                parameter.fill_(1.0 if one and not name.endswith(".bias") else 0.0)
                continue
            std = EMBEDDING_STD
            if name != "embed_tokens.weight":
                fan_in = math.prod(parameter.shape[1:])
                if name.startswith("layers.") and ".experts." in name:
                    fan_in = parameter.shape[-1]
                std = 1 / math.sqrt(fan_in)
            if name.endswith(("o_proj.weight", "experts.down_proj")):
                std *= depth_factor
            if name.endswith("router_mlp.out_proj.weight"):
                std *= ROUTER_OUTPUT_FACTOR
            parameter.normal_(0.0, std, generator=generator)
        if self.config.pad_token_id is not None and (
            0 <= self.config.pad_token_id < self.config.vocab_size
        ):
            self.embed_tokens.weight[self.config.pad_token_id] = 0
        for balance_X in self.router_biases():
            balance_X.zero_()
            balance_X[-1] = SKIP_BIAS

    def save(self, folder: str | Path) -> None:
        """Write a folder that `openzaya.load` and transformers read; see `save_model`."""
        from openzaya.model.checkpoint import save_model

        save_model(self, folder)

    def _blocks(self) -> list[Block]:
        return [block for block in self.layers if isinstance(block, Block)]

    def _check_replay(self, replay_TL: Tensor | None, num_tokens: int) -> None:
        if replay_TL is None:
            return
        expected = (num_tokens, self.config.num_hidden_layers)
        if tuple(replay_TL.shape) != expected:
            raise RequestError(
                f"replay has shape {tuple(replay_TL.shape)}; expected {expected}: one class per "
                "token and layer"
            )
        low, high = (int(bound) for bound in torch.aminmax(replay_TL))
        if low < 0 or high > self.config.num_experts:
            raise RequestError(
                f"replay has classes from {low} to {high}; experts are 0 to "
                f"{self.config.num_experts - 1} and {self.config.num_experts} means skip"
            )
