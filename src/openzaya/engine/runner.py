"""The forward passes of one step: pieces of prompts, and one token for each decoding slot."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openzaya.engine.passes import Experts, Kernels, make_pass
from openzaya.engine.prefill import Chunk
from openzaya.engine.sampling import Draw, Part, sample
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

    def draw(self, logits_BV: Tensor, uniforms: npt.NDArray[np.float32], part: Part) -> Draw:
        """Draw the token of every row, by the pass's own kernel if that can; see `sample`."""
        batch, forced = part.batch, part.forced
        fast = self._pass.draw(logits_BV, uniforms, batch) if part.by_kernel else None
        if fast is not None:
            return Draw(*fast, logits_BV, batch.temperature_B1)
        uniforms_B = torch.from_numpy(uniforms).to(logits_BV.device)
        forced_B = None if forced is None else torch.from_numpy(forced).to(logits_BV.device)
        return sample(logits_BV, uniforms_B, batch, forced_B)
