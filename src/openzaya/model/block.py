"""One decoder layer: attention, then a mixture of experts, each scaled into the stream.

Paper: II.
"""

from torch import Tensor, nn

from openzaya.model.attention import Attention
from openzaya.model.cache import Cache
from openzaya.model.config import ZayaConfig
from openzaya.model.experts import MixtureOfExperts
from openzaya.model.fused.block import decoder_layer
from openzaya.model.fused.layout import Packed
from openzaya.model.norm import RMSNorm
from openzaya.model.plan import Plan
from openzaya.model.precision import rules_of
from openzaya.model.residual import ResidualScaling
from openzaya.model.router import Routing


class Block(nn.Module):
    """A decoder layer; the stream it carries is fp32 whatever the weights are.

    Paper: II.
    """

    def __init__(self, config: ZayaConfig, layer: int) -> None:
        """Make layer number `layer`."""
        super().__init__()
        rules = rules_of(config.precision)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps, rules)
        self.self_attn = Attention(config, layer)
        self.post_attention_residual_scale = ResidualScaling(width, rules)
        self.post_attention_layernorm = RMSNorm(width, eps, rules)
        self.mlp = MixtureOfExperts(config, layer)
        self.post_mlp_residual_scale = ResidualScaling(width, rules)

    def forward(
        self,
        x_TD: Tensor,
        previous_TR: Tensor | None,
        replay_T: Tensor | None,
        plan: Plan | Packed,
        cache: Cache | None,
    ) -> tuple[Tensor, Routing]:
        """Return the stream after this layer, and its routing.

        A `Packed` plan, which goes with no cache, takes the fused way.
        """
        if isinstance(plan, Packed):
            return decoder_layer(self, x_TD, previous_TR, replay_T, plan)
        attended_TD = self.self_attn(self.input_layernorm(x_TD), plan, cache)
        x_TD = self.post_attention_residual_scale(attended_TD, x_TD)
        h_TD = self.post_attention_layernorm(x_TD)
        mixed_TD, routing = self.mlp(h_TD, previous_TR, replay_T)
        return self.post_mlp_residual_scale(mixed_TD, x_TD), routing
