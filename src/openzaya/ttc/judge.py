"""A selection call: the model is shown at most C candidates and names the best one.

Deviation: D-056.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from openzaya.core.errors import EngineError, RequestError, UpstreamError
from openzaya.core.protocols import Sampler
from openzaya.core.records import Message, SampleRequest
from openzaya.text.tails import selection_messages
from openzaya.text.think import split_thinking
from openzaya.ttc.answers import classes
from openzaya.ttc.compaction import whole_tail
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.result import Candidate
from openzaya.ttc.selection import Choice, last_boxed

_NUMBER = re.compile(r"\d[\d.,]*")
"""Whole, so that 1234 or 0.2 at the end of a reply names nobody."""
MAX_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Judged:
    """What a selection call gave, and what it cost in tokens."""

    choice: Choice | None
    """None when no candidate was named; `failure` says why."""
    failure: str = ""
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    calls: int = 0
    failed_calls: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """How selection calls are made in one run."""

    question: tuple[Message, ...]
    config: MarkovianRSAConfig
    sampler: Sampler
    same: Callable[[str], str]
    seed: int
    max_tokens: int
    priority: int = 0

    async def choose(self, candidates: Sequence[Candidate], rng: Random) -> Judged:
        """Let the model choose among one stage's candidates."""
        shown = shown_to_judge(candidates, self.config.tails_per_prompt, self.same, rng)
        if not shown:
            return Judged(None, "no candidate wrote anything")
        if len(shown) == 1:
            return Judged(Choice(shown[0], "the only class of answers"))
        if self.max_tokens < 1:
            return Judged(None, "max_total_tokens left nothing for a selection call")
        try:
            return await self._ask(candidates, shown)
        except (EngineError, UpstreamError, RequestError) as error:
            return Judged(None, f"the selection call failed: {error}", calls=1, failed_calls=1)

    async def _ask(self, candidates: Sequence[Candidate], shown: Sequence[int]) -> Judged:
        tails = [await whole_tail(candidates[i], self.config, self.sampler) for i in shown]
        messages = selection_messages(self.question, tails)
        completion = await self.sampler.sample(
            SampleRequest(
                messages=messages,
                max_tokens=self.max_tokens,
                seed=self.seed,
                temperature=self.config.temperature_at(self.config.rounds),
                top_p=self.config.top_p,
                priority=self.priority,
            )
        )
        attempts = completion.served.attempts if completion.served else 1
        judged = Judged(
            None,
            "the selection call named no candidate",
            completion.num_tokens,
            completion.num_prompt_tokens or self.sampler.count_prompt_tokens(messages),
            calls=attempts,
            failed_calls=attempts - 1,
        )
        named = named_candidate(completion.text, completion.started_in_think, len(shown))
        if named is None:
            return judged
        why = f"selection call: candidate {named} of the {len(shown)} shown"
        return replace(judged, choice=Choice(shown[named - 1], why), failure="")


def shown_to_judge(
    candidates: Sequence[Candidate], most: int, same: Callable[[str], str], rng: Random
) -> list[int]:
    """Return the positions of at most `most` candidates to show, in random order.

    One for each class of answers, its shortest trace, the most frequent classes first. Where no
    answer can be read, random candidates that finished, else random ones that wrote anything.
    """
    members: dict[str, list[int]] = {}
    for i, name in enumerate(classes([c.answer for c in candidates], same)):
        if name is not None:
            members.setdefault(name, []).append(i)
    ranked = sorted(members.values(), key=len, reverse=True)[:most]
    shown = [min(alike, key=lambda i: candidates[i].num_tokens) for alike in ranked]
    if not shown:
        finished = [i for i, c in enumerate(candidates) if c.is_finished]
        begun = [i for i, c in enumerate(candidates) if c.text.strip()]
        pool = finished or begun
        shown = rng.sample(pool, min(most, len(pool)))
    rng.shuffle(shown)
    return shown


def named_candidate(text: str, started_in_think: bool, count: int) -> int | None:
    """Return the number that a reply ends with or puts in a box, if it is one of 1..count."""
    thought = split_thinking(text, started_in_think)
    reply = thought.answer
    boxed = last_boxed(reply)
    numbers = _NUMBER.findall(reply if boxed is None else boxed)
    named = numbers[-1].rstrip(".,") if numbers else ""
    number = int(named) if named.isdecimal() and len(named) <= MAX_DIGITS else 0
    return number if 1 <= number <= count else None
