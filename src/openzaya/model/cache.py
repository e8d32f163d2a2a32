"""What a model remembers of each sequence: keys, values, and the tail that CCA looks back on.

Paper: II.
"""

import torch
from torch import Tensor

from openzaya.core.errors import RequestError
from openzaya.model.config import ZayaConfig
from openzaya.model.plan import LEAD, Slots
from openzaya.model.precision import PAPER, raise_to_fp32, rules_of


class Cache:
    """A fixed number of slots, each holding one sequence of up to `max_tokens` tokens.

    Per layer a slot holds rotated keys and values, the last two rows of projected queries and keys
    before the convolutions, and the delayed half of the last token's values. With the paper's
    precision the last two are kept in fp32.

    Paper: II; IV-D.
    """

    def __init__(
        self,
        config: ZayaConfig,
        num_slots: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reserve all memory at once; the operating system hands it out page by page on CPU.

        Raises RequestError for sizes below 1.
        """
        if num_slots < 1 or max_tokens < 1:
            raise RequestError(
                f"a cache of {num_slots} slots with {max_tokens} tokens holds nothing; both must "
                "be at least 1"
            )
        self.config = config
        self.num_slots = num_slots
        self.max_tokens = max_tokens
        self.lengths: list[int] = [0] * num_slots
        layers, heads, width = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        state_dtype = dtype
        if rules_of(config.precision) is PAPER:
            state_dtype = raise_to_fp32(torch.empty(0, dtype=dtype)).dtype
        # Zeros, not empty: a masked position has weight zero, but zero times NaN is NaN.
        shape = (layers, num_slots, max_tokens, heads, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.conv = torch.zeros(
            (layers, num_slots, config.conv_channels, LEAD), dtype=state_dtype, device=device
        )
        self.delayed = torch.zeros(
            (layers, num_slots, config.kv_channels // 2), dtype=state_dtype, device=device
        )

    @property
    def nbytes(self) -> int:
        """Bytes reserved for all slots."""
        return sum(x.nbytes for x in (self.keys, self.values, self.conv, self.delayed))

    def reset(self, slot: int) -> None:
        """Forget the sequence of one slot."""
        self.lengths[slot] = 0
        self.conv[:, slot] = 0
        self.delayed[:, slot] = 0

    def copy(self, src: int, dst: int) -> None:
        """Make slot `dst` continue exactly where slot `src` is."""
        length = self.lengths[src]
        self.lengths[dst] = length
        self.keys[:, dst, :length] = self.keys[:, src, :length]
        self.values[:, dst, :length] = self.values[:, src, :length]
        self.conv[:, dst] = self.conv[:, src]
        self.delayed[:, dst] = self.delayed[:, src]

    def select(self, slots: list[int] | None, lengths: list[int]) -> Slots:
        """Return the slots that documents of these lengths continue.

        `slots` None means slot i for document i. Raises RequestError for a slot that does not
        exist, occurs twice, or has no room for the new tokens.
        """
        ids = list(range(len(lengths))) if slots is None else list(slots)
        if len(ids) != len(lengths) or len(set(ids)) != len(ids):
            raise RequestError(
                f"slots {ids[:8]} for {len(lengths)} documents; name a different slot for each"
            )
        for slot, length in zip(ids, lengths, strict=True):
            if not 0 <= slot < self.num_slots:
                raise RequestError(
                    f"slot {slot} does not exist; the cache has slots 0 to {self.num_slots - 1}"
                )
            if self.lengths[slot] + length > self.max_tokens:
                raise RequestError(
                    f"slot {slot} holds {self.lengths[slot]} tokens and cannot take {length} "
                    f"more; it has room for {self.max_tokens}: use a longer cache or prompt less"
                )
        return Slots(
            ids=ids, starts=[self.lengths[slot] for slot in ids], max_tokens=self.max_tokens
        )

    def advance(self, slots: Slots, lengths: list[int]) -> None:
        """Count the new tokens of each slot."""
        for slot, length in zip(slots.ids, lengths, strict=True):
            self.lengths[slot] += length

    def write(self, layer: int, at_T: Tensor, keys_TKP: Tensor, values_TKP: Tensor) -> None:
        """Store rotated keys and values at flat positions, slot * max_tokens + position."""
        for store, new_TKP in ((self.keys, keys_TKP), (self.values, values_TKP)):
            flat = store[layer].view(-1, new_TKP.shape[1], new_TKP.shape[2])
            flat.index_copy_(0, at_T, new_TKP.to(flat.dtype))
