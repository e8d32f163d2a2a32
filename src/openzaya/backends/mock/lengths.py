"""How long replies are: a fixed length, a log-normal law, or a few stragglers among equals."""

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

from openzaya.core.errors import ConfigError

FORMS = "fixed:N, lognormal:MEDIAN:SIGMA or straggler:MEDIAN:SHARE:FACTOR"


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """A distribution of reply lengths in tokens.

    fixed: always `median`. lognormal: median times exp(sigma * normal). straggler: `median` for
    most replies and `factor` times that for a `share` of them.
    """

    kind: Literal["fixed", "lognormal", "straggler"]
    median: float
    sigma: float = 0.0
    share: float = 0.0
    factor: float = 1.0

    @staticmethod
    def parse(text: str) -> "LengthLaw":
        """Read one of the written forms; raises ConfigError for anything else."""
        kind, _, rest = text.partition(":")
        try:
            values = [float(part) for part in rest.split(":")] if rest else []
        except ValueError:
            values = []
        sound = bool(values) and all(math.isfinite(v) and v >= 0 for v in values) and values[0] >= 1
        if sound and kind == "fixed" and len(values) == 1:
            return LengthLaw("fixed", values[0])
        if sound and kind == "lognormal" and len(values) == 2:
            return LengthLaw("lognormal", values[0], sigma=values[1])
        if sound and kind == "straggler" and len(values) == 3 and values[1] <= 1:
            return LengthLaw("straggler", values[0], share=values[1], factor=values[2])
        raise ConfigError(f"the length law is {text!r}; write {FORMS}")

    def draw(self, rng: Random) -> int:
        """Return one length, at least 1."""
        length = self.median
        if self.kind == "lognormal":
            length *= math.exp(self.sigma * rng.gauss(0.0, 1.0))
        elif self.kind == "straggler" and rng.random() < self.share:
            length *= self.factor
        return max(1, round(length))
