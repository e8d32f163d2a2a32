"""How long the traces of a model are: what a preview expects, learned from the runs so far."""

from collections import deque

from openzaya.ttc import CandidateDone
from openzaya.ttc.lengths import LengthLaw

KEPT = 256
"""Traces that the law is made of: recent ones, as questions change."""
FEWEST = 4
"""With fewer traces nothing is expected."""


class Lengths:
    """Lengths of recent traces, by model."""

    def __init__(self) -> None:
        self._traces: dict[str, deque[tuple[int, bool]]] = {}

    def note(self, model: str, event: CandidateDone) -> None:
        """Take note of a candidate that was generated, whole or cut."""
        candidate = event.candidate
        is_copy = not candidate.attempts
        if event.recorded or candidate.is_failed or is_copy:
            return
        traces = self._traces.setdefault(model, deque(maxlen=KEPT))
        traces.append((candidate.num_tokens, candidate.finish_reason != "stop"))

    def law(self, model: str) -> LengthLaw | None:
        """Return the law of the lengths, None while too little is known."""
        traces = self._traces.get(model, ())
        if len(traces) < FEWEST:
            return None
        ended = [tokens for tokens, is_cut in traces if not is_cut]
        return LengthLaw.of_traces(ended, [tokens for tokens, is_cut in traces if is_cut])
