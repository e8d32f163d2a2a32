"""Runs as lines of JSON: whole, or as examples of aggregation to train on."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from openzaya.ttc.journal.candidates import View
from openzaya.ttc.journal.errors import UnknownRunError
from openzaya.ttc.journal.journal import Journal

PAGE = 50
OnDamage = Callable[[str], None]
"""Is told of every damaged row."""


def ignore(_damage: str) -> None:
    """Say nothing of damaged rows."""


async def _read(journal: Journal, run_id: str, on_damage: OnDamage) -> tuple[View, list[View]]:
    """Return the RunDetail and every CandidateDetail of a run."""
    detail, candidates = await journal.run(run_id), await journal.candidates(run_id)
    # One row holds several candidates: it is told of once.
    for damage in dict.fromkeys([*detail["damage"], *(c["damage"] for c in candidates)]):
        if damage:
            on_damage(damage)
    return detail, candidates


async def export_runs(
    journal: Journal,
    state: str | None = None,
    ids: tuple[str, ...] = (),
    on_damage: OnDamage = ignore,
) -> AsyncIterator[View]:
    """Go through runs, newest first: a RunDetail each, with the texts of every candidate.

    What damaged rows held is missing; `damage` says so, of the run and of each candidate.
    """
    async for detail, candidates in _chosen(journal, state, ids, on_damage):
        yield {**detail, "candidates": candidates}


async def export_aggregation(
    journal: Journal,
    state: str | None = "done",
    ids: tuple[str, ...] = (),
    on_damage: OnDamage = ignore,
) -> AsyncIterator[View]:
    """Go through the finished candidates that saw tails: an example for SFT or RL each.

    `messages` is THE aggregation prompt, built by `text/tails.py` when the run was, and the reply
    with its reasoning: a record that `openzaya data prepare --loss last` takes. The other fields
    say where it is from; `agrees` tells whether its answer is the run's, to filter by. Candidates
    of which a row is damaged are left out.
    """
    async for detail, candidates in _chosen(journal, state, ids, on_damage):
        for found in candidates:
            if not (found["parents"] and found["state"] == "done" and found["is_finished"]):
                continue
            if found["damage"]:
                continue
            target = {
                "role": "assistant",
                "content": found["answer_text"],
                "reasoning": found["thinking"],
            }
            yield {
                "key": f"{detail['run']['id']}/{found['stage']}/{found['slot']}",
                "source": "aggregation",
                "messages": [*found["prompt"], target],
                "num_candidates": len(found["parents"]),
                "answer": found["answer"],
                "agrees": found["answer"] == detail["run"]["answer"],
                "template_sha256": detail["template_sha256"],
                "model": detail["run"]["model"],
            }


async def _chosen(
    journal: Journal, state: str | None, ids: tuple[str, ...], on_damage: OnDamage
) -> AsyncIterator[tuple[View, list[View]]]:
    for run_id in ids:
        yield await _read(journal, run_id, on_damage)
    before: str | None = None
    while not ids and (page := await journal.runs(PAGE, before, state)):
        for shown in page:
            with suppress(UnknownRunError):  # somebody forgot it just now
                yield await _read(journal, shown["id"], on_damage)
        before = page[-1]["id"]
