"""The loss on held-out windows; no gradients, nothing counted for the balancer."""

import logging
from collections.abc import Sequence

import torch

from openzaya.core.log import declare
from openzaya.data.windows import Window
from openzaya.model.zaya import Zaya
from openzaya.train.loss import chunked_cross_entropy
from openzaya.train.parallel import ALONE, Parallel

log = logging.getLogger(__name__)

declare("eval/loss", "nats/token", "sum of held-out token losses / trained tokens")


@torch.no_grad()
def held_out_loss(
    model: Zaya, windows: Sequence[Window], micro_tokens: int, parallel: Parallel = ALONE
) -> dict[str, float]:
    """Return {"eval/loss": mean loss of the trained tokens}; the model's mode is left as it was.

    `windows` are those of all ranks, and every rank has to call it. Where no token is trained there
    is no loss: the log says so and the result is empty.
    """
    total, weight = 0.0, 0.0
    was_training = model.training
    model.eval()
    for batch in parallel.batches(windows, micro_tokens, model.device):
        loss, _ = chunked_cross_entropy(
            parallel.trunk(model, batch).hidden_TD,
            model.embed_tokens.weight,
            batch.targets_T,
            batch.weights_T,
            kept_M=batch.kept_M,
        )
        total += float(loss)
        weight += batch.total_weight
    parallel.release(model)
    model.train(was_training)
    total, weight = parallel.total(total), parallel.total(weight)
    if not weight:
        if parallel.is_first:
            log.warning("no token of the held-out windows is trained, so they have no loss")
        return {}
    return {"eval/loss": total / weight}
