"""The failures that can be played, and when: a probability, some calls, or both."""

from collections.abc import Sequence
from dataclasses import dataclass

from openzaya.core.errors import ConfigError
from openzaya.core.seeding import stream

FAULTS = {
    "refused": "reset the connection and accept no new one for `refused_s`",
    "429": "too many requests, with a Retry-After header of `retry_after_s`",
    "503": "overloaded, no header",
    "500": "internal error",
    "hang": "never send a byte",
    "hang_mid": "stop in the middle and keep the connection open",
    "cut": "close the connection in the middle: no finish reason, no [DONE]",
    "half_json": "close in the middle of an event's JSON",
    "half_utf8": "close in the middle of a character",
    "crlf": "sound, but lines end with CRLF and an event has several data lines",
    "giant_line": "send a line of `giant_line_bytes`",
    "html": "answer 200 with a web page",
    "wrong_schema": "answer with JSON of another form",
    "no_usage": "leave the usage out",
    "wrong_n": "send one choice too many, or one too few when several were asked for",
    "content_filter": "stop in the middle with finish reason content_filter",
    "empty": "stop at once with nothing said",
    "loop": "repeat the same words up to the limit of the request",
    "wrong_count": "tell three times the tokens that were sent",
    "drip": "send one token every `drip_s`",
    "wrong_model": "sign the reply with another model's name",
}
"""Name and what happens; all but the first five begin with status 200."""

STATUS_FAULTS = ("429", "503", "500")
MIDWAY_FAULTS = ("hang_mid", "cut", "half_json", "half_utf8", "giant_line", "wrong_schema")
"""Those that strike after half of the reply."""

FORM = "NAME, NAME=PROBABILITY, NAME@CALLS or NAME=PROBABILITY@CALLS (CALLS as 3,7,20-40,100-)"


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure with its schedule."""

    name: str
    probability: float = 1.0
    calls: tuple[tuple[int, float], ...] = ()
    """First and last call of each span, counted from 1; empty means every call."""

    @staticmethod
    def parse(text: str) -> "Fault":
        """Read the written form; raises ConfigError for anything else."""
        head, at, spans = text.partition("@")
        name, equals, chance = head.partition("=")
        if name not in FAULTS:
            raise ConfigError(f"the fault is {name!r}; choose one of {', '.join(FAULTS)}")
        try:
            fault = Fault(
                name,
                float(chance) if equals else 1.0,
                tuple(map(_span, spans.split(","))) if at else (),
            )
        except ValueError:
            raise ConfigError(f"the fault is written {text!r}; write {FORM}") from None
        if not 0 <= fault.probability <= 1:
            raise ConfigError(f"the probability in {text!r} is not within 0 and 1; write {FORM}")
        return fault

    def covers(self, call: int) -> bool:
        """Say whether a call is within the schedule."""
        return not self.calls or any(first <= call <= last for first, last in self.calls)


class FaultPlan:
    """Chooses the fault of every call; the same seed chooses the same."""

    def __init__(self, specs: Sequence[str], seed: int) -> None:
        """Read the written forms."""
        self.faults = tuple(map(Fault.parse, specs))
        self._seed = seed

    def draw(self, call: int) -> str | None:
        """Return the fault of a call, counted from 1; None for a sound one.

        The probabilities add up: of two faults of 0.1 one strikes a fifth of the calls.
        """
        due = [fault for fault in self.faults if fault.covers(call)]
        if not due:
            return None
        chance = stream(self._seed, "mock", "fault", call).random()
        for fault in due:
            if chance < fault.probability:
                return fault.name
            chance -= fault.probability
        return None


def _span(text: str) -> tuple[int, float]:
    first, dash, last = text.partition("-")
    return int(first), float(int(last)) if last else (float("inf") if dash else float(int(first)))
