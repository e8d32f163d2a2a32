"""Runs as lines of JSON: whole, or as examples of aggregation to train on."""

from collections.abc import AsyncIterator
from typing import Any

from openzaya.ttc.journal.journal import Journal

PAGE = 50


async def export_runs(
    journal: Journal, state: str | None = None, ids: tuple[str, ...] = ()
) -> AsyncIterator[dict[str, Any]]:
    """Go through runs, newest first: a RunDetail each, with the texts of every candidate."""
    async for run_id in _chosen(journal, state, ids):
        detail = await journal.run(run_id)
        yield {**detail, "candidates": await journal.candidates(run_id)}


async def export_aggregation(
    journal: Journal, state: str | None = "done", ids: tuple[str, ...] = ()
) -> AsyncIterator[dict[str, Any]]:
    """Go through the finished candidates that saw tails: an example for SFT or RL each.

    `messages` is THE aggregation prompt, built by `text/tails.py` when the run was, and the reply
    with its reasoning: a record that `openzaya data prepare --loss last` takes. The other fields
    say where it is from; `agrees` tells whether its answer is the run's, to filter by.
    """
    async for run_id in _chosen(journal, state, ids):
        detail = await journal.run(run_id)
        for found in await journal.candidates(run_id):
            if not (found["parents"] and found["state"] == "done" and found["is_finished"]):
                continue
            target = {
                "role": "assistant",
                "content": found["answer_text"],
                "reasoning": found["thinking"],
            }
            yield {
                "key": f"{run_id}/{found['stage']}/{found['slot']}",
                "source": "aggregation",
                "messages": [*found["prompt"], target],
                "num_candidates": len(found["parents"]),
                "answer": found["answer"],
                "agrees": found["answer"] == detail["run"]["answer"],
                "template_sha256": detail["template_sha256"],
                "model": detail["run"]["model"],
            }


async def _chosen(journal: Journal, state: str | None, ids: tuple[str, ...]) -> AsyncIterator[str]:
    for run_id in ids:
        yield run_id
    before: str | None = None
    while not ids and (page := await journal.runs(PAGE, before, state)):
        for shown in page:
            yield shown["id"]
        before = page[-1]["id"]
