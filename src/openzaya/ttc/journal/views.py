"""What the journal shows of runs and candidates: plain JSON, computed from its rows alone."""

from collections.abc import Sequence
from typing import Any

from openzaya.text.tails import AGGREGATION_TEMPLATE_SHA256
from openzaya.ttc.journal.candidates import load_candidate
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import UnknownRunError
from openzaya.ttc.journal.prompts import tails_needed, unpack_prompt, unpack_text
from openzaya.ttc.journal.rows import (
    RunRow,
    list_runs,
    load_content,
    load_deltas,
    load_document,
    load_facts,
    load_run,
)
from openzaya.ttc.journal.spec import ENDED
from openzaya.ttc.selection import histogram

View = dict[str, Any]
QUESTION_CHARS = 200
_UNENDED = ("queued", "running", "interrupted")


def summary(database: Database, run_id: str) -> View:
    """Return the RunSummary of a run."""
    row = load_run(database, run_id)
    return _summary(database, row, load_facts(database, run_id))


def summaries(
    database: Database,
    limit: int,
    before: str | None = None,
    state: str | None = None,
    tenant: str | None = None,
) -> list[View]:
    """Return RunSummary dicts, newest first.

    Whether a run that nobody ended is running depends on its owner, so those are looked at singly.
    """
    states: tuple[str, ...] = _UNENDED
    if state is None:
        states = (*_UNENDED, "done", "failed", "cancelled")
    elif state in ENDED - {"interrupted"}:
        states = (state,)
    found: list[View] = []
    while len(found) < limit:
        rows = list_runs(database, limit, before, states, tenant)
        for row in rows:
            if state is None or row.shown_state(database.now_s()) == state:
                found.append(_summary(database, row, None))
        if len(rows) < limit:
            break
        before = rows[-1].id
    return found[:limit]


def _summary(database: Database, row: RunRow, facts: list[View] | None) -> View:
    spec = load_document(database, row.id, "spec")
    outcome = load_document(database, row.id, "outcome")
    usage = outcome.get("usage")
    if usage is None:
        usage = _usage_so_far(load_facts(database, row.id) if facts is None else facts, outcome)
    now_s = database.now_s()
    elapsed_s = outcome.get("elapsed_s")
    if elapsed_s is None:
        elapsed_s = now_s - row.clock_s if row.is_live(now_s) else last_at_s(database, row.id)
    return {
        "id": row.id,
        "created": row.created_s,
        "state": row.shown_state(now_s),
        "model": spec["model"],
        "preset": spec["preset"],
        "strategy": spec["strategy"],
        "question": spec["question"][-1]["content"][:QUESTION_CHARS],
        "answer": outcome.get("answer"),
        "why": outcome.get("why", ""),
        "degraded": outcome.get("degraded", False),
        "stages": spec["config"]["rounds"] + 1,
        "calls": usage.pop("calls"),
        "failed_calls": usage.pop("failed_calls"),
        "usage": usage,
        "preview": outcome.get("preview"),
        "elapsed_s": max(0.0, elapsed_s),
        "error": outcome.get("error", ""),
    }


def _usage_so_far(facts: Sequence[View], outcome: View) -> View:
    by_stage: dict[int, int] = {}
    for view in facts:
        by_stage[view["stage"]] = by_stage.get(view["stage"], 0) + view["num_tokens"]
    preview = outcome.get("preview") or {}
    return {
        "generated": sum(by_stage.values()),
        "generated_by_stage": [by_stage[stage] for stage in sorted(by_stage)],
        "prefill": sum(view["num_prompt_tokens"] for view in facts),
        "cached": cached_tokens(facts),
        "cap": preview.get("decode_cap"),
        "calls": sum(view["attempts"] for view in facts),
        "failed_calls": sum(_failed_calls(view) for view in facts),
    }


def _failed_calls(view: View) -> int:
    return int(view["attempts"] if view["error"] else max(0, view["attempts"] - 1))


def cached_tokens(facts: Sequence[View]) -> int:
    """Return the prompt tokens that servers had computed before, where they tell."""
    return sum(view["cached_tokens"] or 0 for view in facts)


def last_at_s(database: Database, run_id: str) -> float:
    """Return when the last thing happened, in seconds since the start of the run."""
    rows = database.execute("SELECT MAX(at_s) FROM event WHERE run = ?", (run_id,))
    return float(rows[0][0] or 0.0)


def detail(database: Database, run_id: str) -> View:
    """Return the RunDetail of a run."""
    row = load_run(database, run_id)
    facts = load_facts(database, run_id)
    shown = _summary(database, row, facts)
    spec = load_document(database, run_id, "spec")
    outcome = load_document(database, run_id, "outcome")
    is_over = shown["state"] in ENDED
    for view in facts:
        if is_over and view["state"] == "running":
            view["state"] = "cut"
    return {
        "run": shown,
        "question": spec["question"],
        "config": spec["config"],
        "seed": spec["seed"],
        "notes": outcome.get("notes", []),
        "template_sha256": outcome.get("template_sha256", AGGREGATION_TEMPLATE_SHA256),
        "tail_method": outcome.get("tail_method"),
        "stages": _stages(facts, outcome.get("stages", [])),
        "candidates": facts,
        "winner": outcome.get("winner"),
    }


def _stages(facts: Sequence[View], complete: Sequence[View]) -> list[View]:
    known = {entry["stage"]: entry for entry in complete}
    stages = []
    for stage in sorted({view["stage"] for view in facts}):
        mine = [view for view in facts if view["stage"] == stage]
        begun = [view["queued_s"] for view in mine if view["queued_s"] is not None]
        entry = known.get(stage, {})
        stages.append(
            {
                "stage": stage,
                "answers": entry.get("answers") or histogram([view["answer"] for view in mine]),
                "num_tokens": sum(view["num_tokens"] for view in mine),
                "began_s": min(begun, default=None),
                "ended_s": entry.get("ended_s"),
            }
        )
    return stages


def candidate_detail(database: Database, run_id: str, stage: int, slot: int) -> View:
    """Return the CandidateDetail of one candidate; of an unfinished one the text so far."""
    load_run(database, run_id)
    facts = load_facts(database, run_id, f"AND stage = {int(stage)} AND slot = {int(slot)}")
    if not facts:
        raise UnknownRunError(f"run {run_id} has no candidate {stage}/{slot}")
    packed = load_content(database, run_id, stage, slot, "text")
    if packed is not None:
        texts = unpack_text(packed)
    else:
        pieces = load_deltas(database, run_id, stage, slot)
        so_far = "".join(piece["text"] for piece in pieces)
        texts = {"text": so_far, "thinking": "", "answer_text": "", "tail": ""}
    return {**facts[0], "prompt": prompt_of(database, run_id, stage, slot), **texts}


def prompt_of(database: Database, run_id: str, stage: int, slot: int) -> list[View]:
    """Return the messages that a candidate was asked with."""
    packed = load_content(database, run_id, stage, slot, "prompt")
    if packed is None:
        return []
    tails = {}
    for parent in tails_needed(packed):
        where = f"AND stage = {int(stage) - 1} AND slot = {int(parent)}"
        view = load_facts(database, run_id, where)[0]
        tails[parent] = load_candidate(database, run_id, view).tail
    return unpack_prompt(packed, tails)
