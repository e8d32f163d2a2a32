"""Expert parallelism: every rank holds some experts of a layer, and tokens travel to them.

Paper: the base run needed none; here it is for models whose experts outgrow a node.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from openzaya.core.errors import ConfigError
from openzaya.model.experts import Experts
from openzaya.model.lora import EXPERTS
from openzaya.model.rows import put_rows, take_rows
from openzaya.train.distributed.exchange import exchange_counts, exchange_rows


class TravellingExperts(Experts):
    """The experts of one rank; rows of the others are fetched, served and sent back.

    Its parameters keep their names and hold the rank's experts only.
    """

    group: dist.ProcessGroup
    num_ranks: int
    are_elsewhere = True

    def takes_weights(self, x_ND: Tensor) -> bool:
        """Return False: gates stay with the tokens and do not travel."""
        del x_ND
        return False

    def forward(self, x_ND: Tensor, counts: list[int], weight_N: Tensor | None = None) -> Tensor:
        """Apply expert e of all to the next `counts[e]` rows, wherever it is.

        The counts go first, so each rank knows what will arrive; a rank may get nothing.
        """
        assert weight_N is None, "see takes_weights"
        counts_RE = torch.tensor(counts, device=x_ND.device).view(self.num_ranks, -1)
        arriving_RE = exchange_counts(counts_RE, self.group)
        sends: list[int] = counts_RE.sum(dim=1).tolist()
        receives: list[int] = arriving_RE.sum(dim=1).tolist()
        rows_GD = exchange_rows(x_ND, sends, receives, self.group)
        order_G = by_expert(arriving_RE)
        # Stored by sender, wanted by expert.
        out_GD = super().forward(take_rows(rows_GD, order_G), arriving_RE.sum(dim=0).tolist())
        back_GD = put_rows(out_GD, order_G, out_GD.shape[0])
        return exchange_rows(back_GD, receives, sends, self.group)


def by_expert(counts_RE: Tensor) -> Tensor:
    """Return the order that sorts rows, stored by sender and then expert, by expert alone."""
    ranks, experts = counts_RE.shape
    expert_N = torch.arange(experts, device=counts_RE.device).repeat(ranks)
    return torch.argsort(expert_N.repeat_interleave(counts_RE.flatten()), stable=True)


def divide_experts(experts: Experts, group: dist.ProcessGroup) -> None:
    """Keep this rank's part of a layer's experts and let tokens travel to the others.

    Adapters of the stacks are divided with them. Raises ConfigError unless every rank gets equally
    many.
    """
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    total = experts.gate_up_proj.shape[0]
    if total % ranks:
        raise ConfigError(
            f"{total} experts cannot be divided over ep = {ranks} ranks; choose a divisor"
        )
    own = slice(rank * (total // ranks), (rank + 1) * (total // ranks))
    adapters = {}
    for name in EXPERTS:
        if parametrize.is_parametrized(experts, name):
            (adapters[name],) = experts.parametrizations[name]  # type: ignore[index]
            parametrize.remove_parametrizations(experts, name, leave_parametrized=False)
        _keep(experts, name, own)
    # The class changes and not the module, so that parameters keep their names.
    experts.__class__ = TravellingExperts
    assert isinstance(experts, TravellingExperts)
    experts.group, experts.num_ranks = group, ranks
    for name, adapter in adapters.items():
        for factor in ("lora_a", "lora_b"):
            _keep(adapter, factor, own)
        parametrize.register_parametrization(experts, name, adapter)


def _keep(module: nn.Module, name: str, own: slice) -> None:
    """Let a stack be a part of itself."""
    stack = getattr(module, name)
    setattr(module, name, nn.Parameter(stack.detach()[own].clone(), stack.requires_grad))
