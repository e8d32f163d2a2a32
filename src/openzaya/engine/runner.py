"""The forward passes of one step: pieces of prompts, and one token for each decoding slot."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.prefill import Chunk
from openzaya.model.cache import Cache
from openzaya.model.zaya import Zaya


class Runner:
    """Runs the model over cache slots; knows nothing of requests."""

    def __init__(
        self,
        model: Zaya,
        num_slots: int,
        max_tokens: int,
        num_blocks: Mapping[str, int] | None = None,
    ) -> None:
        weight = next(model.parameters())
        self.device = weight.device
        self.cache = Cache(
            model.config, num_slots, max_tokens, weight.dtype, weight.device, num_blocks=num_blocks
        )
        self.model = model
        self._ones = [1] * num_slots
        self._slots = list(range(num_slots))

    def prefill(self, chunks: list[Chunk]) -> tuple[Tensor, npt.NDArray[np.uint8]]:
        """Compute pieces of prompts into their slots.

        Returns the logits [N, V] after each piece that ends its prompt, in order, and the experts
        [T, L] of all pieces, packed.
        """
        pieces = [c.prefill.tokens[c.start : c.start + c.length] for c in chunks]
        lengths = [c.length for c in chunks]
        ids_T = torch.from_numpy(np.concatenate(pieces)).to(self.device)
        trunk = self.model.trunk(
            ids_T, lengths=lengths, cache=self.cache, slots=[c.prefill.slot for c in chunks]
        )
        last = np.cumsum(lengths) - 1
        ends_N = torch.from_numpy(last[[c.ends_prompt for c in chunks]]).to(self.device)
        return self.model.head(trunk.hidden_TD[ends_N]), narrow(trunk.experts_TL)

    def decode(
        self, tokens: npt.NDArray[np.int64], want_experts: bool
    ) -> tuple[Tensor, npt.NDArray[np.uint8] | None]:
        """Feed one token to each of the first slots.

        Returns the logits [B, V] and the experts [B, L] of these tokens (None if not wanted).
        """
        count = len(tokens)
        ids_T = torch.from_numpy(tokens).to(self.device)
        trunk = self.model.trunk(
            ids_T, lengths=self._ones[:count], cache=self.cache, slots=self._slots[:count]
        )
        experts = narrow(trunk.experts_TL) if want_experts else None
        return self.model.head(trunk.hidden_TD), experts


def narrow(experts_TL: Tensor) -> npt.NDArray[np.uint8]:
    """Return expert ids as bytes on the host; the engine admits at most 255 experts."""
    narrowed: npt.NDArray[np.uint8] = experts_TL.to(torch.uint8).cpu().numpy()
    return narrowed
