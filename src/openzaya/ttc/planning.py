"""When a candidate may start, whose tails it sees, and the prompt that it gets.

Paper: VI-A(a).
Deviation: D-055.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from openzaya.core.records import Message
from openzaya.core.seeding import stream, stream_seed
from openzaya.text.markers import strip_control_tokens
from openzaya.text.tails import aggregation_messages
from openzaya.ttc.answers import classes
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.place import Place, Plan
from openzaya.ttc.result import Candidate
from openzaya.ttc.subsets import minority_of, parents_of, pool_of

Head = Callable[[str, int], str]
"""Text and a count to the prefix of so many tokens."""


@dataclass(slots=True)
class Stage:
    """One stage while it is worked on."""

    number: int
    count: int
    """How many candidates it is to have."""
    plans: dict[int, Plan] = field(default_factory=dict)
    """Those that started, by slot."""
    done: dict[int, Candidate] = field(default_factory=dict)
    """Those that ended, by slot."""
    used: Counter[int] = field(default_factory=Counter)
    """How often each tail of the stage before was shown."""
    is_closed: bool = False
    is_cut: bool = False
    """Its stragglers were told to end."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those that ended, in slot order."""
        return tuple(self.done[slot] for slot in sorted(self.done))

    @property
    def running(self) -> list[int]:
        """Slots that started and have not ended."""
        return [slot for slot in self.plans if slot not in self.done]


@dataclass(slots=True)
class Planner:
    """Makes the plans of a run; a pure function of seed, settings and what came before."""

    config: MarkovianRSAConfig
    question: tuple[Message, ...]
    seed: int
    hint: str
    same: Callable[[str], str]
    head: Head | None = None
    """Given where the sampler can continue an open think block."""
    kept: dict[tuple[int, int], Place] = field(default_factory=dict)
    """Places of candidates that had started in an earlier process."""

    def ready(self, stage: Stage, before: Stage | None) -> list[int]:
        """Return the slots of a stage that may start now.

        Async: candidate i of N may start when min(N, max(C, i + 1)) tails are there, counted in
        the width of the stage before; with C = 1 when its own is.
        """
        if len(stage.plans) == stage.count:
            return []
        waiting = [slot for slot in range(stage.count) if slot not in stage.plans]
        if before is None or before.is_closed or not self.config.aggregate:
            return waiting
        if self.config.schedule != "async":
            return []
        pool = pool_of(before.candidates)
        if self.config.tails_per_prompt == 1 and before.count == stage.count:
            return [slot for slot in waiting if slot in pool]
        shown = self.config.tails_at(stage.number)

        def needed(slot: int) -> int:
            met = -((slot + 1) * before.count // -stage.count)
            return min(before.count, max(shown, met))

        return [slot for slot in waiting if len(pool) >= needed(slot)]

    def plan(self, stage: Stage, slots: Sequence[int], stages: Sequence[Stage]) -> list[Plan]:
        """Return the plans of the slots of a stage that are ready."""
        if self.config.tails_at(stage.number) == 0:
            return [Plan(self._place(stage.number, slot, ()), self.question) for slot in slots]
        before = stages[stage.number - 1]
        return [
            self._plan(stage.number, slot, parents, stages)
            for slot, parents in zip(slots, self._parents(stage, slots, before), strict=True)
        ]

    def _parents(
        self, stage: Stage, slots: Sequence[int], before: Stage
    ) -> Sequence[tuple[int, ...]]:
        pool = pool_of(before.candidates)
        minority: frozenset[int] = frozenset()
        if self.config.subset == "diverse":
            minority = minority_of(before.candidates, self.same)
        if self.config.schedule != "async":
            rng = stream(self.seed, "ttc", "subset", stage.number)
            return parents_of(self.config, pool, slots, rng, used=stage.used, minority=minority)
        return [
            parents_of(
                self.config,
                pool,
                (slot,),
                stream(self.seed, "ttc", "subset", stage.number, slot),
                used=stage.used,
                minority=minority,
            )[0]
            for slot in slots
        ]

    def _place(self, stage: int, slot: int, parents: tuple[int, ...]) -> Place:
        kept = self.kept.get((stage, slot))
        return kept or Place(
            stage, slot, stream_seed(self.seed, "ttc", "sample", stage, slot), parents
        )

    def _plan(
        self, number: int, slot: int, drawn: tuple[int, ...], stages: Sequence[Stage]
    ) -> Plan:
        seen = stages[number - 1].done
        place = self._place(number, slot, drawn)
        if not all(parent in seen for parent in place.parents):
            place = replace(place, parents=drawn)  # the record is not of this run's past
        if not place.parents:
            return Plan(place, self.question)
        if self.head is not None and self.config.chain == "continuation":
            return Plan(place, self.question, self._opening(place, stages))
        tails = [seen[parent].tail for parent in place.parents]
        return Plan(place, aggregation_messages(self.question, tails, self.hint))

    def _opening(self, place: Place, stages: Sequence[Stage]) -> str:
        """Return the chain's first tokens and its tail. Source: arXiv:2510.06557."""
        assert self.head is not None
        parent = stages[place.stage - 1].done[place.parents[0]]
        first = parent
        while first.parents:
            first = stages[first.stage - 1].done[first.parents[0]]
        whole = strip_control_tokens(first.thinking)
        if first is parent and parent.tail == whole:
            return parent.tail
        return self.head(whole, self.config.keep_head_tokens) + parent.tail

    def copied(self, plan: Plan, before: Stage | None) -> Candidate | None:
        """Return the candidate that a plan copies instead of generating, None as a rule.

        A continued chain that has ended stays as it is; under `copy_agreed` a subset whose answers
        all agree is answered by its shortest trace.
        """
        if before is None or not plan.parents:
            return None
        parents = [before.done[slot] for slot in plan.parents]
        if plan.opening and parents[0].is_finished:
            return copy_of(parents[0], plan.place)
        if not self.config.copy_agreed or len(parents) < 2:
            return None
        answers = set(classes([c.answer for c in parents], self.same))
        if len(answers) > 1 or None in answers:
            return None
        return copy_of(min(parents, key=lambda c: c.num_tokens), plan.place)


def copy_of(candidate: Candidate, place: Place) -> Candidate:
    """Return the same trace at another place, for no tokens and without a call."""
    return replace(
        candidate,
        stage=place.stage,
        slot=place.slot,
        seed=place.seed,
        parents=place.parents,
        num_tokens=0,
        num_prompt_tokens=0,
        attempts=0,
        served=None,
    )
