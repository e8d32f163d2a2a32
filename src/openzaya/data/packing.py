"""Best-fit-decreasing packing of whole documents into windows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import DataError

_WORD_BITS = 9
_WORD = 1 << _WORD_BITS
_LOW = _WORD - 1


def pack(lengths: Sequence[int] | NDArray[np.int64], window: int) -> list[list[int]]:
    """Put every document, whole, into one window of `window` tokens; return their indices.

    Longest first, each into the window that it fills best; equal lengths in the order given. The
    same lengths always give the same windows. Windows come out in the order in which they were
    opened, so look-alike lengths are neighbors: shuffle windows before training.

    A two-level bitmap of the free capacities in use finds the best window in constant time,
    whatever the window's size, and once for a run of equal lengths: the window that suits the first
    of them best suits the others best until it is too full. Raises DataError for a length below 1
    or above `window`.

    Paper: IV-A.
    Source: arXiv:2404.10830, section 3.
    """
    if window < 1:
        raise DataError(f"the window is {window} tokens, expected at least 1; choose a larger one")
    sizes = np.asarray(lengths, dtype=np.int64)
    _check(sizes, window)
    by_size = np.argsort(-sizes, kind="stable")
    run_starts = np.flatnonzero(np.diff(sizes[by_size], prepend=0))
    run_lengths = sizes[by_size][run_starts].tolist()
    order = by_size.tolist()
    bins: list[list[int]] = []
    by_free: dict[int, list[int]] = {}  # free tokens -> windows with exactly that much room
    words = [0] * ((window >> _WORD_BITS) + 1)  # bit f % 512 of word f // 512: such a window exists
    summary = 0  # bit w: words[w] is not zero
    at = 0
    for length, end in zip(run_lengths, [*run_starts[1:].tolist(), len(order)], strict=False):
        while at < end:
            free = _smallest(words, summary, length)
            if free < 0:
                chosen, free = len(bins), window
                bins.append([])
            else:
                holders = by_free[free]
                chosen = holders.pop()
                if not holders:
                    word = free >> _WORD_BITS
                    words[word] &= ~(1 << (free & _LOW))
                    if not words[word]:
                        summary &= ~(1 << word)
            taken = order[at : min(end, at + free // length)]
            bins[chosen].extend(taken)
            at += len(taken)
            left = free - len(taken) * length
            if left:
                by_free.setdefault(left, []).append(chosen)
                words[left >> _WORD_BITS] |= 1 << (left & _LOW)
                summary |= 1 << (left >> _WORD_BITS)
    return bins


def _check(sizes: NDArray[np.int64], window: int) -> None:
    wrong = np.flatnonzero((sizes < 1) | (sizes > window))
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            f"document {index} has {sizes[index]} tokens, expected 1 to {window} (the window); "
            "trim or split documents before packing (ap_trim, fit)"
        )


def _smallest(words: Sequence[int], summary: int, length: int) -> int:
    """Return the smallest free capacity that is at least `length`, or -1."""
    word = length >> _WORD_BITS
    bits = words[word] >> (length & _LOW)
    if bits:
        return length + (bits & -bits).bit_length() - 1
    above = summary >> (word + 1)
    if not above:
        return -1
    word += (above & -above).bit_length()
    bits = words[word]
    return (word << _WORD_BITS) + (bits & -bits).bit_length() - 1
