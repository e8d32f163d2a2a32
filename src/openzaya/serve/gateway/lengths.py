"""How long the traces of a model are: what a preview expects, learned from the runs so far."""

from collections import deque
from statistics import fmean

from openzaya.ttc import CandidateDone

KEPT = 256
"""Traces that the mean is taken over: recent ones, as questions change."""
FEWEST = 4
"""With fewer traces nothing is expected."""


class Lengths:
    """Lengths of recent traces, by model."""

    def __init__(self) -> None:
        self._lengths: dict[str, deque[int]] = {}

    def note(self, model: str, event: CandidateDone) -> None:
        """Take note of a candidate that is complete or reached its budget."""
        candidate = event.candidate
        is_whole = candidate.finish_reason in ("stop", "length") and not candidate.is_failed
        if is_whole and not event.recorded:
            if model not in self._lengths:
                self._lengths[model] = deque(maxlen=KEPT)
            self._lengths[model].append(candidate.num_tokens)

    def mean(self, model: str) -> float | None:
        """Return the mean length in tokens, None while too little is known."""
        known = self._lengths.get(model, ())
        return fmean(known) if len(known) >= FEWEST else None
