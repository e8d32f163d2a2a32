"""What a training run remembers beyond tensors; all of it survives JSON."""

from collections import deque
from dataclasses import dataclass, field
from math import isfinite, sqrt

HISTORY = 128
"""Steps that the spike guard looks back on."""
MIN_HISTORY = 32
"""Fewer steps say too little about what is usual."""


@dataclass(slots=True)
class SpikeGuard:
    """Remembers losses and gradient norms, and says when one is out of the usual."""

    sigmas: float
    values: dict[str, deque[float]] = field(default_factory=dict)

    def is_spike(self, **values: float) -> bool:
        """Say whether any value is not finite or far above its recent mean; remember the usual."""
        if any(self._is_out(name, value) for name, value in values.items()):
            return True
        for name, value in values.items():
            self.values.setdefault(name, deque(maxlen=HISTORY)).append(value)
        return False

    def _is_out(self, name: str, value: float) -> bool:
        if not isfinite(value):
            return True
        known = self.values.get(name, ())
        if len(known) < MIN_HISTORY:
            return False
        mean = sum(known) / len(known)
        spread = sqrt(sum((x - mean) ** 2 for x in known) / len(known))
        return value > mean + self.sigmas * spread + 0.1 * abs(mean)

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
    balance_steps: int = 0
    """Updates of the balancing biases."""
