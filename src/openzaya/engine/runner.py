"""The forward passes of one step: pieces of prompts, and one token for each decoding slot."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from openzaya.engine.passes import Experts, Kernels, make_pass
from openzaya.engine.prefill import Chunk
from openzaya.model.quantized import QuantizedZaya
from openzaya.model.zaya import Zaya


class Runner:
    """Runs the model over cache slots; knows nothing of requests."""

    def __init__(
        self,
        model: Zaya | QuantizedZaya,
        num_slots: int,
        max_tokens: int,
        *,
        kernels: Kernels = "auto",
        num_blocks: Mapping[str, int] | None = None,
    ) -> None:
        self._pass = make_pass(model, num_slots, max_tokens, kernels, num_blocks)
        self.device = self._pass.device
        self.cache = self._pass.cache
        self.draw = self._pass.draw
        self._ones = [1] * num_slots
        self._slots = list(range(num_slots))

    def refresh(self) -> None:
        """Take notice of changed weights."""
        self._pass.refresh()

    def prefill(self, chunks: list[Chunk]) -> tuple[Tensor, Experts]:
        """Compute pieces of prompts into their slots.

        Returns the logits [N, V] after each piece that ends its prompt, in order, and the experts
        [T, L] of all pieces, packed.
        """
        pieces = [c.prefill.tokens[c.start : c.start + c.length] for c in chunks]
        lengths = [c.length for c in chunks]
        last = np.cumsum(lengths) - 1
        logits_NV, experts = self._pass.run(
            np.concatenate(pieces),
            lengths,
            [c.prefill.slot for c in chunks],
            last[[c.ends_prompt for c in chunks]],
            want_experts=True,
        )
        assert experts is not None
        return logits_NV, experts

    def decode(
        self, tokens: npt.NDArray[np.int64], want_experts: bool
    ) -> tuple[Tensor, Experts | None]:
        """Feed one token to each of the first slots.

        Returns the logits [B, V] and the experts [B, L] of these tokens (None if not wanted).
        """
        count = len(tokens)
        return self._pass.run(
            tokens,
            self._ones[:count],
            self._slots[:count],
            np.arange(count),
            want_experts=want_experts,
        )
