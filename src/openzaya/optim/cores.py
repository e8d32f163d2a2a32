"""Work side by side, one core each, instead of one piece of work spread over all cores.

Cores that share every small operation wait for one another at the end of each; here they meet once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def one_core_each(works: Sequence[Callable[[], T]]) -> list[T]:
    """Run pieces of work on as many threads as torch has, each on one core; results in order.

    Gradients are on or off as they are for the caller. A single piece gets all threads.
    """
    threads = min(torch.get_num_threads(), len(works))
    if threads <= 1:
        return [work() for work in works]
    all_threads, wants_grad = torch.get_num_threads(), torch.is_grad_enabled()

    def alone(work: Callable[[], T]) -> T:
        torch.set_num_threads(1)
        with torch.set_grad_enabled(wants_grad):
            return work()

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, works))
    finally:
        torch.set_num_threads(all_threads)
