"""Where the two tiers differ about the same answer: counted, and written down.

The first tier decides for the golds that it knows. Of those, math-verify is asked about a share of
the answers as well, which never changes a verdict: each difference is an error of one of the two,
and a line of the log has all that is needed to see of which.
"""

from collections import Counter
from dataclasses import asdict
from hashlib import sha256
from threading import Lock

from openzaya.core.log import RecordWriter, declare
from openzaya.envs.math.gold import Gold
from openzaya.envs.math.judge import Reading
from openzaya.envs.math.second import Caller, Failure, ask
from openzaya.sandbox.pool import Ended

ASKED = declare("grader/second_tier_asked", "answers", "answers that both tiers judged").name
DIFFER = declare("grader/tiers_differ", "share", "answers judged differently / asked").name
FAILED = declare("grader/second_tier_failed", "share", "answers without its verdict / asked").name


class Tiers:
    """Compares the tiers; safe to use from several threads."""

    def __init__(self, log: RecordWriter | None = None, *, share: float = 1.0) -> None:
        """Ask about `share` of the answers, always the same ones; write differences to `log`."""
        self.log = log
        self.share = share
        self.counts: Counter[str] = Counter()
        """How many answers ended how: `agree`, `first_only` and `second_only` (which of the tiers
        accepted), `failed`."""
        self.lock = Lock()

    def compare(self, gold: Gold, readings: tuple[Reading, ...], pool: Caller) -> None:
        """Ask the second tier about answers that the first has judged."""
        for reading in readings:
            if self.is_chosen(gold, reading):
                self.compare_one(gold, reading, pool)

    def is_chosen(self, gold: Gold, reading: Reading) -> bool:
        """Say whether an answer is one of the share."""
        words = f"{gold.text}\0{reading.candidate.text}".encode("utf-8", "surrogatepass")
        return int.from_bytes(sha256(words).digest()[:8], "big") < self.share * 2**64

    def compare_one(self, gold: Gold, reading: Reading, pool: Caller) -> None:
        """Ask about one answer, count the result and write down a difference."""
        first = not reading.fault
        try:
            outcome = ask(pool, gold.text, reading.candidate.text)
            found = "agree" if outcome.ended is Ended.VALUE else "failed"
            second, told = outcome.value is True, outcome.message
        except Failure as failure:
            found, second, told = "failed", False, str(failure)
        if found == "agree" and first is not second:
            found = "first_only" if first else "second_only"
        with self.lock:
            self.counts[found] += 1
            if self.log is not None and found != "agree":
                self.log.write({"found": found, **described(gold, reading), "second": told})

    def metrics(self) -> dict[str, float]:
        """Return what a MetricWriter takes."""
        with self.lock:
            asked = self.counts.total()
            differ = self.counts["first_only"] + self.counts["second_only"]
            failed = self.counts["failed"]
        return {ASKED: asked, DIFFER: differ / max(1, asked), FAILED: failed / max(1, asked)}


def described(gold: Gold, reading: Reading) -> dict[str, object]:
    """Return what it takes to judge an answer again."""
    return {
        "gold": gold.text,
        "kind": str(gold.kind),
        "rules": asdict(gold.rules),
        "answer": reading.candidate.text,
        "first": {"rule": reading.rule, "parsed": reading.parsed, "fault": reading.fault},
    }
