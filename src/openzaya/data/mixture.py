"""Mixing sources by token weights in an order that is a pure function of (seed, step)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import DataError
from openzaya.core.seeding import numpy_stream
from openzaya.data.windows import Window


class Mixture:
    """Windows of several sources, drawn so that every source gets its share of TOKENS.

    Every source is an endless stream: its windows in an order that each epoch shuffles anew. Step
    k takes from a source the windows whose middle lies in the k-th stretch of
    weight * tokens_per_step tokens, so shares are exact up to half a window at any time, nothing is
    skipped or repeated between steps, and any step can be asked for directly: resuming needs no
    state, and the number of ranks does not matter (divide the returned list).
    """

    def __init__(
        self, sources: Mapping[str, Sequence[Window]], weights: Mapping[str, float]
    ) -> None:
        """Mix `sources` by `weights` (any positive scale; a source with weight 0 is left out).

        Raises DataError when names differ, no weight is positive or a weighted source is empty.
        """
        if set(sources) != set(weights):
            raise DataError(
                f"the mixture has sources {sorted(sources)} and weights for {sorted(weights)}; "
                "expected the same names: give every source one weight"
            )
        bad = {name: w for name, w in weights.items() if not 0 <= w < float("inf")}
        if bad or not sum(weights.values()) > 0:
            raise DataError(
                f"the mixture has the weights {dict(weights)}, expected finite numbers >= 0 with a "
                "positive sum; correct them"
            )
        total = sum(weights.values())
        # Sorted, so that the order in which a caller names the sources changes nothing.
        self._weights = {name: weights[name] / total for name in sorted(weights) if weights[name]}
        self._sources = {name: sources[name] for name in self._weights}
        empty = [name for name, windows in self._sources.items() if not windows]
        if empty:
            raise DataError(
                f"source {empty[0]!r} has weight {weights[empty[0]]} but no windows; "
                "check its documents and the context, or set its weight to 0"
            )
        self._sizes = {
            name: np.array([len(window) for window in windows], dtype=np.int64)
            for name, windows in self._sources.items()
        }
        self._epoch = lru_cache(maxsize=4 * len(self._sources))(self._shuffle)

    @property
    def weights(self) -> dict[str, float]:
        """Return the share of tokens of every source; they sum to 1."""
        return dict(self._weights)

    @property
    def num_tokens(self) -> int:
        """Return the tokens of all windows of all sources once."""
        return sum(int(sizes.sum()) for sizes in self._sizes.values())

    def windows_for_step(self, seed: int, step: int, tokens_per_step: int) -> list[Window]:
        """Return the windows of one step, about `tokens_per_step` tokens, in shuffled order.

        Raises DataError when `tokens_per_step` is so small that a step could be empty.
        """
        if step < 0:
            raise DataError(f"step is {step}, expected 0 or more; count steps from 0")
        self._check_step_size(tokens_per_step)
        chosen: list[Window] = []
        for name, weight in self._weights.items():
            first = self._windows_before(seed, name, int(weight * tokens_per_step * step))
            end = self._windows_before(seed, name, int(weight * tokens_per_step * (step + 1)))
            chosen.extend(self._window(seed, name, number) for number in range(first, end))
        order = numpy_stream(seed, "mixture", "step", step).permutation(len(chosen))
        return [chosen[i] for i in order.tolist()]

    def _check_step_size(self, tokens_per_step: int) -> None:
        # A source whose stretch is as long as its longest window gives one in every step.
        needed = min(
            int(self._sizes[name].max() / weight) + 1 for name, weight in self._weights.items()
        )
        if tokens_per_step < needed:
            raise DataError(
                f"tokens_per_step is {tokens_per_step}, expected at least {needed} so that no step "
                "is empty; raise it, shorten the windows or mix fewer sources"
            )

    def _windows_before(self, seed: int, name: str, tokens: int) -> int:
        """Return how many windows of the stream have their middle before this token."""
        epoch, rest = divmod(tokens, int(self._sizes[name].sum()))
        _, middles = self._epoch(seed, name, epoch)
        inside = int(np.searchsorted(middles, 2 * rest, side="left"))
        return epoch * len(self._sizes[name]) + inside

    def _window(self, seed: int, name: str, number: int) -> Window:
        epoch, place = divmod(number, len(self._sizes[name]))
        order, _ = self._epoch(seed, name, epoch)
        return self._sources[name][int(order[place])]

    def _shuffle(
        self, seed: int, name: str, epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return an epoch's order and twice the position of every window's middle."""
        sizes = self._sizes[name]
        order = numpy_stream(seed, "mixture", name, epoch).permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        return order, 2 * ends - sizes[order]
