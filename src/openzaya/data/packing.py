"""Best-fit-decreasing packing of whole documents into windows."""

from collections.abc import Sequence

from openzaya.core.errors import DataError

_WORD_BITS = 9
_WORD = 1 << _WORD_BITS
_LOW = _WORD - 1


def pack(lengths: Sequence[int], window: int) -> list[list[int]]:
    """Put every document, whole, into one window of `window` tokens; return their indices.

    Longest first, each into the window that it fills best; equal lengths in the order given. The
    same lengths always give the same windows. Windows come out in the order in which they were
    opened, so look-alike lengths are neighbors: shuffle windows before training.

    A two-level bitmap of the free capacities in use finds the best window in constant time,
    whatever the window's size. Raises DataError for a length below 1 or above `window`.

    Paper: IV-A.
    Source: arXiv:2404.10830, section 3.
    """
    if window < 1:
        raise DataError(f"the window is {window} tokens, expected at least 1; choose a larger one")
    for index, length in enumerate(lengths):
        if not 1 <= length <= window:
            raise DataError(
                f"document {index} has {length} tokens, expected 1 to {window} (the window); "
                "trim or split documents before packing (ap_trim, fit)"
            )
    bins: list[list[int]] = []
    by_free: dict[int, list[int]] = {}  # free tokens -> windows with exactly that much room
    words = [0] * ((window >> _WORD_BITS) + 1)  # bit f % 512 of word f // 512: such a window exists
    summary = 0  # bit w: words[w] is not zero
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        free = _smallest(words, summary, length)
        if free < 0:
            chosen, left = len(bins), window - length
            bins.append([index])
        else:
            holders = by_free[free]
            chosen, left = holders.pop(), free - length
            bins[chosen].append(index)
            if not holders:
                word = free >> _WORD_BITS
                words[word] &= ~(1 << (free & _LOW))
                if not words[word]:
                    summary &= ~(1 << word)
        if left:
            by_free.setdefault(left, []).append(chosen)
            words[left >> _WORD_BITS] |= 1 << (left & _LOW)
            summary |= 1 << (left >> _WORD_BITS)
    return bins


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
