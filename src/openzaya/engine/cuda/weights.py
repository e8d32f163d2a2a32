"""The weights of a model as the kernels want them.

Most are the model's own tensors. Copies are made where one launch should read what the model keeps
apart, or in another order: the four projections of CCA as one matrix, the taps of its second
convolution as two, a residual scaling as one block of vectors. They are refreshed in place, so that
a captured graph goes on reading the right memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openzaya.model.block import Block
from openzaya.model.experts import Experts
from openzaya.model.norm import RMSNorm
from openzaya.model.precision import is_low
from openzaya.model.residual import ResidualScaling
from openzaya.model.rope import rope_tables
from openzaya.model.zaya import Zaya

MAX_TICKETS = 128
"""Most rows of a launch whose programs must know which of them is the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """An RMSNorm."""

    weight_D: Tensor
    """Scale of every channel."""
    eps: float
    """Added to the mean square."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """A residual scaling: bias and scale of the branch, then of the stream."""

    vectors_4D: Tensor
    """The four vectors in fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CCAWeights:
    """What turns a normed row into queries, keys and values."""

    qkv_ND: Tensor
    """Query, key, current value and delayed value projections; N = C + W."""
    depthwise_C2: Tensor
    """Older and newer tap of the first convolution."""
    shift_C: Tensor
    """Its bias."""
    taps_2CP: Tensor
    """Older and newer tap of the second convolution: output channel by input channel."""
    bias_C: Tensor
    """Its bias."""
    temp_K: Tensor
    """Key temperatures."""
    eps: float
    """Least length of a query or key."""
    output_DA: Tensor
    """Output projection; A = H * P."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterWeights:
    """What turns a normed row into a choice."""

    down_RD: Tensor
    """Projection to the latent state."""
    down_bias_R: Tensor
    """Its bias."""
    average_R: Tensor | None
    """Scale of the layer before's state; None in the first layer."""
    norm: Norm
    """Norm of the state."""
    fc1_RR: Tensor
    """First matrix of the MLP."""
    fc1_bias_R: Tensor
    """Its bias."""
    fc2_RR: Tensor
    """Second matrix of the MLP."""
    fc2_bias_R: Tensor
    """Its bias."""
    out_XR: Tensor
    """Scores of the classes."""
    balance_X: Tensor
    """Balancing biases, fp32."""
    tickets_M: Tensor
    """Zeros by which the programs of a launch find out which of them is the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertWeights:
    """The experts of one layer."""

    gate_up_EGD: Tensor
    """Gate rows, then input rows; G = 2F."""
    down_EDF: Tensor
    """Output matrices."""
    module: Experts
    """The same as a module, for devices and dtypes without a grouped product."""
    identity_skip: bool
    """A skipped token adds its gate times the layer's input instead of nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One layer."""

    kind: str
    """Layer type."""
    window: int | None
    """Tokens a sliding layer sees."""
    norm_in: Norm
    """Before attention."""
    cca: CCAWeights
    """Attention."""
    after_attention: Scaling
    """Where attention meets the stream."""
    norm_post: Norm
    """Before the experts."""
    router: RouterWeights
    """The choice of an expert."""
    experts: ExpertWeights
    """The experts."""
    after_experts: Scaling
    """Where the experts meet the stream."""


class Weights:
    """All layers, the final norm, the head and the rotary tables of a model."""

    def __init__(self, model: Zaya, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._addresses = _addresses(model)
        self.layers = [_layer(block) for block in blocks_of(model)]
        self.norm = _norm(model.norm)
        self.head_VD = model.embed_tokens.weight.detach()
        self.rope = self._make_rope()
        """Cos and sin of every position and frequency, [max_tokens, rotary / 2], by layer type."""

    def refresh(self) -> bool:
        """Bring the copies up to date; False if the model's tensors moved, so all is to be redone.

        In that case nothing was changed here.
        """
        if _addresses(self._model) != self._addresses:
            return False
        for block, layer in zip(blocks_of(self._model), self.layers, strict=True):
            layer.cca.qkv_ND.copy_(_qkv(block))
            layer.cca.taps_2CP.copy_(_taps(block))
            layer.after_attention.vectors_4D.copy_(_vectors(block.post_attention_residual_scale))
            layer.after_experts.vectors_4D.copy_(_vectors(block.post_mlp_residual_scale))
        for kind, tables in self._make_rope().items():
            for own, new in zip(self.rope[kind], tables, strict=True):
                own.copy_(new)
        return True

    def _make_rope(self) -> dict[str, tuple[Tensor, Tensor]]:
        positions_N = torch.arange(self._max_tokens, device=self._model.device)
        rotary_dim = self._model.config.rotary_dim
        return {
            kind: rope_tables(positions_N, theta, rotary_dim)
            for kind, theta in self._model.rope_thetas.items()
        }


def blocks_of(model: Zaya) -> list[Block]:
    """Return the layers with their type."""
    return [block for block in model.layers if isinstance(block, Block)]


def _addresses(model: Zaya) -> list[int]:
    return [x.data_ptr() for x in model.state_dict().values()]


def _norm(norm: RMSNorm) -> Norm:
    return Norm(weight_D=norm.weight.detach(), eps=norm.eps)


def _vectors(scaling: ResidualScaling) -> Tensor:
    vectors = (
        scaling.hidden_states_bias,
        scaling.hidden_states_scale,
        scaling.residual_bias,
        scaling.residual_scale,
    )
    return torch.stack(vectors).detach().float()


def _qkv(block: Block) -> Tensor:
    cca = block.self_attn.qkv_proj
    parts = (cca.q_proj, cca.k_proj, cca.v_proj_current, cca.v_proj_delayed)
    return torch.cat([part.weight.detach() for part in parts])


def _taps(block: Block) -> Tensor:
    weight_CP2 = block.self_attn.qkv_proj.conv_qk_grouped.weight.detach()
    return weight_CP2.permute(2, 0, 1).contiguous()


def _cca(block: Block) -> CCAWeights:
    attention = block.self_attn
    first, second = attention.qkv_proj.conv_qk_depthwise, attention.qkv_proj.conv_qk_grouped
    temp_K = attention.qk_norm.temp.detach()
    rounds = is_low(temp_K.dtype) and not attention.rules.fp32_cca
    return CCAWeights(
        qkv_ND=_qkv(block),
        depthwise_C2=first.weight.detach().squeeze(1),
        shift_C=first.bias.detach(),
        taps_2CP=_taps(block),
        bias_C=second.bias.detach(),
        temp_K=temp_K,
        eps=torch.finfo(temp_K.dtype if rounds else torch.float32).eps,
        output_DA=attention.o_proj.weight.detach(),
    )


def _router(block: Block) -> RouterWeights:
    router = block.mlp.gate
    mlp = router.router_mlp
    tickets_M = torch.zeros(MAX_TICKETS, dtype=torch.int32, device=mlp.fc1.weight.device)
    return RouterWeights(
        down_RD=router.down_proj.weight.detach(),
        down_bias_R=router.down_proj.bias.detach(),
        average_R=router.router_states_scale.detach() if router.averages else None,
        norm=_norm(mlp.norm),
        fc1_RR=mlp.fc1.weight.detach(),
        fc1_bias_R=mlp.fc1.bias.detach(),
        fc2_RR=mlp.fc2.weight.detach(),
        fc2_bias_R=mlp.fc2.bias.detach(),
        out_XR=mlp.out_proj.weight.detach(),
        balance_X=router.balancing_biases.detach(),
        tickets_M=tickets_M,
    )


def _layer(block: Block) -> LayerWeights:
    mixture = block.mlp
    return LayerWeights(
        kind=block.self_attn.kind,
        window=block.self_attn.window,
        norm_in=_norm(block.input_layernorm),
        cca=_cca(block),
        after_attention=Scaling(vectors_4D=_vectors(block.post_attention_residual_scale)),
        norm_post=_norm(block.post_attention_layernorm),
        router=_router(block),
        experts=ExpertWeights(
            gate_up_EGD=mixture.experts.gate_up_proj.detach(),
            down_EDF=mixture.experts.down_proj.detach(),
            module=mixture.experts,
            identity_skip=mixture.identity_skip,
        ),
        after_experts=Scaling(vectors_4D=_vectors(block.post_mlp_residual_scale)),
    )
