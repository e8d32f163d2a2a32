"""Single rollout, majority vote and Markovian RSA, side by side at equal generated tokens.

The vote gets, problem by problem, as many independent rollouts as fit into what Markovian RSA
spent on that problem. Paper: VI-A (score: mean over the final candidates), VI-C (accounting).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openzaya.core.protocols import Sampler
from openzaya.core.records import (
    CUT,
    Completion,
    Judgement,
    Message,
    SampleRequest,
    Verdict,
    wrong,
)
from openzaya.core.seeding import stream_seed
from openzaya.eval.protocol import Judge, Score, patient, score_of
from openzaya.text.think import split_thinking
from openzaya.ttc import MarkovianRSA
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.result import Candidate, Result
from openzaya.ttc.selection import extract_answer, majority


@dataclass(frozen=True, slots=True)
class Comparison:
    """The three methods on the same problems."""

    single: Score
    """Mean over all independent rollouts: what one rollout is worth."""
    majority: Score
    """Vote over the independent rollouts that fit the budget."""
    mrsa_mean: Score
    """The paper's score: mean over the final candidates."""
    mrsa_vote: Score
    """Vote over the final candidates, as `openzaya solve` answers."""
    single_tokens: float
    """Mean generated tokens of one rollout."""
    majority_rollouts: float
    """Mean number of rollouts in the vote."""
    majority_tokens: float
    """Mean generated tokens a problem spent by the vote."""
    mrsa_tokens: float
    """Mean generated tokens a problem spent by Markovian RSA, all rounds."""

    def rows(self) -> list[dict[str, object]]:
        """Return the comparison as table rows."""
        names = ("single rollout", "majority vote", "Markovian RSA, mean", "Markovian RSA, vote")
        scores = (self.single, self.majority, self.mrsa_mean, self.mrsa_vote)
        tokens = (self.single_tokens, self.majority_tokens, self.mrsa_tokens, self.mrsa_tokens)
        return [
            {"method": n, "score": s.mean, "error": s.error, "tokens": t}
            for n, s, t in zip(names, scores, tokens, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Sample:
    answer: str | None
    reward: float
    num_tokens: int


async def compare(
    questions: Sequence[str],
    judge: Judge,
    sampler: Sampler,
    config: MarkovianRSAConfig,
    *,
    seed: int = 0,
    on_done: Callable[[], None] = lambda: None,
) -> Comparison:
    """Run the three methods on every question; `on_done` is called after each one.

    A question whose judge failed (INFRA) on all rollouts, or on a final candidate, is in no figure.
    What its budget cut is wrong and does not vote. Deviation: D-018.
    """
    judge = patient(judge)

    async def one(index: int) -> tuple[Result, list[_Sample]]:
        solver = MarkovianRSA(config)
        result = await solver.run(
            questions[index], sampler, seed=stream_seed(seed, "ttc", index), priority=index
        )
        samples = await _vote_pool(questions[index], index, judge, sampler, config, result, seed)
        on_done()
        return result, samples

    pairs = await asyncio.gather(*(one(i) for i in range(len(questions))))
    return _tally(pairs, judge)


async def _vote_pool(
    question: str,
    index: int,
    judge: Judge,
    sampler: Sampler,
    config: MarkovianRSAConfig,
    result: Result,
    seed: int,
) -> list[_Sample]:
    """Return independent rollouts, at least one, that together cost at most what `result` cost.

    Those whose verdict is INFRA cost as much, but are left out. An empty one costs one token, so
    that there is an end.
    """
    pool: list[_Sample] = []
    spent = tried = 0
    while True:
        # Ask for as many as are sure to be needed: no rollout is longer than the budget.
        left = result.usage.generated - spent
        count = max(1, left // config.budget_tokens)
        requests = [
            SampleRequest(
                (Message("user", question),),
                max_tokens=config.budget_tokens,
                seed=stream_seed(seed, "vote", index, tried + k),
                temperature=config.temperature,
                top_p=config.top_p,
                priority=index,
            )
            for k in range(count)
        ]
        for completion in await asyncio.gather(*(sampler.sample(r) for r in requests)):
            cost = max(1, completion.num_tokens)
            if tried and spent + cost > result.usage.generated:
                return pool
            spent, tried = spent + cost, tried + 1
            verdict = judged(judge, index, completion)
            if verdict.judgement is Judgement.INFRA:
                continue
            thought = split_thinking(completion.text, completion.started_in_think)
            ended = thought.closed and completion.finish_reason != "length"
            answer = extract_answer(thought.answer) if ended else None
            pool.append(_Sample(answer, verdict.reward, completion.num_tokens))


def judged(judge: Judge, index: int, reply: Completion | Candidate) -> Verdict:
    """Return the verdict on a reply, which is wrong when its budget cut it."""
    return CUT if reply.finish_reason == "length" else judge(index, reply.text)


def _tally(pairs: Sequence[tuple[Result, list[_Sample]]], judge: Judge) -> Comparison:
    single, vote, mean, chosen = [], [], [], []
    kept: list[tuple[Result, list[_Sample]]] = []
    for index, (result, pool) in enumerate(pairs):
        final = [judged(judge, index, c) for c in result.rounds[-1].survivors]
        answer = judged(judge, index, result.chosen) if result.chosen else wrong("no answer")
        if not pool or any(v.judgement is Judgement.INFRA for v in (*final, answer)):
            continue
        kept.append((result, pool))
        single.append(sum(s.reward for s in pool) / len(pool))
        winner = majority([s.answer for s in pool], [s.num_tokens for s in pool])
        vote.append(max((s.reward for s in pool if s.answer == winner), default=0.0))
        mean.append(sum(v.reward for v in final) / max(1, len(final)))
        chosen.append(answer.reward)
    count = len(kept)
    return Comparison(
        single=score_of(single),
        majority=score_of(vote),
        mrsa_mean=score_of(mean),
        mrsa_vote=score_of(chosen),
        single_tokens=sum(s.num_tokens for _, p in kept for s in p)
        / max(1, sum(len(p) for _, p in kept)),
        majority_rollouts=sum(len(p) for _, p in kept) / max(1, count),
        majority_tokens=sum(s.num_tokens for _, p in kept for s in p) / max(1, count),
        mrsa_tokens=sum(r.usage.generated for r, _ in kept) / max(1, count),
    )
