"""Microbatches side by side: every core runs one by itself, on a model that shares the weights.

The gradients come out the same to the last bit however the cores' work falls: those of one round
of microbatches are added up in order, then to the sum of the rounds before.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from threading import Condition
from typing import TypeVar

import torch
from torch import Tensor, nn

from openzaya.model.zaya import Zaya
from openzaya.optim.cores import one_core_each
from openzaya.train.batch import Batch

MIN_TOKENS = 1_024
"""Tokens below which a microbatch is mostly overhead, which cores cannot share."""

PIECE_ELEMENTS = 1 << 17
"""Elements of a gradient that are added at a time, inside the second-level cache."""

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


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
    cores = min(cores, len(batches), torch.get_num_threads())  # as those wait for one another
    if cores <= 1:
        yield from (work(model, batch) for batch in batches)
        return
    sums = GradientSums(model)
    copies = [sums.copy_of_model(index) for index in range(cores)]
    for start in range(0, len(batches), cores):
        some = batches[start : start + cores]
        sums.begin_round(len(some))
        pairs = zip(copies, some, strict=False)
        yield from one_core_each([partial(sums.during, partial(work, *pair)) for pair in pairs])


class GradientSums:
    """Adds the gradients of copies of a model up in the model, each as soon as all copies have it.

    So a gradient exists more than once only while one core is ahead of another. Adding is left to
    the core that comes by next, which is the one ahead, or has nothing else to do any more.
    """

    def __init__(self, model: Zaya) -> None:
        self._model = model
        self._targets = dict(model.named_parameters())
        self._expected = self._running = 0
        self._parts: dict[str, dict[int, Tensor]] = {}
        self._ready: deque[tuple[str, dict[int, Tensor]]] = deque()
        self._changed = Condition()

    def copy_of_model(self, index: int) -> Zaya:
        """Return a copy with the same weights in the same memory; its gradients come here."""
        own = {
            weight: nn.Parameter(weight.detach(), weight.requires_grad)
            for weight in self._targets.values()
        }
        copy = copy_with(self._model, own)
        for name, weight in copy.named_parameters():
            if weight.requires_grad:
                take = partial(self._take, name, index)
                weight.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
        return copy

    def begin_round(self, copies: int) -> None:
        """Expect gradients of so many copies."""
        self._expected = self._running = copies

    def during(self, work: Callable[[], T]) -> T:
        """Run the work of one copy and add gradients up until those of all copies are; a thread."""
        try:
            result = work()
        finally:
            self._end_work()
        while self._add_next(wait=True):
            pass
        return result

    def _take(self, name: str, index: int, weight: Tensor) -> None:
        grad, weight.grad = weight.grad, None
        assert grad is not None, "the hook runs after the gradient is there"
        self._add_next()
        with self._changed:
            parts = self._parts.setdefault(name, {})
            parts[index] = grad
            if len(parts) == self._expected:
                self._ready.append((name, self._parts.pop(name)))
                self._changed.notify()

    def _end_work(self) -> None:
        with self._changed:
            self._running -= 1
            if self._running == 0:  # what is left only some copies have a gradient of
                self._ready.extend(self._parts.items())
                self._parts.clear()
            self._changed.notify_all()

    def _add_next(self, *, wait: bool = False) -> bool:
        """Add one gradient up; return False if none is ready, and none will be if this waits."""
        with self._changed:
            while wait and self._running and not self._ready:
                self._changed.wait()
            if not self._ready:
                return False
            name, parts = self._ready.popleft()
        add_parts(self._targets[name], [parts[index] for index in sorted(parts)])
        return True


def copy_with(module: M, weights: Mapping[nn.Parameter, nn.Parameter]) -> M:
    """Return a copy of a module with other parameters, which shares all else but its parts.

    `copy.deepcopy` takes a tenth of a small model's pass.
    """
    copy: M = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy._parameters = {k: None if w is None else weights[w] for k, w in module._parameters.items()}
    copy._modules = {
        name: None if part is None else copy_with(part, weights)
        for name, part in module._modules.items()
    }
    return copy


@torch.no_grad()
def add_parts(weight: Tensor, parts: Sequence[Tensor]) -> None:
    """Add the sum of the parts to a weight's gradient."""
    total = weight.grad
    if total is None:
        # Not in place: a gradient may share its memory with others that a core still works on.
        weight.grad = reduce(torch.add, parts)
    elif all(x.is_contiguous() for x in (total, *parts)):
        pieces = (torch.split(x.view(-1), PIECE_ELEMENTS) for x in (total, *parts))
        for piece, *others in zip(*pieces, strict=True):
            piece.add_(reduce(torch.add, others))  # a sum that is still in the cache
    else:
        total.add_(reduce(torch.add, parts))
