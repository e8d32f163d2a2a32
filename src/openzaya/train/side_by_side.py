"""Microbatches side by side: every core runs one by itself, on a model that shares the weights.

The gradients come out the same to the last bit however the cores' work falls: those of one round
of microbatches are added up in order, then to the sum of the rounds before.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial, reduce
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor, nn

from openzaya.model.zaya import Zaya
from openzaya.optim.cores import one_core_each
from openzaya.train.batch import Batch

MIN_TOKENS = 1_024
"""Tokens below which a microbatch is mostly overhead, which cores cannot share."""

T = TypeVar("T")


def num_cores(device: torch.device, micro_tokens: int) -> int:
    """Return how many microbatches run at once when together they may hold `micro_tokens`."""
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), micro_tokens // MIN_TOKENS))


def side_by_side(
    work: Callable[[Zaya, Batch], T], model: Zaya, batches: Sequence[Batch], cores: int
) -> Iterator[T]:
    """Yield the result of `work` for every batch, in order; `cores` of them run at a time.

    `work` gets a model and runs a backward pass. The gradients are added to those of `model`.
    """
    if min(cores, len(batches)) <= 1:
        yield from (work(model, batch) for batch in batches)
        return
    sums = GradientSums(model)
    copies = [sums.copy_of_model(index) for index in range(min(cores, len(batches)))]
    for start in range(0, len(batches), cores):
        some = batches[start : start + cores]
        sums.expected = len(some)
        pairs = zip(copies, some, strict=False)
        yield from one_core_each([partial(work, copy, batch) for copy, batch in pairs])
        sums.finish_round()


class GradientSums:
    """Adds the gradients of copies of a model up in the model, each as soon as all copies have it.

    So a gradient exists more than once only while one core is ahead of another.
    """

    def __init__(self, model: Zaya) -> None:
        self.expected = 1
        """Copies that run in this round."""
        self._model = model
        self._targets = dict(model.named_parameters())
        self._parts: dict[str, dict[int, Tensor]] = {}
        self._lock = Lock()

    def copy_of_model(self, index: int) -> Zaya:
        """Return a copy with the same weights in the same memory; its gradients come here."""
        shared: dict[int, object] = {id(buffer): buffer for buffer in self._model.buffers()}
        for weight in self._targets.values():
            shared[id(weight)] = nn.Parameter(weight.detach(), weight.requires_grad)
        copy = deepcopy(self._model, shared)
        for name, weight in copy.named_parameters():
            if weight.requires_grad:
                take = partial(self._take, name, index)
                weight.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
        return copy

    def _take(self, name: str, index: int, weight: Tensor) -> None:
        grad, weight.grad = weight.grad, None
        assert grad is not None, "the hook runs after the gradient is there"
        with self._lock:
            parts = self._parts.setdefault(name, {})
            parts[index] = grad
            if len(parts) < self.expected:
                return
            del self._parts[name]
        self._add(name, parts)

    def finish_round(self) -> None:
        """Add what only some copies have a gradient of."""
        for name, parts in self._parts.items():
            self._add(name, parts)
        self._parts.clear()

    @torch.no_grad()
    def _add(self, name: str, parts: dict[int, Tensor]) -> None:
        # Not in place: a gradient may share its memory with others that a core still works on.
        total = reduce(torch.add, (parts[index] for index in sorted(parts)))
        target = self._targets[name]
        target.grad = total if target.grad is None else target.grad.add_(total)
