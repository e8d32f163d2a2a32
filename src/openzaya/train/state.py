"""What a training run remembers beyond tensors; all of it survives JSON."""

from collections import deque
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt

HISTORY = 128
"""Steps that the spike guard looks back on."""
MIN_HISTORY = 32
"""Fewer steps say too little about what is usual."""
SLACK = 0.1
"""Share of the mean that is never a spike, however still the history was."""


@dataclass(slots=True)
class SpikeGuard:
    """Remembers losses and gradient norms, and says when one is out of the usual."""

    sigmas: float
    values: dict[str, deque[float]] = field(default_factory=dict)

    def is_spike(self, **values: float) -> bool:
        """Say whether any value is not finite or far above its recent mean; remember all finite.

        A spike is remembered as the limit it broke: one spike does not hide the next, and a level
        that stays (other data, say) is taken as usual after a dozen steps.
        """
        limits = {name: self._limit(name) for name in values}
        spike = any(not isfinite(x) or x > limits[name] for name, x in values.items())
        for name, value in values.items():
            if isfinite(value):
                history = self.values.setdefault(name, deque(maxlen=HISTORY))
                history.append(min(value, limits[name]))
        return spike

    def _limit(self, name: str) -> float:
        """Return the largest usual value."""
        known = self.values.get(name, ())
        if len(known) < MIN_HISTORY:
            return inf
        mean = sum(known) / len(known)
        spread = sqrt(sum((x - mean) ** 2 for x in known) / len(known))
        return mean + self.sigmas * spread + SLACK * abs(mean)

    def to_json(self) -> dict[str, list[float]]:
        """Return the history."""
        return {name: list(history) for name, history in self.values.items()}

    def load(self, history: dict[str, list[float]]) -> None:
        """Take a history back."""
        self.values = {name: deque(known, maxlen=HISTORY) for name, known in history.items()}


@dataclass(slots=True)
class TrainState:
    """Where a stage stands."""

    guard: SpikeGuard
    step: int = 0
    """Optimizer steps done, skipped ones included."""
    tokens: int = 0
    """Tokens seen."""
    skipped: int = 0
    """Steps whose update was not applied."""
    broken_in_a_row: int = 0
    """Last steps whose loss or gradient was not finite; starts at 0 after a resume."""
