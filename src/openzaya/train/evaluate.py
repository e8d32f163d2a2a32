"""The loss on held-out windows, by source; no gradients, nothing counted for the balancer."""

from collections.abc import Sequence

import torch

from openzaya.core.log import declare
from openzaya.data.windows import Window
from openzaya.model.zaya import Zaya
from openzaya.train.batch import Batch, split_windows
from openzaya.train.loss import chunked_cross_entropy

declare("eval/loss", "nats/token", "sum of held-out token losses / trained tokens")


@torch.no_grad()
def held_out_loss(model: Zaya, windows: Sequence[Window], micro_tokens: int) -> dict[str, float]:
    """Return {"eval/loss": mean loss of the trained tokens}; the model's mode is left as it was."""
    total, weight = 0.0, 0.0
    was_training = model.training
    model.eval()
    for part in split_windows(windows, micro_tokens):
        batch = Batch.from_windows(part, model.device)
        trunk = model.trunk(batch.ids_T, lengths=batch.lengths)
        loss, _ = chunked_cross_entropy(
            trunk.hidden_TD,
            model.embed_tokens.weight,
            batch.targets_T,
            batch.weights_T,
            kept_M=batch.kept_M,
        )
        total += float(loss)
        weight += batch.total_weight
    model.train(was_training)
    return {"eval/loss": total / max(1.0, weight)}
