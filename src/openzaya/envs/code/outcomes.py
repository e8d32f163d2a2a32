"""What became of one run of a program on one input, before anybody judges it."""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock

from openzaya.envs.code.problem import Failure
from openzaya.envs.code.values import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A value, a failure of the program, or a failure of ours."""

    value: Json = None
    """What it printed or returned; meaningless unless `ok`."""
    failure: Failure | None = None
    infra: str = ""
    """Not empty: our own failure, and this is what failed."""
    detail: str = ""
    """For people who may see the tests: error text, which limit."""
    cpu_s: float = 0.0

    @property
    def ok(self) -> bool:
        """True when there is a value."""
        return self.failure is None and not self.infra


class OutcomeCache:
    """Remembers outcomes by program, input and rules; oldest out first. Safe between threads.

    Failures of ours are never kept, and neither are time-outs: the next run may be on a quieter
    machine.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> Outcome | None:
        """Return the outcome kept under `key`, or None."""
        with self._lock:
            found = self._outcomes.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._outcomes.move_to_end(key)
            return found

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Keep an outcome, unless it says nothing certain about the program."""
        if outcome.infra or outcome.failure is Failure.TIME:
            return
        with self._lock:
            self._outcomes[key] = outcome
            self._outcomes.move_to_end(key)
            while len(self._outcomes) > self.capacity:
                self._outcomes.popitem(last=False)

    def __len__(self) -> int:
        return len(self._outcomes)


def fingerprint(*parts: str) -> bytes:
    """Return a key for some texts; where one ends and the next begins makes a difference."""
    digest = blake2b(digest_size=20)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
